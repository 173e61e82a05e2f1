"""The environment interface: pure `reset` and `step` functions of one environment.

Episodes follow dm_env: the timestep with `is_last` holds the final observation, and the
next `step` ignores its action and returns the first timestep of a new episode. Batch
environments with `jax.vmap`, or with `envs.vector.VectorEnv`, which computes resets
only in steps in which an episode ends.
"""

import abc
import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num, PyTree

from envs import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """Static facts about an environment.

    Attributes:
        name: canonical name, as listed in `envs.TASKS` or `envs.TOYS`.
        obs_shape: shape of one observation: `(size,)`, or `(height, width, 3)` for
            images, height and width multiples of 16.
        obs_dtype: name of the observation's dtype: "float32", or "uint8" for images.
        obs_entries: name and size of each quantity in a vector observation, in order;
            empty if the vector is a single quantity.
        action_dim: number of entries of one action.
        action_low: lower bound of every action entry; actions are clipped to it.
        action_high: upper bound of every action entry; actions are clipped to it.
        action_repeat: control steps per decision (per call of `step`).
        episode_steps: control steps per episode.
        control_timestep: simulated seconds per control step.

    Raises:
        ValueError: an attribute has a wrong type or is out of range.
    """

    name: str
    obs_shape: tuple[int, ...]
    obs_dtype: str = "float32"
    obs_entries: tuple[tuple[str, int], ...] = ()
    action_dim: int
    action_low: float = -1.0
    action_high: float = 1.0
    action_repeat: int
    episode_steps: int
    control_timestep: float

    def __post_init__(self) -> None:
        checks.label("name", self.name)
        shape = tuple(checks.length("obs_shape", n) for n in self.obs_shape)
        what = f"obs_shape={self.obs_shape} of dtype {self.obs_dtype!r}"
        checks.check_observation(what, shape, self.obs_dtype)
        if self.obs_entries and shape != (sum(size for _, size in self.obs_entries),):
            raise ValueError(
                f"obs_entries={self.obs_entries}: the sizes must add up to the vector "
                f"of obs_shape={shape}"
            )
        repeat, steps = checks.episode(self.action_repeat, self.episode_steps)
        low, high = checks.limits(self.action_low, self.action_high)
        plain = {
            "obs_shape": shape,
            "action_dim": checks.whole("action_dim", self.action_dim),
            "action_low": low,
            "action_high": high,
            "action_repeat": repeat,
            "episode_steps": steps,
            "control_timestep": checks.positive(
                "control_timestep", self.control_timestep
            ),
        }
        for field, value in plain.items():
            object.__setattr__(self, field, value)

    @property
    def is_image(self) -> bool:
        """Whether observations are images: uint8, `(height, width, 3)`."""
        return self.obs_dtype == "uint8"

    @property
    def episode_decisions(self) -> int:
        """Calls of `step` from the first timestep of an episode to its last."""
        return self.episode_steps // self.action_repeat


class Timestep(eqx.Module):
    """What `reset` and `step` return, for one environment or a batch.

    Attributes:
        obs: observation after the step, `(*batch, *spec.obs_shape)`.
        reward: sum over the control steps of this decision; 0 if `is_first`.
        is_first: the timestep begins an episode; its action was ignored.
        is_last: the timestep ends an episode; the next `step` begins another.
        is_terminal: the episode reached a terminal state, so its return must not be
            bootstrapped. Never true for a time limit.
        is_corrupt: the simulation diverged: the step (or the reset) gave an
            observation, a reward or a state that is NaN or Inf. The timestep ends its
            episode and must not be trained on. Its own values are finite: the
            observation is the previous one if the state diverged, entries that
            `observe` made non-finite are 0, and the reward is 0.
    """

    obs: Num[Array, "..."]
    reward: Float[Array, "*batch"]
    is_first: Bool[Array, "*batch"]
    is_last: Bool[Array, "*batch"]
    is_terminal: Bool[Array, "*batch"]
    is_corrupt: Bool[Array, "*batch"]

    @property
    def final_obs(self) -> Array:
        """The final observation of the episode where `is_last`.

        It is `obs` itself: the reset comes one step later and does not overwrite it.
        """
        return self.obs


class State(eqx.Module):
    """Base of all environment states; environments add their own fields.

    Environments take and return a single state; `jax.vmap` adds the `*batch` axes.

    Attributes:
        key: PRNG key from which the next episode is drawn.
        step_count: control steps since the episode began.
        needs_reset: the last timestep was `is_last`; the next step begins an episode.
        corrupt_count: corrupt timesteps since `Env.reset`, over all episodes.
    """

    key: eqx.AbstractVar[Key[Array, "*batch"]]
    step_count: eqx.AbstractVar[Int[Array, "*batch"]]
    needs_reset: eqx.AbstractVar[Bool[Array, "*batch"]]
    corrupt_count: eqx.AbstractVar[Int[Array, "*batch"]]


class Env[S: State](abc.ABC):
    """One environment as pure functions over its state `S`.

    Hashable by identity, so it can be closed over or passed to `jax.jit` as a static
    argument. Create and use it under the same `jax.enable_x64` setting: it computes in
    float64 then, otherwise in float32. Observations and rewards in a `Timestep` are
    always float32, images uint8.
    """

    spec: EnvSpec

    @property
    def unrendered(self) -> "Env[S]":
        """An environment with the same states, whose observations cost little.

        Its timesteps are those of this environment but for `obs`, which `observe` of
        this one gives: a batch then observes once per decision, not in each branch of
        its program. The environment itself where no observation is rendered.
        """
        return self

    @abc.abstractmethod
    def reset(self, key: Key[Array, ""]) -> tuple[S, Timestep]:
        """Start the first episode; all later randomness derives from `key`."""

    @abc.abstractmethod
    def restart(self, state: S) -> tuple[S, Timestep]:
        """Start a new episode with the state's key.

        Physics parameters and `corrupt_count` are kept.
        """

    @abc.abstractmethod
    def advance(self, state: S, action: Num[Array, " action"]) -> tuple[S, Timestep]:
        """One decision, without the automatic reset."""

    @abc.abstractmethod
    def observe(self, state: S) -> Num[Array, "*obs"]:
        """The observation of a state, in the environment's own precision."""

    @abc.abstractmethod
    def reward(self, state: S) -> Float[Array, ""]:
        """The reward of one control step that leads to this state."""

    def step(self, state: S, action: Num[Array, " action"]) -> tuple[S, Timestep]:
        """One decision, or the first timestep of a new episode after `is_last`.

        Args:
            state: the state that `reset` or the previous `step` returned.
            action: `(action_dim,)`, clipped to [action_low, action_high].

        Returns:
            The next state and its timestep.

        Raises:
            ValueError: the action's shape is not `(action_dim,)`.
        """
        return select(
            state.needs_reset, self.restart(state), self.advance(state, action)
        )

    def _clipped(self, action: Array) -> Float[Array, " action"]:
        if action.shape != (self.spec.action_dim,):
            raise ValueError(
                f"action has shape {action.shape}, but {self.spec.name} needs "
                f"({self.spec.action_dim},): pass one environment's action, and "
                "jax.vmap over a batch"
            )
        return jnp.clip(
            jnp.asarray(action, float), self.spec.action_low, self.spec.action_high
        )

    def _end_decision(
        self,
        state: S,
        *,
        reward: Float[Array, ""],
        corrupt: Bool[Array, ""],
        terminal: Bool[Array, ""] | None = None,
    ) -> tuple[S, Timestep]:
        """Count the decision that led to `state`, and make its timestep."""
        # A corrupt state says nothing about the end of the episode.
        no = jnp.asarray(False)
        is_terminal = no if terminal is None else terminal & ~corrupt
        # Counted before `observe`: the observation may include the time.
        step_count = state.step_count + self.spec.action_repeat
        state = dataclasses.replace(state, step_count=step_count)
        timestep = Timestep(
            obs=timestep_obs(self.observe(state)),
            reward=jnp.where(corrupt, 0.0, reward).astype(jnp.float32),
            is_first=no,
            is_last=is_terminal | (step_count >= self.spec.episode_steps),
            is_terminal=is_terminal,
            is_corrupt=no,
        )
        return mark_corrupt(state, timestep, corrupt=corrupt)

    def _begin_episode(
        self, state: S, *, corrupt: Bool[Array, ""]
    ) -> tuple[S, Timestep]:
        """The first state of a new episode, with step count 0, and its timestep.

        Args:
            corrupt: the state that was drawn is not finite.
        """
        no = jnp.asarray(False)
        state = dataclasses.replace(state, step_count=jnp.zeros((), jnp.int32))
        timestep = Timestep(
            obs=timestep_obs(self.observe(state)),
            reward=jnp.zeros((), jnp.float32),
            is_first=jnp.asarray(True),
            is_last=no,
            is_terminal=no,
            is_corrupt=no,
        )
        return mark_corrupt(state, timestep, corrupt=corrupt)


def mark_corrupt[S: State](
    state: S, timestep: Timestep, *, corrupt: Bool[Array, "*batch"] | None = None
) -> tuple[S, Timestep]:
    """Mark timesteps with NaN or Inf as corrupt: the one check that all results pass.

    A timestep that is not finite, or known to be `corrupt`, becomes a corrupt one (see
    `Timestep`). It ends its episode, even if it is the first: the next step draws a new
    episode, which may be corrupt again, so there is no loop of resets. All other
    timesteps are unchanged, as are timesteps already checked.
    """
    sound = jnp.isfinite(timestep.reward) & finite(
        timestep.obs, batch=timestep.reward.ndim
    )
    found = ~sound if corrupt is None else ~sound | corrupt
    is_corrupt = timestep.is_corrupt | found
    is_last = timestep.is_last | is_corrupt
    obs = timestep.obs
    if jnp.issubdtype(obs.dtype, jnp.floating):
        obs = jnp.where(jnp.isfinite(obs), obs, 0.0)
    state = dataclasses.replace(
        state,
        needs_reset=is_last,
        corrupt_count=state.corrupt_count + (found & ~timestep.is_corrupt),
    )
    return state, dataclasses.replace(
        timestep,
        obs=obs,
        reward=jnp.where(is_corrupt, 0.0, timestep.reward),
        is_last=is_last,
        is_terminal=timestep.is_terminal & ~is_corrupt,
        is_corrupt=is_corrupt,
    )


def finite(tree: PyTree, *, batch: int = 0) -> Bool[Array, "*batch"]:
    """Whether all values of a pytree are finite, over all but `batch` leading axes."""
    found = [
        jnp.all(jnp.isfinite(x), axis=range(batch, x.ndim))
        for x in jax.tree.leaves(tree)
        if jnp.issubdtype(x.dtype, jnp.inexact)
    ]
    return functools.reduce(jnp.logical_and, found, jnp.asarray(True))


def select[T: PyTree](pred: Bool[Array, "..."], on_true: T, on_false: T) -> T:
    """`jnp.where` for pytrees; `pred` has the leading axes of every leaf."""

    def pick(a, b):
        return jnp.where(jnp.expand_dims(pred, range(pred.ndim, a.ndim)), a, b)

    return jax.tree.map(pick, on_true, on_false)


def timestep_obs(obs: Num[Array, "*obs"]) -> Num[Array, "*obs"]:
    """An observation in the dtype of a `Timestep`: float32, or uint8 for images."""
    return obs if obs.dtype == jnp.uint8 else obs.astype(jnp.float32)
