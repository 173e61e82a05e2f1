"""Acts with an exported agent; needs numpy alone. Written by `python -m train.export`.

    from numpy_policy import Policy

    policy = Policy("policy.npz")
    policy.reset()                # at the start of an episode
    action = policy(observation)  # numbers between -1 and 1

Names are DreamerV3's: h the recurrent state, z the stochastic state (K one-hot vectors
of C classes, or K numbers), e the embedding of the observation, a the action.
"""

import json
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

EPS = 1e-4


def sigmoid(x: Any) -> Any:
    """1/(1 + exp(−x)), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def silu(x: Any) -> Any:
    """x·σ(x)."""
    return x * sigmoid(x)


class Policy:
    """A policy, which remembers what it has seen since `reset`.

    Attributes:
        facts: the environment, `obs_shape`, `action_size`, the step of training, sizes.

    Args:
        path: the exported `policy.npz`.
        batch: how many environments are acted in; their observations come together.
        explore: sample the actions as in training; take the policy's mean otherwise.
        seed: of the random numbers that draw z, and the actions where `explore`.
    """

    def __init__(
        self, path: Any, *, batch: int = 1, explore: bool = False, seed: int = 0
    ) -> None:
        with np.load(path, allow_pickle=False) as file:
            self.weights = {name: file[name] for name in file.files}
        self.facts = json.loads(str(self.weights.pop("facts")))
        self.batch, self.explore = batch, explore
        self.random = np.random.default_rng(seed)
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next observations begin new episodes."""
        f = self.facts
        self.h = np.zeros((self.batch, f["deter"]), np.float32)
        self.z = np.zeros((self.batch, f["categoricals"], f["classes"]), np.float32)
        self.a = np.zeros((self.batch, f["action_size"]), np.float32)

    def __call__(self, obs: Any, is_first: Any = False) -> Any:
        """Actions `(batch, action)` for observations `(batch, *obs_shape)`.

        One observation without a batch axis gives one action, if `batch` is 1. Before
        an observation whose `is_first` is true, that environment's past is forgotten.
        """
        f = self.facts
        obs = np.asarray(obs)
        single = self.batch == 1 and obs.shape == tuple(f["obs_shape"])
        if single:
            obs = obs[None]
        if obs.shape != (self.batch, *f["obs_shape"]):
            raise ValueError(
                f"obs has shape {obs.shape}: this policy takes "
                f"{(self.batch, *f['obs_shape'])}"
            )
        noise = np.zeros_like(self.a)
        if self.explore:
            noise = self.random.standard_normal(self.a.shape, np.float32)
        uniforms = self.random.random(self.z.shape[:2], np.float32)
        first = np.broadcast_to(np.asarray(is_first, bool), (self.batch,))
        action = self.step(obs, first, uniforms, noise)
        return action[0] if single else action

    def step(self, obs: Any, is_first: Any, uniforms: Any, noise: Any) -> Any:
        """`__call__` with the random numbers given.

        Args:
            is_first: `(batch,)` booleans.
            uniforms: `(batch, K)` from [0, 1), which draw z.
            noise: `(batch, action)` standard normal, or zeros for the policy's mean.
        """
        keep = ~np.asarray(is_first)[:, None]
        a = self.a * keep
        h = self._recurrent(self.h * keep, self.z * keep[..., None], a)
        e = self._encode(obs)
        hidden = self._dense("rssm.posterior_in", np.concatenate([h, e], axis=-1))
        out = self._linear("rssm.posterior_out", hidden)
        out = out.reshape(len(out), self.facts["categoricals"], -1)
        gaussian = "std_floor" in self.facts
        z = (self._normal if gaussian else self._sample)(out, uniforms)
        x = np.concatenate([h, z.reshape(len(z), -1)], axis=-1)
        x = self._mlp("policy.mlp", x)
        stddev = 0.1 + 0.9 * sigmoid(self._linear("policy.stddev", x) + 2.0)
        action = np.tanh(self._linear("policy.mean", x)) + stddev * noise
        self.h, self.z, self.a = h, z, np.clip(action, -1.0, 1.0)
        return self.a

    def _recurrent(self, h: Any, z: Any, a: Any) -> Any:
        """h' = f(h, z, a), a GRU of G blocks."""
        blocks = self.facts["blocks"]
        a = a / np.maximum(1.0, np.abs(a))
        inputs: Sequence[tuple[str, Any]] = (
            ("rssm.deter_in", h),
            ("rssm.stoch_in", z.reshape(len(z), -1)),
            ("rssm.action_in", a),
        )
        x = np.concatenate([self._dense(name, part) for name, part in inputs], axis=-1)
        h_g = h.reshape(len(h), blocks, -1)
        x_g = np.broadcast_to(x[:, None], (len(h), blocks, x.shape[-1]))
        mixed = self._blocks("rssm.mix", np.concatenate([h_g, x_g], axis=-1))
        mixed = silu(self._norm("rssm.mix_norm", mixed.reshape(h.shape)))
        gates = self._blocks("rssm.gates", mixed.reshape(h_g.shape))
        r, c, u = np.split(gates, 3, axis=-1)
        u = sigmoid(u - 1.0)
        return (u * np.tanh(sigmoid(r) * c) + (1.0 - u) * h_g).reshape(h.shape)

    def _sample(self, logits: Any, uniforms: Any) -> Any:
        """One-hot z, drawn by inverting the cumulative distribution."""
        mass = np.exp(logits - logits.max(axis=-1, keepdims=True))
        mix, classes = self.facts["unimix"], logits.shape[-1]
        probs = (1.0 - mix) * mass / mass.sum(axis=-1, keepdims=True) + mix / classes
        edges = np.cumsum(probs, axis=-1)[..., :-1]
        index = np.sum(uniforms[..., None] >= edges, axis=-1)
        return np.eye(classes, dtype=np.float32)[index]

    def _normal(self, parameters: Any, uniforms: Any) -> Any:
        """z ~ N(m, s²), drawn by inverting the cumulative distribution."""
        mean, raw = parameters[..., :1], parameters[..., 1:]
        invert = NormalDist().inv_cdf
        middle = np.asarray(uniforms, np.float32) + np.finfo(np.float32).eps / 2
        noise = [invert(float(u)) for u in middle.ravel()]
        deviation = np.logaddexp(0.0, raw) + self.facts["std_floor"]
        noise = np.asarray(noise, np.float32).reshape(mean.shape)
        return (mean + deviation * noise).astype(np.float32)

    def _encode(self, obs: Any) -> Any:
        if len(self.facts["obs_shape"]) == 1:
            x = np.asarray(obs, np.float32)
            return self._mlp("encoder.mlp", np.sign(x) * np.log1p(np.abs(x)))
        x = obs.astype(np.float32) / 255 - 0.5
        for layer in range(4):
            x = self._halved(f"encoder.layers.{layer}", x)
        return x.reshape(len(x), -1)

    def _halved(self, name: str, x: Any) -> Any:
        """5 × 5 convolution, maximum over 2 × 2 blocks, norm over channels, SiLU."""
        padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
        views = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))
        out = np.einsum("bhwckl,klco->bhwo", views, self.weights[f"{name}.conv.weight"])
        batch, height, width, channels = out.shape
        out = out.reshape(batch, height // 2, 2, width // 2, 2, channels)
        out = out.max(axis=(2, 4)) + self.weights[f"{name}.conv.bias"]
        return silu(self._norm(f"{name}.norm", out))

    def _mlp(self, name: str, x: Any) -> Any:
        layer = 0
        while f"{name}.layers.{layer}.linear.weight" in self.weights:
            x = self._dense(f"{name}.layers.{layer}", x)
            layer += 1
        return x

    def _dense(self, name: str, x: Any) -> Any:
        return silu(self._norm(f"{name}.norm", self._linear(f"{name}.linear", x)))

    def _linear(self, name: str, x: Any) -> Any:
        return x @ self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def _blocks(self, name: str, x: Any) -> Any:
        out = np.einsum("bgi,gio->bgo", x, self.weights[f"{name}.weight"])
        return out + self.weights[f"{name}.bias"].reshape(out.shape[1:])

    def _norm(self, name: str, x: Any) -> Any:
        mean = np.mean(np.square(x), axis=-1, keepdims=True)
        return x / np.sqrt(mean + EPS) * self.weights[f"{name}.scale"]
