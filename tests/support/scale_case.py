"""Runs in a child process, whose CPU stands for several devices; prints JSON.

python tests/support/scale_case.py CASE COUNT[,COUNT...] [FLAGS OF train.main]
    same      20 updates on each number of devices, compared with the first;
              all begin with what the first one collected
    whole     the same, and each collects and evaluates for itself
    kernel    the fused kernel in its interpreter, under a mesh of each number
    memory    what of a run each device holds
"""

import json
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks

from envs import VectorEnv
from kernels import CategoricalHead, jacobian_penalty_mean
from train import loop
from train.config.cli import parse
from train.placement.placement import Placement
from train.preflight.setup import make_env
from train.program.penalty import choose_penalty

WORDS = "--preset smoke --env toy-target --num-envs 8 --batch-size 8 --train-ratio 16"


def programs(words: str, devices: int) -> loop.Programs:
    config = parse(f"{WORDS} {words} --devices {devices}".split(), "cpu")
    env = VectorEnv(make_env(config), config.num_envs)
    penalty = choose_penalty(config, "cpu")
    return loop.Programs(config, env, penalty, Placement.of(config))


def numbers(tree: Any) -> dict[str, np.ndarray]:
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        found[jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found


def trained(words: str, devices: int, start: Any = None) -> dict[str, Any]:
    made = programs(words, devices)
    if start is None:
        run, _ = made.prefill(made.init(made.keys(0)))
        start = jax.device_get(jax.tree.map(jnp.copy, run))
    else:
        place = lambda x, to: jax.device_put(x, to.sharding)
        run = jax.tree.map(place, start, made.template)
    losses, updates = [], 0
    while updates < 20:
        run, output = made.chunk(run)
        losses.append(np.mean(np.asarray(output.metrics["loss/total"])))
        updates = int(np.min(np.asarray(output.updates)))
    return {
        "programs": made,
        "start": start,
        "run": run,
        "updates": updates,
        "before": numbers(start.learner.agent),
        "agent": numbers(run.learner.agent),
        "rows": numbers(run.replay),
        "losses": losses,
    }


def returns(result: dict[str, Any]) -> np.ndarray:
    made = result["programs"]
    return np.asarray(made.evaluate(result["run"].learner.agent, made.keys(1)).returns)


def farthest(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    return max(
        float(np.max(np.abs(x.astype(float) - b[name].astype(float)), initial=0))
        for name, x in a.items()
    )


def rows(result: dict[str, Any], *, latent: bool) -> dict[str, np.ndarray]:
    """What the replay holds: of the environment, or the model's states beside it."""
    model = (".deter", ".stoch")
    return {
        name: x for name, x in result["rows"].items() if name.endswith(model) == latent
    }


def differing(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """The share of entries that are not the same to 0.01."""
    apart = [
        np.abs(x.astype(float) - b[name].astype(float)) > 0.01 for name, x in a.items()
    ]
    return float(np.mean(np.concatenate([x.ravel() for x in apart])))


def distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    squares = (np.sum((x.astype(float) - b[name]) ** 2) for name, x in a.items())
    return float(np.sqrt(sum(squares)))


def same(counts: list[int], words: str, *, whole: bool = False) -> dict[str, Any]:
    """How far the others end from the first; parameters as a share of their way."""
    first = trained(words, counts[0])
    start = None if whole else first["start"]
    others = [trained(words, count, start) for count in counts[1:]]
    way = distance(first["before"], first["agent"])

    def compared(other: dict[str, Any]) -> dict[str, float]:
        gap = np.max(np.abs(np.subtract(first["losses"], other["losses"])))
        found = {
            "updates": other["updates"],
            "agent": distance(first["agent"], other["agent"]) / way,
            "rows": farthest(*(rows(x, latent=False) for x in (first, other))),
            "latents": differing(*(rows(x, latent=True) for x in (first, other))),
            "losses": float(gap),
        }
        if whole:
            a, b = returns(first), returns(other)
            found["returns"] = float(np.max(np.abs(a - b)) / np.max(np.abs(a)))
        return found

    return {
        "updates": first["updates"],
        "moved": farthest(first["before"], first["agent"]),
        "largest_loss": float(np.max(np.abs(first["losses"]))),
        "others": [compared(other) for other in others],
    }


def kernel(counts: list[int]) -> dict[str, Any]:
    """Gradients of the penalty, of states that divide evenly and that do not."""
    # At the end of a kernel the interpreter asserts that no device has a barrier left,
    # though the other devices' kernels are still running.
    gpu_callbacks._assert_no_barriers_allocated = lambda token: token
    n, d, h, rows, classes = 12, 24, 64, 4, 4
    keys = iter(jax.random.split(jax.random.key(0), 6))
    draw = lambda *shape: jax.random.normal(next(keys), shape) / 4
    head = CategoricalHead(
        draw(d, h), draw(h), 1 + draw(h), draw(h, rows * classes), draw(rows * classes)
    )
    u = draw(n, d)

    def value(u: jax.Array, head: CategoricalHead) -> jax.Array:
        return jacobian_penalty_mean(
            u,
            head,
            jax.random.key(1),
            classes=classes,
            implementation="pallas",
            interpret=True,
        )

    results = []
    for count in counts:
        place = Placement(jax.devices()[:count])
        states = place.put(u, divided=n % count == 0)
        results.append(numbers(place.compile(jax.grad(value, (0, 1)))(states, head)))
    first = results[0]
    return {
        "size": farthest(first, {name: 0 * x for name, x in first.items()}),
        "others": [farthest(first, other) for other in results[1:]],
    }


def memory(counts: list[int], words: str) -> dict[str, Any]:
    """Bytes of the replay and of the agent that the first device holds."""

    def held(tree: Any) -> int:
        return sum(
            shard.data.nbytes
            for leaf in jax.tree.leaves(tree)
            for shard in leaf.addressable_shards
            if shard.device == jax.devices()[0]
        )

    found = {}
    for count in counts:
        made = programs(words, count)
        run = made.init(made.keys(0))
        found[str(count)] = [held(run.replay.rows), held(run.learner.agent)]
    return found


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    case, listed, *words = sys.argv[1:]
    counts = [int(count) for count in listed.split(",")]
    if case == "kernel":
        print(json.dumps(kernel(counts)))
    else:
        run = {"same": same, "whole": partial(same, whole=True), "memory": memory}[case]
        print(json.dumps(run(counts, " ".join(words))))
