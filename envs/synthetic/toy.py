"""Tiny environments whose values are known in closed form, for fast tests."""

import abc

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from envs.adapters.inner import InnerEnv, InnerState
from envs.base import EnvSpec


class ToyEnv(InnerEnv):
    """One dimension, episodes that end by time; subclasses define the rules.

    The simulator's state is the position, a scalar. The observation is `[position]`,
    `(1,)`; actions are `(1,)` in [-1, 1].
    """

    episode_steps: int

    def __init__(self, *, name: str, action_repeat: int):
        """Args: canonical name; control steps per decision, a divisor of the episode.

        Raises:
            ValueError: `action_repeat` does not divide the episode.
        """
        self.spec = EnvSpec(
            name=name,
            obs_shape=(1,),
            action_dim=1,
            action_repeat=action_repeat,
            episode_steps=self.episode_steps,
            control_timestep=1.0,
        )

    @abc.abstractmethod
    def initial(self, key: Key[Array, ""]) -> Float[Array, ""]:
        """Draws the position in which an episode starts."""

    @abc.abstractmethod
    def move(
        self, position: Float[Array, ""], action: Float[Array, ""]
    ) -> Float[Array, ""]:
        """The position one control step later."""

    @abc.abstractmethod
    def value(self, position: Float[Array, ""]) -> Float[Array, ""]:
        """The reward of a control step that ended in `position`."""

    def initial_inner(self, key: Key[Array, ""]) -> Float[Array, ""]:
        return self.initial(key)

    def control_step(
        self, inner: Float[Array, ""], action: Float[Array, " action"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        position = self.move(inner, action[0])
        return position, self.value(position)

    def observe(self, state: InnerState) -> Float[Array, " obs"]:
        return state.inner[None]

    def reward(self, state: InnerState) -> Float[Array, ""]:
        return self.value(state.inner)


class Constant(ToyEnv):
    """Reward 1 in every control step, whatever the action.

    With discount γ per decision and repeat r, a state that has k decisions left is
    worth r (1 - γ^k) / (1 - γ). The observation is the constant 0.
    """

    episode_steps = 20

    def initial(self, key: Key[Array, ""]) -> Float[Array, ""]:
        return jnp.zeros(())

    def move(
        self, position: Float[Array, ""], action: Float[Array, ""]
    ) -> Float[Array, ""]:
        return position

    def value(self, position: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.ones_like(position)


class Target(ToyEnv):
    """A point on a line that must go to 0 and stay there.

    It starts uniformly in [-1, 1] and moves by `STEP` · action in a control step; the
    reward is 1 - |position|. The best action is `optimal_action`, and `optimal_return`
    is the return it earns.
    """

    episode_steps = 40
    STEP = 0.1

    def initial(self, key: Key[Array, ""]) -> Float[Array, ""]:
        return jax.random.uniform(key, (), minval=-1.0, maxval=1.0)

    def move(
        self, position: Float[Array, ""], action: Float[Array, ""]
    ) -> Float[Array, ""]:
        return position + self.STEP * action

    def value(self, position: Float[Array, ""]) -> Float[Array, ""]:
        return 1 - jnp.abs(position)

    def optimal_action(self, obs: Float[Array, " obs"]) -> Float[Array, " action"]:
        """The action of greatest return: move to 0 as fast as possible, then rest.

        With an action repeat it is slightly suboptimal: the last decision before 0
        spreads its motion over all its control steps; overshooting could earn more.
        """
        return jnp.clip(-obs / (self.STEP * self.spec.action_repeat), -1.0, 1.0)

    def optimal_return(self, start: Float[Array, ""]) -> Float[Array, ""]:
        """The undiscounted return of an episode from `start`, at action repeat 1.

        That is Σ_t 1 - max(0, |start| - t·STEP) over the control steps t = 1, 2, ….
        """
        t = jnp.arange(1, self.episode_steps + 1)
        return jnp.sum(1 - jnp.maximum(0.0, jnp.abs(start) - t * self.STEP))


TOYS = {"toy-constant": Constant, "toy-target": Target}
