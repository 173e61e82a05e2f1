"""One step of experience, or a trajectory: one type from the replay to the losses."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Num


class Transition(NamedTuple):
    """A step of experience of every environment, or trajectories of such steps.

    The leading axes are `[envs]` for one step, `[capacity, envs]` in the replay buffer
    and `[time, batch]` in a batch of trajectories. Step t holds the observation o_t,
    the action a_{t−1} taken *before* it, and the reward received with it (the sum over
    the repeated control steps).

    Three fields are the replay buffer's own, and None in a batch: `is_corrupt`: the
    simulation diverged (NaN or Inf). `deter`, `stoch`: the latent state after o_t as
    last computed, h in bfloat16 and z as `core.latents` packs it: the class index of
    each categorical, or the numbers in bfloat16.

    Only a batch has the last two. `seen`: observations for the encoder instead of
    `obs`, such as augmented ones; `obs` remains the decoder's target. `errors`: added
    to every z after it is drawn (`core.latent_error`).
    """

    obs: Num[Array, "..."]
    action: Float[Array, "*steps action"]
    reward: Float[Array, "*steps"]
    is_first: Bool[Array, "*steps"]
    is_last: Bool[Array, "*steps"]
    is_terminal: Bool[Array, "*steps"]
    is_corrupt: Bool[Array, "*steps"] | None = None
    deter: Float[Array, "*steps deter"] | None = None
    stoch: Num[Array, "*steps K"] | None = None
    seen: Num[Array, "..."] | None = None
    errors: Float[Array, "*steps K C"] | None = None
