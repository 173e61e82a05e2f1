"""Imagined rollouts of the prior under the policy, without gradient."""

from typing import NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from core.heads import PolicyHead
from core.rssm import State
from core.world_model import WorldModel


class Imagined(NamedTuple):
    """`length + 1` imagined steps; step 0 is the state the rollout starts from.

    `reward` and `cont` (probability to go on, discount included) are predictions for
    the state of the same row.
    """

    features: Float[Array, "time batch features"]
    action: Float[Array, "time batch action"]
    reward: Float[Array, "time batch"]
    cont: Float[Array, "time batch"]


def imagine(
    model: WorldModel,
    policy: PolicyHead,
    starts: State,
    length: int,
    *,
    key: PRNGKeyArray,
) -> Imagined:
    """Roll the policy out in the model for `length` steps from every start state.

    Nothing here carries a gradient: DreamerV3's policy learns by REINFORCE, and its
    losses apply the policy again to the (constant) imagined features.
    """
    model, policy, starts = _stop((model, policy, starts))
    states, actions = model.rssm.imagine(
        starts,
        lambda state, key: policy(state.features).sample(key),
        length,
        key=key,
    )
    features = states.features
    return _stop(
        Imagined(
            features,
            actions,
            model.reward(features).mean(),
            model.cont(features).mean(),
        )
    )


def _stop[T](tree: T) -> T:
    return jax.tree.map(
        lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, tree
    )
