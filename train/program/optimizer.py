"""DreamerV3's optimizer: clip by parameter norm → scale by RMS → momentum → step."""

from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import optax

from core.networks.layers import Linear
from train.config import OptimizerConfig


def adaptive_clip(ratio: float, floor: float = 1e-3) -> optax.GradientTransformation:
    """Scale each gradient so that its norm is at most ratio·max(floor, ‖parameter‖).

    Norms are of whole arrays, or of the `parts` of a `Linear` that has some; optax's
    `adaptive_grad_clip` takes them unit by unit.
    """

    def clip(gradient, parameter):
        bound = ratio * jnp.maximum(floor, jnp.linalg.norm(parameter.ravel()))
        return gradient / jnp.maximum(1.0, jnp.linalg.norm(gradient.ravel()) / bound)

    def clip_parts(gradient, parameter, parts):
        split = lambda x: jnp.split(x, list(accumulate(parts))[:-1], axis=-1)
        return jnp.concatenate(
            [
                clip(*pair)
                for pair in zip(split(gradient), split(parameter), strict=True)
            ],
            axis=-1,
        )

    def clip_node(gradient, parameter):
        if not in_parts(gradient):
            return clip(gradient, parameter)
        return jax.tree.map(
            lambda g, p: clip_parts(g, p, gradient.parts), gradient, parameter
        )

    def update(updates, state, params=None):
        assert params is not None, "adaptive_clip needs the parameters"
        return jax.tree.map(clip_node, updates, params, is_leaf=in_parts), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def in_parts(node: Any) -> bool:
    """Whether this is a layer whose groups of outputs are clipped separately."""
    return isinstance(node, Linear) and bool(node.parts)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """LaProp: momentum is taken of the gradients after RMS scaling."""
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
