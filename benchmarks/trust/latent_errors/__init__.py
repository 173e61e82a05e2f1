"""What errors of the latent state do, as the Jacobian-regularization paper has it."""
