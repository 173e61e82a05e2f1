"""Imagined rollouts of the prior under the policy."""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from core import block_gru
from core.networks.dists import BoundedNormal, TwoHot
from core.networks.heads import PolicyHead, TwoHotHead
from core.rssm import State
from core.world_model import WorldModel
from kernels.sharding import divided


class Imagined(NamedTuple):
    """What the heads say along rollouts of `time` actions.

    `policy` and `value` carry the gradient to their own head; all else is constant.
    Arrays of `time+1` rows include the state in which the rollouts end. `reward` and
    `cont` (probability to go on, discount included) are predictions for the state of
    the same row, `estimate` and `slow` the means of the value and of the slow value.
    """

    policy: BoundedNormal
    action: Float[Array, "time batch action"]
    value: TwoHot
    estimate: Float[Array, "time+1 batch"]
    slow: Float[Array, "time+1 batch"]
    reward: Float[Array, "time+1 batch"]
    cont: Float[Array, "time+1 batch"]


class ActorCritic(NamedTuple):
    """The heads that act in rollouts and judge them; `slow_value` is not trained."""

    policy: PolicyHead
    value: TwoHotHead
    slow_value: TwoHotHead


class _Predicted(NamedTuple):
    """What is only a number in each state."""

    estimate: Float[Array, "*batch"]
    slow: Float[Array, "*batch"]
    reward: Float[Array, "*batch"]
    cont: Float[Array, "*batch"]


@jax.named_scope("imagine")
def imagine(
    model: WorldModel,
    heads: ActorCritic,
    starts: State,
    length: int,
    *,
    key: PRNGKeyArray,
    heads_at_once: bool = False,
) -> Imagined:
    """Roll the policy out in the model for `length` steps from every start state.

    No gradient passes from one step to another: DreamerV3's policy learns by REINFORCE,
    and its losses see the imagined features as constants. So every head can be
    evaluated in the very step that makes the state, where its arrays are still in a
    CPU's caches; what the policy says there both draws the action and enters the loss.

    With `heads_at_once` the states are kept, and after the last step each head sees all
    of them in one product, the policy a second time: a few large operations in place of
    many small ones, as a GPU wants it. And in bfloat16 the gradients of a head are one
    sum, not one that is rounded at every step.

    On several devices each rolls out from its own starts: the gradients of the heads
    are added up once, and not in every step.
    """
    model, starts = _stop((model, starts))
    heads = heads._replace(slow_value=_stop(heads.slow_value))
    batch = length, *starts.deter.shape[:-1]
    # In bfloat16 there would be 128 different numbers, not even symmetric.
    dtype = jnp.promote_types(starts.deter.dtype, jnp.float32)
    noise, uniforms = random_numbers(
        key, (*batch, heads.policy.mean.bias.size), (*batch, model.rssm.rows), dtype
    )
    roll_out = partial(_roll_out, heads_at_once=heads_at_once)
    rollouts = divided(roll_out, (None, None, 0, 1, 1), 1)
    return rollouts(model, heads, starts, noise, uniforms)


def random_numbers(
    key: PRNGKeyArray,
    noise_shape: tuple[int, ...],
    uniforms_shape: tuple[int, ...],
    dtype: DTypeLike,
) -> tuple[Float[Array, "time *batch action"], Float[Array, "time *batch rows"]]:
    """All randomness of rollouts, time first: it draws the actions, and every z.

    Returns:
        Standard normal numbers of type `dtype`, and uniform ones from [0, 1).
    """
    act_key, prior_key = jax.random.split(key)
    length, *shape = noise_shape
    noise = jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(
        jax.random.split(act_key, length)
    )
    return noise, jax.random.uniform(prior_key, uniforms_shape)


def _roll_out(
    model: WorldModel,
    heads: ActorCritic,
    starts: State,
    noise: Float[Array, "time batch action"],
    uniforms: Float[Array, "time batch rows"],
    *,
    heads_at_once: bool,
) -> Imagined:
    policy, value, slow_value = heads

    @jax.named_scope("heads")
    def predict(features: Array) -> tuple[TwoHot, _Predicted]:
        dist = value(features)
        return dist, _stop(
            _Predicted(
                dist.mean(),
                slow_value(features).mean(),
                model.reward(features).mean(),
                model.cont(features).mean(),
            )
        )

    @jax.named_scope("heads")
    def draw(features: Array, noise: Array) -> tuple[BoundedNormal, Array]:
        dist = policy(features)
        return dist, jax.lax.stop_gradient(dist.at(noise))

    def keep_all(state: State, noise: Array):
        features = state.features
        dist, action = draw(features, noise)
        return action, (dist, action, *predict(features))

    def keep_states(state: State, noise: Array):
        _, action = draw(state.features, noise)
        return action, (state.features, action)

    join = lambda xs, x: jnp.concatenate([xs, x[None]])
    roll_out = partial(
        block_gru.imagine, model.rssm, starts, inputs=noise, uniforms=uniforms
    )
    if heads_at_once:
        last, (features, action) = roll_out(act=keep_states)
        with jax.named_scope("heads"):
            dist = policy(features)
        values, predicted = predict(join(features, last.features))
        values = jax.tree.map(lambda x: x[:-1], values)
    else:
        last, (dist, action, values, predicted) = roll_out(act=keep_all)
        _, end = predict(last.features)
        predicted = jax.tree.map(join, predicted, end)
    return Imagined(dist, action, values, *predicted)


def _stop[T](tree: T) -> T:
    return jax.tree.map(
        lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, tree
    )
