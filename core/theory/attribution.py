"""Which part of a model its return error comes from: an exact decomposition.

For one policy a_t = π(s_t), the true rollout s_0, s_1, ... of H steps, and a model with
dynamics f̂, reward r̂, discount d̂ (γ times the probability to continue) and critic v̂:

    V̂_0(s) = v̂(s),   V̂_k(s) = r̂(s, π(s)) + d̂(s, π(s))·V̂_{k−1}(f̂(s, π(s)))

is the imagined return of k steps, and J_H the true one. With D_t = Π_{i<t} d_i,

    J_H − V̂_H(s_0) =  Σ_t D_t·[r_t − r̂_t]                                    reward
                    + Σ_t D_t·d̂_t·[V̂_{H−t−1}(s_{t+1}) − V̂_{H−t−1}(f̂_t)]      dynamics
                    + Σ_t D_t·[d_t − d̂_t]·V̂_{H−t−1}(s_{t+1})               continuation
                    + D_H·[v(s_H) − v̂(s_H)]                                    value

where r̂_t, d̂_t and f̂_t are the model's at (s_t, a_t). This is an identity: nothing is
assumed of the model, the system or the policy. To first order in the one-step errors,
the dynamics part is Σ_t D_t·d̂_t·∇V̂_{H−t−1}(f̂_t)·(s_{t+1} − f̂_t), its *adjoint* form.

A world model whose states are inferred from observations has no s_t of its own: there
the identity is that of a recorded trajectory, `attribute_recorded`, with the latent
states q_t after each observation in the place of s_t, and rewards and discounts of the
state that a step arrives in, as DreamerV3 has them. With V̂_k(q) the return of k steps
imagined from q, and d̂ at q_{t+1},

    J_H − V̂_H(q_0) =
          Σ_t D_t·[r_{t+1} − r̂(q_{t+1})]                                  reward
        + Σ_t D_t·[r̂(q_{t+1}) + d̂·V̂_{H−t−1}(q_{t+1}) − V̂_{H−t}(q_t)]      dynamics
        + Σ_t D_t·[d_{t+1} − d̂]·V̂_{H−t−1}(q_{t+1})                    continuation
        + D_H·[v(s_H) − v̂(q_H)]                                          value

The dynamics part compares one step imagined from q_t with the latent state inferred
after it: errors of the prior and of the encoder are one there. The identity holds for
any numbers V̂_k(q_t); sampled ones make each dynamics term noisy, and its mean is 0 for
a model that samples from the truth.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

State = Float[Array, " state"]
Action = Float[Array, " action"]
Scalar = Float[Array, ""]


class System(NamedTuple):
    """A deterministic system, or a model of one.

    Attributes:
        dynamics: (s, a) to the next state.
        reward: of (s, a).
        discount: γ times the probability that (s, a) does not end the episode.
        value: the critic's estimate of the return from s.
    """

    dynamics: Callable[[State, Action], State]
    reward: Callable[[State, Action], Scalar]
    discount: Callable[[State, Action], Scalar]
    value: Callable[[State], Scalar]


class Attribution(NamedTuple):
    """The return error J_H − V̂_H(s_0) and its parts, which add up to it.

    Attributes:
        gap: J_H − V̂_H(s_0).
        reward, dynamics, continuation: the contribution of each step.
        value: that of the critic after the last step.
        adjoint: the dynamics part to first order in the one-step errors; None for a
            recorded trajectory.
    """

    gap: Float[Array, "*batch"]
    reward: Float[Array, "steps *batch"]
    dynamics: Float[Array, "steps *batch"]
    continuation: Float[Array, "steps *batch"]
    value: Float[Array, "*batch"]
    adjoint: Float[Array, "steps *batch"] | None = None

    @property
    def parts(self) -> dict[str, Float[Array, "*batch"]]:
        """The four parts, summed over the steps."""
        return {
            "reward": jnp.sum(self.reward, axis=0),
            "dynamics": jnp.sum(self.dynamics, axis=0),
            "continuation": jnp.sum(self.continuation, axis=0),
            "value": self.value,
        }


class Recorded(NamedTuple):
    """What happened in H steps, entry t on arriving in s_{t+1}, and v(s_H).

    Attributes:
        reward: r_{t+1}; of the model, r̂(q_{t+1}).
        discount: d_{t+1}: γ, or 0 where the episode ended; of the model, d̂(q_{t+1}).
        value: the return after the last step; of the model, v̂(q_H).
    """

    reward: Float[Array, "steps *batch"]
    discount: Float[Array, "steps *batch"]
    value: Float[Array, "*batch"]


def attribute_recorded(
    true: Recorded, model: Recorded, imagined: Float[Array, "steps *batch"]
) -> Attribution:
    """Decompose the return error of a model along recorded trajectories.

    Args:
        imagined: entry t is V̂_{H−t}(q_t), the return of all remaining steps imagined
            from the latent state q_t.

    Raises:
        ValueError: the shapes differ, or there is no step.
    """
    shapes = {x.shape for x in (*true[:2], *model[:2], imagined)}
    if len(shapes) > 1 or not imagined.shape[0]:
        raise ValueError(
            f"shapes of rewards, discounts and imagined returns: got {sorted(shapes)}, "
            "but they must be equal, with at least one step"
        )
    weight = jnp.cumprod(true.discount, axis=0)
    left = jnp.concatenate([imagined[1:], model.value[None]])
    before = jnp.concatenate([jnp.ones_like(weight[:1]), weight[:-1]])
    realized = jnp.sum(before * true.reward, axis=0) + weight[-1] * true.value
    return Attribution(
        gap=realized - imagined[0],
        reward=before * (true.reward - model.reward),
        dynamics=before * (model.reward + model.discount * left - imagined),
        continuation=before * (true.discount - model.discount) * left,
        value=weight[-1] * (true.value - model.value),
    )


def attribute(
    true: System,
    model: System,
    policy: Callable[[State], Action],
    start: State,
    *,
    steps: int,
) -> Attribution:
    """Decompose the return error of a model from one start state.

    Takes `steps`² evaluations of the model; map it over start states with `jax.vmap`.

    Args:
        true: the system, whose `value` is the reference for the critic.
        steps: H, at least 1.

    Raises:
        ValueError: `steps` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: must be at least 1")

    def step(carry: tuple[State, Scalar], left: Array):
        state, weight = carry
        action = policy(state)
        following = true.dynamics(state, action)
        predicted = model.dynamics(state, action)
        discount, estimate = true.discount(state, action), model.discount(state, action)
        imagined = lambda s: imagined_return(model, policy, s, left, longest=steps - 1)
        value, slope = jax.value_and_grad(imagined)(predicted)
        reached = imagined(following)
        contributions = (
            weight * (true.reward(state, action) - model.reward(state, action)),
            weight * estimate * (reached - value),
            weight * (discount - estimate) * reached,
            weight * estimate * jnp.vdot(slope, following - predicted),
            weight * true.reward(state, action),
        )
        return (following, weight * discount), contributions

    left = jnp.arange(steps - 1, -1, -1)
    (last, weight), found = jax.lax.scan(step, (start, jnp.ones(())), left)
    reward, dynamics, continuation, adjoint, earned = found
    realized = jnp.sum(earned) + weight * true.value(last)
    imagined = imagined_return(model, policy, start, steps, longest=steps)
    value = weight * (true.value(last) - model.value(last))
    return Attribution(
        realized - imagined, reward, dynamics, continuation, value, adjoint
    )


def imagined_return(
    model: System,
    policy: Callable[[State], Action],
    start: State,
    steps: Array | int,
    *,
    longest: int,
) -> Scalar:
    """V̂_k(s): the return of `steps` imagined steps, closed by the critic.

    Args:
        steps: k, from 0 to `longest`; may be traced.
    """

    def step(carry: tuple[State, Scalar, Scalar], time: Array):
        state, weight, total = carry
        action = policy(state)
        goes_on = time < steps
        total = total + jnp.where(goes_on, weight * model.reward(state, action), 0.0)
        further = weight * model.discount(state, action)
        following = model.dynamics(state, action)
        state = jnp.where(goes_on, following, state)
        return (state, jnp.where(goes_on, further, weight), total), None

    carry = start, jnp.ones(()), jnp.zeros(())
    (last, weight, total), _ = jax.lax.scan(step, carry, jnp.arange(longest))
    return total + weight * model.value(last)
