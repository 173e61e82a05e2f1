"""Return-error bounds beside the errors they bound."""
