"""What the state-space model carries from step to step and finds on its way."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class State(NamedTuple):
    """Latent state: `deter` is h, `stoch` is z, K one-hot rows of C classes."""

    deter: Float[Array, "*batch deter"]
    stoch: Float[Array, "*batch rows classes"]

    @property
    def features(self) -> Float[Array, "*batch features"]:
        """h and the flattened z side by side: the input of every head."""
        flat = self.stoch.reshape(*self.stoch.shape[:-2], -1)
        return jnp.concatenate([self.deter, flat], axis=-1)

    def masked(self, keep: Bool[Array, "*batch"]) -> "State":
        """Zero wherever `keep` is false."""
        return State(
            jnp.where(keep[..., None], self.deter, 0.0),
            jnp.where(keep[..., None, None], self.stoch, 0.0),
        )


class Observed(NamedTuple):
    """What `RSSM.observe` found along a sequence; all arrays start with time.

    `preactivation` is the output of the posterior's first linear layer: the Jacobian
    penalty starts from it, so that it need not be computed twice.
    """

    states: State
    posterior: Float[Array, "time *batch rows classes"]
    preactivation: Float[Array, "time *batch hidden"]


def check_sequence(
    state: State,
    embeds: Array,
    actions: Array,
    is_first: Array,
    sizes: tuple[int, int, int],
) -> None:
    """Whether a state and a sequence fit together, and a model with these sizes of h,
    e and a.

    Raises:
        ValueError: they do not, or `is_first` is not boolean.
    """
    deter, embed, action = sizes
    axes = is_first.shape
    for name, x, size in (("embeds", embeds, embed), ("actions", actions, action)):
        if x.shape != (*axes, size):
            raise ValueError(
                f"{name} has shape {x.shape}, but is_first has {axes}, time first: "
                f"it must be {(*axes, size)}"
            )
    if state.deter.shape != (*axes[1:], deter):
        batch = ", ".join(map(str, axes[1:]))
        raise ValueError(
            f"state is for a batch of shape {state.deter.shape[:-1]}, but is_first "
            f"has shape {axes}, time first: use initial({batch})"
        )
    if is_first.dtype != jnp.bool_:
        raise ValueError(f"is_first has dtype {is_first.dtype}: it must be bool")


def check_uniforms(state: State, uniforms: Array) -> None:
    """Whether there is a random number for each categorical of each imagined step.

    Raises:
        ValueError: there is not.
    """
    wanted = state.stoch.shape[:-1]
    if uniforms.shape[1:] != wanted:
        raise ValueError(
            f"uniforms has shape {uniforms.shape}: states of shape "
            f"{state.stoch.shape} need (time, {', '.join(map(str, wanted))})"
        )
