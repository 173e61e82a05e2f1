"""DreamerV3's optimizer: clip by parameter norm → scale by RMS → momentum → step."""

import jax
import jax.numpy as jnp
import optax

from train.config import OptimizerConfig


def adaptive_clip(ratio: float, floor: float = 1e-3) -> optax.GradientTransformation:
    """Scale each gradient so that its norm is at most ratio·max(floor, ‖parameter‖).

    Norms are of whole arrays; optax's `adaptive_grad_clip` takes them unit by unit.
    """

    def clip(gradient, parameter):
        bound = ratio * jnp.maximum(floor, jnp.linalg.norm(parameter.ravel()))
        return gradient / jnp.maximum(1.0, jnp.linalg.norm(gradient.ravel()) / bound)

    def update(updates, state, params=None):
        assert params is not None, "adaptive_clip needs the parameters"
        return jax.tree.map(clip, updates, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The LaProp order: the momentum averages what the RMS scaling leaves."""
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup)
    rate = warmup if config.warmup else config.learning_rate
    return optax.chain(
        adaptive_clip(config.agc, config.agc_floor) if config.agc else optax.identity(),
        optax.scale_by_rms(
            config.beta2, config.eps, eps_in_sqrt=False, bias_correction=True
        ),
        optax.ema(config.beta1, debias=True),
        optax.scale_by_learning_rate(rate),
    )
