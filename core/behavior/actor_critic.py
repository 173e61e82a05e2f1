"""DreamerV3's policy and value losses on imagined rollouts and replayed steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from core.behavior.imagination import Imagined
from core.behavior.returns import ReturnScale, lambda_return
from core.constants import DREAMERV3, LossConstants
from core.networks.heads import TwoHotHead
from core.transition import Transition


class ActorCriticOutput(NamedTuple):
    """Mean losses by name, the returns of the first step, and metrics for the log."""

    losses: dict[str, Float[Array, ""]]
    returns: Float[Array, " batch"]
    return_scale: ReturnScale
    metrics: dict[str, Float[Array, ""]]


@jax.named_scope("actor_critic")
def imagined_loss(
    return_scale: ReturnScale,
    imagined: Imagined,
    constants: LossConstants = DREAMERV3,
) -> ActorCriticOutput:
    """Policy and value losses on imagined rollouts.

        policy = −w_t·[log π(a_t | s_t)·sg(A_t) + η·H(π)],  A_t = (R_t − v_t)/scale
        value  = w_t·[CE(v, R_t) + CE(v, mean of the slow value)]

    w_t = Π_{k≤t} cont_k is the probability that the rollout has not ended at t, times
    the discount: the continue head predicts both together.
    """
    estimate = imagined.estimate
    weight = jnp.cumprod(imagined.cont, axis=0)[:-1]
    mix = jnp.full_like(imagined.cont, constants.return_lambda)
    returns = lambda_return(imagined.reward, imagined.cont, mix, estimate)
    return_scale = return_scale.update(returns, constants.return_norm_rate)
    scale = return_scale.scale(constants.return_norm_limit)
    advantage = (returns - estimate[:-1]) / scale
    log_prob = imagined.policy.log_prob(imagined.action)
    entropy = imagined.policy.entropy()
    policy_loss = -weight * (log_prob * advantage + constants.entropy * entropy)
    value_loss = weight * imagined.value.losses(
        (returns, imagined.slow[:-1]), (1.0, constants.slow_regularizer)
    )
    metrics = {
        "advantage_abs": jnp.mean(jnp.abs(advantage)),
        "entropy": jnp.mean(entropy),
        "imagined_reward": jnp.mean(imagined.reward),
        "imagined_return": jnp.mean(returns),
        "return_scale": scale,
        "value": jnp.mean(estimate),
    }
    losses = {"policy": jnp.mean(policy_loss), "value": jnp.mean(value_loss)}
    return ActorCriticOutput(losses, returns[0], return_scale, metrics)


@jax.named_scope("actor_critic")
def replayed_value_loss(
    value: TwoHotHead,
    slow_value: TwoHotHead,
    features: Float[Array, "time *batch features"],
    batch: Transition,
    bootstrap: Float[Array, "time *batch"],
    constants: LossConstants = DREAMERV3,
) -> Float[Array, ""]:
    """Value loss on the real rewards, bootstrapped from imagined returns.

    The last step of an episode has weight 0. The gradient also flows through the
    features into the world model.

    Args:
        bootstrap: the imagined return from every replayed step.
    """
    discount = (1.0 - batch.is_terminal) * constants.discount
    mix = (1.0 - batch.is_last) * constants.return_lambda
    returns = lambda_return(batch.reward, discount, mix, bootstrap)
    values = value(features[:-1])
    slow = jax.lax.stop_gradient(slow_value(features[:-1]).mean())
    loss = values.losses((returns, slow), (1.0, constants.slow_regularizer))
    return jnp.mean((1.0 - batch.is_last[:-1]) * loss)
