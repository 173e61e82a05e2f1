"""What an environment is: a pure `reset` and `step` over one environment.

Episodes follow dm_env: the row with `is_last` holds the true final observation, and
the next `step` ignores its action and returns the first row of a freshly drawn
episode. The caller adds a batch axis with `jax.vmap`, or with `envs.vector.VectorEnv`
where resets should cost nothing in the steps that need none.
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
        obs_entries: name and size of each part of a vector observation that is a
            quantity of its own, in order; empty where the vector is one.
        action_dim: number of entries of one action.
        action_low: lower bound of every action entry; actions are clipped to it.
        action_high: upper bound of every action entry; actions are clipped to it.
        action_repeat: control steps per decision (per call of `step`).
        episode_steps: control steps per episode.
        control_timestep: simulated seconds per control step.

    Raises:
        ValueError: an attribute is none of these, or out of range.
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
        """Calls of `step` from the first row of an episode to its last row."""
        return self.episode_steps // self.action_repeat


class Timestep(eqx.Module):
    """One row of experience, as `reset` and `step` return it, or a batch of rows.

    Attributes:
        obs: observation after the step, `(*batch, *spec.obs_shape)`.
        reward: reward summed over the control steps of this decision; 0 on first rows.
        is_first: the row begins an episode; its action was ignored.
        is_last: the row ends an episode; the next `step` returns a first row.
        is_terminal: the episode ended for good, so nothing may be bootstrapped from
            its end. Never true where episodes end by time.
        is_corrupt: the step, or on first rows the reset, gave an observation, a reward
            or a state that is not finite (NaN or Inf). The row ends its episode
            and must not be learned from. Its own numbers are finite: its observation is
            the previous one where the simulation failed, 0 in the entries that
            `observe` made non-finite, and its reward is 0.
    """

    obs: Num[Array, "..."]
    reward: Float[Array, "*batch"]
    is_first: Bool[Array, "*batch"]
    is_last: Bool[Array, "*batch"]
    is_terminal: Bool[Array, "*batch"]
    is_corrupt: Bool[Array, "*batch"]

    @property
    def final_obs(self) -> Array:
        """The observation to bootstrap from where `is_last`.

        It is `obs` itself: the reset comes one row later, so the obs of an is_last
        row is the final one of its episode and has not been overwritten.
        """
        return self.obs


class State(eqx.Module):
    """What every environment's state holds; environments add their own fields.

    Environments take and return one state; the axes of `*batch` come from `jax.vmap`.

    Attributes:
        key: PRNG key from which the next episode is drawn.
        step_count: control steps since the first row of the episode.
        needs_reset: the last row was `is_last`, so the next step begins an episode.
        corrupt_count: corrupt rows since `Env.reset`, over all episodes.
    """

    key: eqx.AbstractVar[Key[Array, "*batch"]]
    step_count: eqx.AbstractVar[Int[Array, "*batch"]]
    needs_reset: eqx.AbstractVar[Bool[Array, "*batch"]]
    corrupt_count: eqx.AbstractVar[Int[Array, "*batch"]]


class Env[S: State](abc.ABC):
    """One environment as pure functions over its state `S`.

    Hashable by identity, so it can be closed over or passed to `jax.jit` as a static
    argument. Make and use one under the same `jax.enable_x64` setting: it computes in
    float64 there, in float32 by default. The observations and rewards in a `Timestep`
    are float32 in either case, but images stay uint8.
    """

    spec: EnvSpec

    @abc.abstractmethod
    def reset(self, key: Key[Array, ""]) -> tuple[S, Timestep]:
        """Starts the first episode; everything random later derives from `key`."""

    @abc.abstractmethod
    def restart(self, state: S) -> tuple[S, Timestep]:
        """Draws a new episode from the state's own key.

        What outlives an episode (physics parameters, `corrupt_count`) is kept.
        """

    @abc.abstractmethod
    def advance(self, state: S, action: Num[Array, " action"]) -> tuple[S, Timestep]:
        """One decision inside an episode, without the automatic reset."""

    @abc.abstractmethod
    def observe(self, state: S) -> Num[Array, "*obs"]:
        """The observation of a state, in the environment's own precision."""

    @abc.abstractmethod
    def reward(self, state: S) -> Float[Array, ""]:
        """The reward of one control step that ended in this state."""

    def step(self, state: S, action: Num[Array, " action"]) -> tuple[S, Timestep]:
        """One decision, or the first row of a new episode after an `is_last` row.

        Args:
            state: the state that `reset` or the previous `step` returned.
            action: `(action_dim,)`, clipped to [action_low, action_high].

        Returns:
            The next state, and the row the decision led to.

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
        """Counts the decision that led to `state`'s coordinates, and makes its row."""
        # What a corrupt step led to says nothing about the end of an episode.
        no = jnp.asarray(False)
        is_terminal = no if terminal is None else terminal & ~corrupt
        # Counted first: the observation may show the time, which is that of the end.
        step_count = state.step_count + self.spec.action_repeat
        state = dataclasses.replace(state, step_count=step_count)
        row = Timestep(
            obs=row_obs(self.observe(state)),
            reward=jnp.where(corrupt, 0.0, reward).astype(jnp.float32),
            is_first=no,
            is_last=is_terminal | (step_count >= self.spec.episode_steps),
            is_terminal=is_terminal,
            is_corrupt=no,
        )
        return leaving(state, row, corrupt=corrupt)

    def _begin_episode(
        self, state: S, *, corrupt: Bool[Array, ""]
    ) -> tuple[S, Timestep]:
        """A new episode's first state, its steps counted from 0, and its row.

        Args:
            corrupt: the state that was drawn is not finite.
        """
        no = jnp.asarray(False)
        state = dataclasses.replace(state, step_count=jnp.zeros((), jnp.int32))
        row = Timestep(
            obs=row_obs(self.observe(state)),
            reward=jnp.zeros((), jnp.float32),
            is_first=jnp.asarray(True),
            is_last=no,
            is_terminal=no,
            is_corrupt=no,
        )
        return leaving(state, row, corrupt=corrupt)


def leaving[S: State](
    state: S, row: Timestep, *, corrupt: Bool[Array, "*batch"] | None = None
) -> tuple[S, Timestep]:
    """A state and its row as they leave an environment: the one check for NaN and Inf.

    A row that is not finite, or that is known to be `corrupt`, becomes a corrupt row,
    see `Timestep`. It ends its episode, also if it began it: the next step draws a new
    one, and where that is no better it is a corrupt row again, so nothing is repeated
    without end. All others are left as they are, and so are rows that were here before.
    """
    sound = jnp.isfinite(row.reward) & finite(row.obs, batch=row.reward.ndim)
    found = ~sound if corrupt is None else ~sound | corrupt
    is_corrupt = row.is_corrupt | found
    is_last = row.is_last | is_corrupt
    obs = row.obs
    if jnp.issubdtype(obs.dtype, jnp.floating):
        obs = jnp.where(jnp.isfinite(obs), obs, 0.0)
    state = dataclasses.replace(
        state,
        needs_reset=is_last,
        corrupt_count=state.corrupt_count + (found & ~row.is_corrupt),
    )
    return state, dataclasses.replace(
        row,
        obs=obs,
        reward=jnp.where(is_corrupt, 0.0, row.reward),
        is_last=is_last,
        is_terminal=row.is_terminal & ~is_corrupt,
        is_corrupt=is_corrupt,
    )


def finite(tree: PyTree, *, batch: int = 0) -> Bool[Array, "*batch"]:
    """Whether all numbers of a pytree are finite, for each of `batch` leading axes."""
    found = [
        jnp.all(jnp.isfinite(x), axis=range(batch, x.ndim))
        for x in jax.tree.leaves(tree)
        if jnp.issubdtype(x.dtype, jnp.inexact)
    ]
    return functools.reduce(jnp.logical_and, found, jnp.asarray(True))


def select[T: PyTree](pred: Bool[Array, "..."], on_true: T, on_false: T) -> T:
    """`jnp.where` leaf by leaf; `pred` spans the leading axes of every leaf."""

    def pick(a, b):
        return jnp.where(jnp.expand_dims(pred, range(pred.ndim, a.ndim)), a, b)

    return jax.tree.map(pick, on_true, on_false)


def row_obs(obs: Num[Array, "*obs"]) -> Num[Array, "*obs"]:
    """An observation as a `Timestep` holds it: float32, or an image's uint8."""
    return obs if obs.dtype == jnp.uint8 else obs.astype(jnp.float32)
