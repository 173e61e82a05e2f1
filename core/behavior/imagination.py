"""Imagined rollouts of the prior under the policy."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from core.loops import block_gru, wide_gru
from core.loops.form import STEP_BY_STEP, Form
from core.networks.deferred import products_kept
from core.networks.dists import BoundedNormal, TwoHot
from core.networks.heads import PolicyHead, TwoHotHead
from core.networks.layers import Linear
from core.rssm import State
from core.world_model import WorldModel
from kernels.sharding import divided


class Imagined(NamedTuple):
    """Outputs of the heads along rollouts of `time` actions.

    `policy` and `value` have gradients to their own head; all else is constant. Arrays
    of `time+1` steps include the last state of the rollouts. Entry t of `reward`,
    `cont` (the probability to continue, times the discount), `estimate` (mean of the
    value) and `slow` (mean of the slow value) is the prediction from state t.
    """

    policy: BoundedNormal
    action: Float[Array, "time batch action"]
    value: TwoHot
    estimate: Float[Array, "time+1 batch"]
    slow: Float[Array, "time+1 batch"]
    reward: Float[Array, "time+1 batch"]
    cont: Float[Array, "time+1 batch"]


class ActorCritic(NamedTuple):
    """The policy and value heads; `slow_value` is not trained by gradient."""

    policy: PolicyHead
    value: TwoHotHead
    slow_value: TwoHotHead


class _Predicted(NamedTuple):
    """Predictions without gradient for each state."""

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
    form: Form = STEP_BY_STEP,
) -> Imagined:
    """Roll the policy out in the model for `length` steps from every start state.

    No gradient flows between steps: DreamerV3's policy learns by REINFORCE, and its
    losses treat the imagined features as constants. So every head can be evaluated
    inside the rollout, in the step that computes the state, while the state is still in
    a CPU's cache.

    With `form.heads_at_once` the states are stored, and each head is evaluated on all
    of them after the rollout (the policy a second time): a few large operations instead
    of many small ones, which suits a GPU. In bfloat16 the gradient of a head is then
    rounded once, not at every step.

    Each of several devices rolls out its own start states; the gradients of the heads
    are summed over devices once, not in every step.
    """
    model, starts = _stop((model, starts))
    heads = heads._replace(slow_value=_stop(heads.slow_value))
    batch = length, *starts.deter.shape[:-1]
    # `jax.random.normal` in bfloat16 gives only 128 different values, not symmetric.
    dtype = jnp.promote_types(starts.deter.dtype, jnp.float32)
    noise, uniforms = random_numbers(
        key,
        (*batch, heads.policy.mean.bias.size),
        (*batch, model.rssm.categoricals),
        dtype,
    )
    roll_out = partial(_roll_out, form=form)
    rollouts = divided(roll_out, (None, None, 0, 1, 1), 1)
    return rollouts(model, heads, starts, noise, uniforms)


def random_numbers(
    key: PRNGKeyArray,
    noise_shape: tuple[int, ...],
    uniforms_shape: tuple[int, ...],
    dtype: DTypeLike,
) -> tuple[Float[Array, "time *batch action"], Float[Array, "time *batch K"]]:
    """All random numbers of rollouts, time first: for the actions and for every ẑ.

    Returns:
        Standard normal numbers of type `dtype`, and uniform numbers from [0, 1).
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
    uniforms: Float[Array, "time batch K"],
    *,
    form: Form,
) -> Imagined:
    policy, value, slow_value = heads
    if not form.heads_at_once:
        policy, value = _lean(policy), _lean(value)

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
    imagine = wide_gru.imagine if form.few_kernels else block_gru.imagine
    roll_out = partial(imagine, model.rssm, starts, inputs=noise, uniforms=uniforms)
    if form.heads_at_once:
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


def _lean[Dist](head: Callable[[Array], Dist]) -> Callable[[Array], Dist]:
    """The head for a rollout on a CPU: the same values, a faster gradient.

    Only its products are kept for the gradient. Norms and activations are computed
    again, which takes less time than to write and read back what every step leaves.
    Its matrices are transposed before the rollout: the gradient of one is then gᵀx, of
    x [states, inputs] and g [states, outputs], which XLA computes at twice the rate of
    xᵀg where there are more inputs than outputs.
    """
    turned = _transposed(head)
    return products_kept(lambda features: _transposed(turned)(features))


def _transposed[T](tree: T) -> T:
    """With the transposed matrix of every linear layer."""
    is_linear = lambda node: isinstance(node, Linear)
    turn = lambda layer: eqx.tree_at(lambda x: x.weight, layer, layer.weight.T)
    return jax.tree.map(
        lambda node: turn(node) if is_linear(node) else node, tree, is_leaf=is_linear
    )


def _stop[T](tree: T) -> T:
    return jax.tree.map(
        lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, tree
    )
