"""The latent state, the outputs of filtering, and checks of their shapes."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class State(NamedTuple):
    """Latent state: `deter` is h, `stoch` is z or ẑ: K variables of C entries."""

    deter: Float[Array, "*batch deter"]
    stoch: Float[Array, "*batch K C"]

    @property
    def features(self) -> Float[Array, "*batch features"]:
        """h and the flattened z, concatenated: the input of every head."""
        flat = self.stoch.reshape(*self.stoch.shape[:-2], -1)
        return jnp.concatenate([self.deter, flat], axis=-1)

    def masked(self, keep: Bool[Array, "*batch"]) -> "State":
        """Zero wherever `keep` is false."""
        return State(
            jnp.where(keep[..., None], self.deter, 0.0),
            jnp.where(keep[..., None, None], self.stoch, 0.0),
        )

    def plus(self, errors: Float[Array, "*batch K C"] | None) -> "State":
        """With an error added to z (`core.latent_error`); None adds nothing."""
        if errors is None:
            return self
        return State(self.deter, self.stoch + errors)


class Observed(NamedTuple):
    """Outputs of `RSSM.observe` for every step; the first axis is time.

    `posterior` holds the parameters of q(z | h, e), such as logits; `preactivation` is
    the output of its first linear layer, which the Jacobian penalty reuses. `states`
    have the latent error, if there is one; `drawn` is z as it was drawn then, and None
    otherwise.
    """

    states: State
    posterior: Float[Array, "time *batch K P"]
    preactivation: Float[Array, "time *batch hidden"]
    drawn: Float[Array, "time *batch K C"] | None = None

    @property
    def clean(self) -> State:
        """The states without a latent error: what the replay buffer stores."""
        if self.drawn is None:
            return self.states
        return State(self.states.deter, self.drawn)

    def plus(self, errors: Float[Array, "time *batch K C"] | None) -> "Observed":
        """With an error added to every z, where the states have none yet."""
        if errors is None:
            return self
        return self._replace(states=self.states.plus(errors), drawn=self.states.stoch)


def shifted(
    errors: Float[Array, "time *batch K C"] | None,
) -> Float[Array, "time *batch K C"] | None:
    """The error of the state that each step starts from: that of the step before.

    The first step's is zero: its state is given as it is, error included.
    """
    if errors is None:
        return None
    return jnp.concatenate([jnp.zeros_like(errors[:1]), errors[:-1]])


class ObserveInputs(NamedTuple):
    """What a model is given of a sequence to filter it, time first.

    Attributes:
        embeds: encoder outputs e_t.
        actions: the actions taken *before* the observations, a_{t−1}.
        is_first: where an episode begins.
        errors: added to every z after it is drawn (`core.latent_error`).
    """

    embeds: Float[Array, "time *batch embed"]
    actions: Float[Array, "time *batch action"]
    is_first: Bool[Array, "time *batch"]
    errors: Float[Array, "time *batch K C"] | None = None


def check_sequence(
    state: State, inputs: ObserveInputs, sizes: tuple[int, int, int]
) -> None:
    """Check the shapes of a sequence and its first state.

    Args:
        sizes: the model's sizes of h, e and a.

    Raises:
        ValueError: a shape does not match, or `is_first` is not boolean.
    """
    embeds, actions, is_first, errors = inputs
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
    wanted = (*axes, *state.stoch.shape[-2:])
    if errors is not None and errors.shape != wanted:
        raise ValueError(f"errors has shape {errors.shape}: it must be {wanted}")


def check_uniforms(state: State, uniforms: Array) -> None:
    """Check that there is one random number per variable of each imagined step.

    Raises:
        ValueError: `uniforms` has another shape than `[time, *batch, K]`.
    """
    wanted = state.stoch.shape[:-1]
    if uniforms.shape[1:] != wanted:
        raise ValueError(
            f"uniforms has shape {uniforms.shape}: states of shape "
            f"{state.stoch.shape} need (time, {', '.join(map(str, wanted))})"
        )
