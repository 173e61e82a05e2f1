"""What the tests of core share: random modules, replayed rows, a float64 reference.

The reference is plain numpy and knows of the modules nothing but their parameters.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from core.transition import Transition

BINS = np.concatenate(
    [-np.expm1(np.linspace(20, 0, 128)), np.expm1(np.linspace(0, 20, 128))[1:]]
)


def filled(build, seed):
    """The module with random parameters: it starts with zero biases and outputs."""
    rng = np.random.default_rng(seed)

    def fill(path, x):
        noise = rng.normal(size=x.shape)
        x = 1 + 0.5 * noise if path[-1].name == "scale" else 0.6 * noise
        return jnp.asarray(x, jnp.float32)

    shapes = eqx.filter_eval_shape(build, key=jax.random.key(0))
    return jax.tree_util.tree_map_with_path(fill, shapes)


def make_batch(getkey, time, batch, obs, action):
    """Replayed rows: environment 0 is terminal at row 1, 1 is cut off at row 2."""
    flags = np.zeros((3, time, batch), bool)
    first, last, terminal = flags
    if time > 2:
        last[1, 0] = terminal[1, 0] = first[2, 0] = True
        last[2, 1] = first[3, 1] = True
    return Transition(
        5 * jax.random.normal(getkey(), (time, batch, obs)),
        jax.random.normal(getkey(), (time, batch, action)),
        2 * jax.random.normal(getkey(), (time, batch)),
        *map(jnp.asarray, (first, last, terminal)),
    )


def is_zero(tree):
    return not any(bool(jnp.any(x != 0)) for x in jax.tree.leaves(tree))


# The reference, in float64


def wide(x):
    return np.asarray(x, np.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def linear(layer, x):
    return wide(x) @ wide(layer.weight) + wide(layer.bias)


def rms_norm(layer, x):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-4) * wide(layer.scale)


def dense(layer, x):
    return silu(rms_norm(layer.norm, linear(layer.linear, x)))


def mlp(module, x):
    for layer in module.layers:
        x = dense(layer, x)
    return x


def rssm_core(rssm, deter, stoch, action, *, blocks):
    """h' of the RSSM, one block of the GRU after the other."""
    deter = wide(deter)
    stoch = wide(stoch).reshape(*deter.shape[:-1], -1)
    embeddings = [
        dense(rssm.deter_in, deter),
        dense(rssm.stoch_in, stoch),
        dense(rssm.action_in, np.clip(wide(action), -1, 1)),
    ]
    size = deter.shape[-1] // blocks
    parts = [slice(g * size, (g + 1) * size) for g in range(blocks)]
    mixed = [
        np.concatenate([deter[..., part], *embeddings], -1) @ wide(rssm.mix.weight[g])
        for g, part in enumerate(parts)
    ]
    mixed = np.concatenate(mixed, -1) + wide(rssm.mix.bias)
    mixed = silu(rms_norm(rssm.mix_norm, mixed))
    following = []
    for g, part in enumerate(parts):
        bias = wide(rssm.gates.bias)[3 * size * g : 3 * size * (g + 1)]
        gates = mixed[..., part] @ wide(rssm.gates.weight[g]) + bias
        reset, candidate, update = np.split(gates, 3, -1)
        candidate = np.tanh(sigmoid(reset) * candidate)
        update = sigmoid(update - 1)
        following.append(update * candidate + (1 - update) * deter[..., part])
    return np.concatenate(following, -1)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def twohot_log_probs(head, features):
    return log_softmax(linear(head.out, mlp(head.mlp, features)))


def twohot_mean(head, features):
    return np.exp(twohot_log_probs(head, features)) @ BINS


def twohot_loss(head, features, target):
    log_probs = twohot_log_probs(head, features)
    loss = np.zeros(target.shape)
    for index, value in np.ndenumerate(target):
        above = int(np.searchsorted(BINS, value))
        share = (value - BINS[above - 1]) / (BINS[above] - BINS[above - 1])
        pair = log_probs[index][above - 1 : above + 1]
        loss[index] = -(1 - share) * pair[0] - share * pair[1]
    return loss


def numpy_returns(reward, discount, mix, value):
    returns = [value[-1]]
    for t in range(len(reward) - 1, 0, -1):
        later = (1 - mix[t]) * value[t] + mix[t] * returns[0]
        returns.insert(0, reward[t] + discount[t] * later)
    return np.stack(returns[:-1])
