"""The losses of one update, written plainly: no hoisting, no fusing, no reuse.

What `train.program.update.total_loss` computes, as one would write it down from the
paper: one step after another, every head on all stored states, two-hot targets as
arrays. It takes its random numbers as the fast code does, so that both can be compared
number by number.
"""

import jax
import jax.numpy as jnp

from core.behavior.actor_critic import ActorCriticOutput, replayed_value_loss
from core.behavior.returns import lambda_return
from core.constants import DREAMERV3
from core.networks.transforms import symexp_bins, twohot
from core.rssm import State
from core.world_model import WorldModelOutput


def core(rssm, state, action):
    """One block-GRU step on the concatenated inputs of every block."""
    action = action / jnp.maximum(1.0, jnp.abs(action))
    flat = state.stoch.reshape(*state.stoch.shape[:-2], -1)
    embeddings = [rssm.deter_in(state.deter), rssm.stoch_in(flat)]
    embeddings = jnp.concatenate([*embeddings, rssm.action_in(action)], -1)
    group = rssm.deter // rssm.blocks
    outputs = []
    for block in range(rssm.blocks):
        own = state.deter[..., block * group : (block + 1) * group]
        inputs = jnp.concatenate([own, embeddings], -1)
        outputs.append(inputs @ rssm.mix.weight[block])
    mixed = jnp.concatenate(outputs, -1) + row(rssm.mix.bias)
    mixed = jax.nn.silu(rssm.mix_norm(mixed))
    parts = []
    for block in range(rssm.blocks):
        own = mixed[..., block * group : (block + 1) * group]
        bias = rssm.gates.bias.reshape(rssm.blocks, -1)[block]
        parts.append(jnp.split(own @ rssm.gates.weight[block] + row(bias), 3, -1))
    reset, candidate, update = (
        jnp.concatenate(x, -1) for x in zip(*parts, strict=True)
    )
    update = jax.nn.sigmoid(update - 1)
    candidate = jnp.tanh(jax.nn.sigmoid(reset) * candidate)
    return update * candidate + (1 - update) * state.deter


def row(vector):
    """A vector as one row, as rank promotion is an error here."""
    return vector[None]


def draw(rssm, logits, uniform):
    """A sample with straight-through gradient, by the same uniform numbers."""
    probs = jax.nn.softmax(logits, -1) * (1 - rssm.unimix) + rssm.unimix / rssm.classes
    edges = jnp.cumsum(probs, -1)[..., :-1]
    index = jnp.sum(uniform[..., None] >= edges, -1)
    onehot = jax.nn.one_hot(index, rssm.classes)
    return onehot + probs - jax.lax.stop_gradient(probs)


def world_model_loss(
    model, initial, batch, *, key, constants=DREAMERV3, **form
) -> WorldModelOutput:
    """The same as `core.world_model.world_model_loss`, step by step."""
    rssm = model.rssm
    time, size = batch.reward.shape
    uniforms = jax.random.uniform(key, (time, size, rssm.categoricals))
    embeds = model.encoder(batch.obs if batch.seen is None else batch.seen)
    state, rows = initial, []
    for t in range(time):
        keep = 1.0 - batch.is_first[t].astype(jnp.float32)[:, None]
        state = State(state.deter * keep, state.stoch * keep[..., None])
        deter = core(rssm, state, batch.action[t] * keep)
        u = jnp.concatenate([deter, embeds[t]], -1)
        preactivation = rssm.posterior_in.linear(u)
        logits = rssm.posterior_logits(deter, embeds[t])
        state = State(deter, draw(rssm, logits, uniforms[t]))
        rows.append((state, logits, preactivation))
    states, posterior, preactivation = jax.tree.map(lambda *xs: jnp.stack(xs), *rows)
    from core.rssm import Observed

    observed = Observed(states, posterior, preactivation)
    q, p = (
        rssm.dist(posterior),
        rssm.dist(rssm.prior_logits(states.deter)),
    )
    stop = jax.lax.stop_gradient
    target = (1.0 - batch.is_terminal) * (1.0 - 1.0 / constants.discount_horizon)
    losses = {
        "rec": model.decoder.loss(states.features, batch.obs),
        "rew": cross_entropy(model.reward(states.features), batch.reward),
        "con": model.cont(states.features).loss(target),
        "dyn": jnp.maximum(constants.free_nats, stop(q).kl(p)),
        "rep": jnp.maximum(constants.free_nats, q.kl(stop(p))),
    }
    entropies = {"posterior": jnp.mean(q.entropy()), "prior": jnp.mean(p.entropy())}
    return WorldModelOutput(losses, observed, embeds, entropies)


def cross_entropy(dist, target):
    """Against the array of two-hot weights."""
    weights = jax.lax.stop_gradient(twohot(target, symexp_bins(dist.logits.shape[-1])))
    return -jnp.sum(weights * jax.nn.log_softmax(dist.logits, -1), -1)


class Rollout:
    """States first, heads afterwards; the policy is applied a second time."""

    def __init__(self, model, heads, starts, length, **options):
        policy, value, slow_value = heads
        stop = lambda tree: jax.tree.map(jax.lax.stop_gradient, tree)
        model, starts = stop((model, starts))
        act_key, prior_key = jax.random.split(options["key"])
        shape = (length, starts.deter.shape[0], model.rssm.categoricals)
        uniforms = jax.random.uniform(prior_key, shape)
        states, actions = [starts], []
        for t, step_key in enumerate(jax.random.split(act_key, length)):
            state = states[-1]
            actions.append(stop(policy(state.features).sample(step_key)))
            deter = core(model.rssm, state, actions[-1])
            logits = model.rssm.prior_logits(deter)
            states.append(stop(State(deter, draw(model.rssm, logits, uniforms[t]))))
        states = jax.tree.map(lambda *xs: jnp.stack(xs), *states)
        self.features = states.features
        self.action = jnp.stack(actions)
        self.reward = model.reward(self.features).mean()
        self.cont = model.cont(self.features).mean()
        self.policy, self.value, self.slow_value = policy, value, slow_value


def imagined_loss(
    return_scale,
    rollout,
    constants,
) -> ActorCriticOutput:
    """The same as `core.behavior.actor_critic.imagined_loss` of a `Rollout`."""
    stop = jax.lax.stop_gradient
    dist = rollout.policy(rollout.features[:-1])
    values = rollout.value(rollout.features)
    estimate = stop(values.mean())
    slow = stop(rollout.slow_value(rollout.features).mean())
    weight = jnp.cumprod(rollout.cont, axis=0)[:-1]
    mix = jnp.full_like(rollout.cont, constants.return_lambda)
    returns = lambda_return(rollout.reward, rollout.cont, mix, estimate)
    return_scale = return_scale.update(returns, constants.return_norm_rate)
    scale = return_scale.scale(constants.return_norm_limit)
    advantage = (returns - estimate[:-1]) / scale
    gain = dist.log_prob(rollout.action) * advantage
    gain += constants.entropy * dist.entropy()
    before = jax.tree.map(lambda x: x[:-1], values)
    value_loss = cross_entropy(before, returns)
    value_loss += constants.slow_regularizer * cross_entropy(before, slow[:-1])
    metrics = {
        "advantage_abs": jnp.mean(jnp.abs(advantage)),
        "entropy": jnp.mean(dist.entropy()),
        "imagined_reward": jnp.mean(rollout.reward),
        "imagined_return": jnp.mean(returns),
        "return_scale": scale,
        "value": jnp.mean(estimate),
    }
    losses = {
        "policy": jnp.mean(-weight * gain),
        "value": jnp.mean(weight * value_loss),
    }
    return ActorCriticOutput(losses, returns[0], return_scale, metrics)


__all__ = ["Rollout", "imagined_loss", "replayed_value_loss", "world_model_loss"]
