"""Linear systems with quadratic rewards, whose returns are known in closed form.

    s' = A s + B a + drift,    r = bonus - zᵀ M z,  z = [s; a],    a = K s

The paper "On Training in Imagination" calls them LQG (Sections 3.1 and 4.2); its
dynamics there are deterministic, as here. Studies use the functions;
`envs.make("lqg")` is the environment, to train an agent.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from envs.synthetic.map_env import MapEnv

Gain = Float[Array, "action state"]
Scalar = float | Float[Array, ""]


class LQG(NamedTuple):
    """A system, or a learned model of one."""

    state_matrix: Float[Array, "state state"]
    action_matrix: Float[Array, "state action"]
    drift: Float[Array, " state"]
    cost: Float[Array, "state+action state+action"]
    bonus: Float[Array, ""]


def make_lqg(
    key: Key[Array, ""],
    *,
    state_dim: int = 3,
    action_dim: int = 2,
    dynamics_norm: Scalar,
) -> LQG:
    """Draws a system with ‖A‖₂ = ‖B‖₂ = `dynamics_norm`, ‖M‖₂ = 1, M positive definite.

    Drift and bonus are zero. The same key gives the same system in any precision.
    """
    a_key, b_key, cost_key = jax.random.split(key, 3)
    size = state_dim + action_dim
    root = _normal(cost_key, (size, size))
    return LQG(
        state_matrix=_scaled(_normal(a_key, (state_dim, state_dim)), dynamics_norm),
        action_matrix=_scaled(_normal(b_key, (state_dim, action_dim)), dynamics_norm),
        drift=jnp.zeros(state_dim),
        cost=_scaled(root @ root.T, 1.0),
        bonus=jnp.zeros(()),
    )


def make_gain(
    key: Key[Array, ""], *, state_dim: int = 3, action_dim: int = 2, norm: Scalar
) -> Gain:
    """Draws a linear policy with ‖K‖₂ = `norm`."""
    return _scaled(_normal(key, (action_dim, state_dim)), norm)


def dynamics(
    system: LQG,
    state: Float[Array, "*batch state"],
    action: Float[Array, "*batch action"],
) -> Float[Array, "*batch state"]:
    """f(s, a)."""
    moved = state @ system.state_matrix.T + action @ system.action_matrix.T
    return moved + jnp.broadcast_to(system.drift, moved.shape)


def reward(
    system: LQG,
    state: Float[Array, "*batch state"],
    action: Float[Array, "*batch action"],
) -> Float[Array, "*batch"]:
    """r(s, a)."""
    z = jnp.concatenate([state, action], axis=-1)
    return system.bonus - jnp.sum((z @ system.cost) * z, axis=-1)


def rollout(
    system: LQG, gain: Gain, start: Float[Array, " state"], *, steps: int
) -> tuple[Float[Array, "steps state"], Float[Array, "steps action"]]:
    """The states and actions of the policy a = K s, from `start`."""

    def step(state, _):
        action = gain @ state
        return dynamics(system, state, action), (state, action)

    return jax.lax.scan(step, start, length=steps)[1]


def discounted_return(
    system: LQG, gain: Gain, start: Float[Array, " state"], *, discount: Scalar
) -> Float[Array, ""]:
    """Σ γ^t r_t of the policy a = K s, in closed form.

    Valid if √γ times the spectral radius of A + B K is below 1. With x = [s; 1] the
    closed loop is x' = F x and the reward xᵀ R x, so the return is
    xᵀ P x with P = R + γ Fᵀ P F, a linear system.
    """
    d = start.size
    one = jnp.ones((1, 1), start.dtype)
    loop = system.state_matrix + system.action_matrix @ gain
    f = jnp.block([[loop, system.drift[:, None]], [jnp.zeros((1, d)), one]])
    z = jnp.concatenate([jnp.eye(d), gain])
    zero = jnp.zeros((d, 1))
    r = jnp.block([[-z.T @ system.cost @ z, zero], [zero.T, system.bonus * one]])
    eye = jnp.eye((d + 1) ** 2)
    p = jnp.linalg.solve(eye - discount * jnp.kron(f.T, f.T), r.ravel())
    x = jnp.concatenate([start, one[0]])
    return x @ p.reshape(d + 1, d + 1) @ x


def optimal_gain(
    system: LQG, *, discount: Scalar, iterations: int = 500
) -> tuple[Gain, Float[Array, "state state"]]:
    """The gain K with the largest discounted return, and P: that return is -sᵀ P s.

    Iterates the Riccati equation from zero. Drift and bonus are ignored.
    """
    d = system.drift.size
    a, b = system.state_matrix, system.action_matrix
    cost = system.cost
    q, cross, r = cost[:d, :d], cost[:d, d:], cost[d:, d:]

    def gain_of(p):
        return -jnp.linalg.solve(r + discount * b.T @ p @ b, mixed(p).T)

    def mixed(p):
        return cross + discount * a.T @ p @ b

    def step(p, _):
        return q + discount * a.T @ p @ a + mixed(p) @ gain_of(p), None

    p, _ = jax.lax.scan(step, jnp.zeros_like(a), length=iterations)
    return gain_of(p), p


class LQGEnv(MapEnv):
    """The system of a fixed key; start states are uniform in [-1, 1]^state.

    Actions are clipped to [-1, 1], which those of `optimal_gain` seldom exceed.
    """

    episode_steps = 200
    SEED = 0
    DYNAMICS_NORM = 0.95

    def __init__(self, *, name: str, action_repeat: int):
        """Args: canonical name; control steps per decision.

        Raises:
            ValueError: `action_repeat` does not divide the 200 steps of an episode.
        """
        self.system = make_lqg(
            jax.random.key(self.SEED), dynamics_norm=self.DYNAMICS_NORM
        )
        state_dim, action_dim = self.system.action_matrix.shape
        super().__init__(
            name=name,
            action_repeat=action_repeat,
            size=state_dim,
            action_dim=action_dim,
        )

    def initial(self, key: Key[Array, ""]) -> Float[Array, " size"]:
        return jax.random.uniform(key, self.spec.obs_shape, minval=-1.0)

    def move(
        self, point: Float[Array, " size"], action: Float[Array, " action"]
    ) -> Float[Array, " size"]:
        return dynamics(self.system, point, action)

    def value(
        self, point: Float[Array, " size"], action: Float[Array, " action"]
    ) -> Float[Array, ""]:
        return reward(self.system, point, action)


def _normal(key: Key[Array, ""], shape: tuple[int, ...]) -> Array:
    # Always drawn in float32, so that a float64 study has the same system.
    return jax.random.normal(key, shape, jnp.float32).astype(float)


def _scaled(matrix: Array, norm: Scalar) -> Array:
    return norm * matrix / jnp.linalg.norm(matrix, ord=2)
