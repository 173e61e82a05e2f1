"""The synthetic teacher environment of "On Training in Imagination" (Appendix C.1).

Dynamics and reward are frozen random networks with one hidden ReLU layer,

    s' = tanh(W₂ relu(W₁ [s; a])),    r = (v relu(V₁ [s; a])) / √hidden,

with standard normal weights and no biases. Studies use the functions;
`envs.make("teacher")` is the environment, to train an agent.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from envs.synthetic.map_env import MapEnv

STATE_DIM = 12
ACTION_DIM = 4
HIDDEN = 64
EPISODE_STEPS = 500

POLICY_NOISE = 0.3
"""Standard deviation of the reference policy's exploration, before its tanh."""

NOISE_MEMORY = 0.9
"""Correlation of that exploration from step to step."""


class Teacher(NamedTuple):
    """The frozen weights, each (in, out), and the gains of the reference policy."""

    dynamics_in: Float[Array, "state+action hidden"]
    dynamics_out: Float[Array, "hidden state"]
    reward_in: Float[Array, "state+action hidden"]
    reward_out: Float[Array, " hidden"]
    policy: Float[Array, "state action"]


class Transitions(NamedTuple):
    """Samples (s, a, s', r) of a teacher, with any leading axes."""

    states: Float[Array, "*batch state"]
    actions: Float[Array, "*batch action"]
    next_states: Float[Array, "*batch state"]
    rewards: Float[Array, "*batch"]


def make_teacher(
    key: Key[Array, ""],
    *,
    state_dim: int = STATE_DIM,
    action_dim: int = ACTION_DIM,
    hidden: int = HIDDEN,
) -> Teacher:
    """Draws a teacher; the same key gives the same one in any precision."""
    keys = jax.random.split(key, 5)
    inputs = state_dim + action_dim
    shapes = ((inputs, hidden), (hidden, state_dim), (inputs, hidden), (hidden,))
    # Always drawn in float32, so that a float64 study has the same teacher.
    weights = [
        jax.random.normal(k, shape, jnp.float32).astype(float)
        for k, shape in zip(keys, (*shapes, (state_dim, action_dim)), strict=True)
    ]
    first, second, third, fourth, policy = weights
    return Teacher(first, second, third, fourth, policy / state_dim**0.5)


def dynamics(
    teacher: Teacher,
    state: Float[Array, "*batch state"],
    action: Float[Array, "*batch action"],
) -> Float[Array, "*batch state"]:
    """f(s, a), in (-1, 1)."""
    inputs = jnp.concatenate([state, action], axis=-1)
    return jnp.tanh(jax.nn.relu(inputs @ teacher.dynamics_in) @ teacher.dynamics_out)


def reward(
    teacher: Teacher,
    state: Float[Array, "*batch state"],
    action: Float[Array, "*batch action"],
) -> Float[Array, "*batch"]:
    """r(s, a); its scale does not depend on the width, thanks to the √hidden."""
    inputs = jnp.concatenate([state, action], axis=-1)
    outputs = jax.nn.relu(inputs @ teacher.reward_in) @ teacher.reward_out
    return outputs / teacher.reward_out.size**0.5


def reference_rollout(
    teacher: Teacher, key: Key[Array, ""], *, steps: int = EPISODE_STEPS
) -> Transitions:
    """An episode of the smooth reference policy, `steps` transitions.

    Its actions are tanh(s K + x) with fixed random gains K and a slowly varying x (an
    autoregressive process of `NOISE_MEMORY` and `POLICY_NOISE`): without x the
    deterministic system soon cycles through a few states.
    """
    state_dim, action_dim = teacher.policy.shape
    start_key, noise_key = jax.random.split(key)
    start = jax.random.uniform(start_key, (state_dim,), minval=-1.0)
    noise = POLICY_NOISE * jax.random.normal(noise_key, (steps, action_dim))
    fresh = (1 - NOISE_MEMORY**2) ** 0.5

    def step(carry, draw):
        state, slow = carry
        slow = NOISE_MEMORY * slow + fresh * draw
        action = jnp.tanh(state @ teacher.policy + slow)
        after = dynamics(teacher, state, action)
        row = Transitions(state, action, after, reward(teacher, state, action))
        return (after, slow), row

    return jax.lax.scan(step, (start, noise[0]), noise)[1]


class TeacherEnv(MapEnv):
    """The teacher of a fixed key; start states are uniform in [-1, 1]^state."""

    episode_steps = EPISODE_STEPS
    SEED = 0

    def __init__(self, *, name: str, action_repeat: int):
        """Args: canonical name; control steps per decision.

        Raises:
            ValueError: `action_repeat` does not divide the 500 steps of an episode.
        """
        super().__init__(
            name=name,
            action_repeat=action_repeat,
            size=STATE_DIM,
            action_dim=ACTION_DIM,
        )
        self.teacher = make_teacher(jax.random.key(self.SEED))

    def initial(self, key: Key[Array, ""]) -> Float[Array, " size"]:
        return jax.random.uniform(key, (STATE_DIM,), minval=-1.0)

    def move(
        self, point: Float[Array, " size"], action: Float[Array, " action"]
    ) -> Float[Array, " size"]:
        return dynamics(self.teacher, point, action)

    def value(
        self, point: Float[Array, " size"], action: Float[Array, " action"]
    ) -> Float[Array, ""]:
        return reward(self.teacher, point, action)
