"""One training step on several devices: time and cross-device communication.

    python -m benchmarks.throughput --devices 1,2,4,8 [--size 12m] [--quick]
        [--json OUT] [--png OUT]

On a CPU the devices are virtual, so the times say nothing about scaling, but the
collectives are those of real devices. Their number and bytes give an estimate of the
communication time on 8 and 64 GPUs, under the assumptions in `ASSUMED`.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from matplotlib.figure import Figure

from benchmarks.cli import MEASURED, QUICK, publish
from benchmarks.measure import collectives
from benchmarks.measure.tables import text_table
from benchmarks.measure.timing import Spread, interleave
from envs import VectorEnv
from train.config import Config, ScaleConfig
from train.config.presets import build, preset_values
from train.placement.placement import Placement, check_division
from train.preflight.setup import make_env
from train.processes import coordination
from train.program.chunk import make_learn
from train.program.penalty import choose_penalty
from train.program.state import compute_dtype, init_run

ASSUMED = {
    # name: devices, latency of a collective in seconds, bytes/s per device
    "8 GPUs, one machine (NVLink)": (8, 20e-6, 3.5e11),
    "64 GPUs, 8 machines (400 Gbit/s each GPU)": (64, 60e-6, 4e10),
}
"""Interconnects assumed for the estimate; not measured."""


def configured(size: str, *, quick: bool) -> Config:
    """The paper's batch, or with `quick` a small one."""
    values = preset_values("gpld", platform="cpu") | {"--size": size}
    if quick:
        values |= {"--batch-length": 8, "--imagination-length": 4}
    # The environment only determines the sizes of observation and action.
    values |= {"--replay-size": 20_000, "--steps": 100_000, "--precision": "float32"}
    return dataclasses.replace(build(values), env="toy-target")


class Step:
    """One update on `devices` devices, with a batch from their replay shards."""

    def __init__(self, config: Config, devices: int) -> None:
        config = dataclasses.replace(config, scale=ScaleConfig(devices=devices))
        check_division(config, devices)
        self.place = place = Placement.of(config)
        env = VectorEnv(make_env(config), config.num_envs)
        dtype = compute_dtype(config, jax.default_backend())
        penalty = choose_penalty(config, jax.default_backend()).options
        init = lambda key: init_run(config, env, key)
        shapes = jax.eval_shape(init, jax.random.key(0))
        where = place.shardings(shapes)
        run = place.compile(init, out=where)(place.put(jax.random.key(0)))
        # Mark the replay as filled; its rows are zeros, which take the same time.
        full = run.replay._replace(filled=run.replay.filled + config.batch_length + 1)
        self.state = (run.learner, full)
        self.key = place.put(jax.random.key(1))
        learn = make_learn(config, penalty, dtype)
        out = ((where.learner, where.replay), None) if place.mesh else None
        with place.active():
            lowered = jax.jit(learn, out_shardings=out).lower(self.state, self.key)
            self.compiled = lowered.compile()
        self.found = collectives.read(self.compiled.as_text() or "")
        memory = self.compiled.memory_analysis()
        self.memory = memory.temp_size_in_bytes if memory else 0

    def __call__(self) -> object:
        return jax.block_until_ready(self.compiled(self.state, self.key))


def estimate(count: int, size: int) -> list[dict[str, Any]]:
    """Estimated seconds that `count` collectives of `size` bytes add to an update.

    An all-reduce of b bytes over n devices transfers 2·b·(n − 1)/n bytes per device.
    """
    return [
        {
            "where": where,
            "devices": devices,
            "latency_seconds": count * latency,
            "transfer_seconds": 2 * size * (devices - 1) / devices / bandwidth,
        }
        for where, (devices, latency, bandwidth) in ASSUMED.items()
    ]


def measure(size: str, devices: Sequence[int], *, quick: bool) -> dict[str, Any]:
    """Time one update on each number of devices, in interleaved rounds."""
    config = configured(size, quick=quick)
    steps = {}
    for number in devices:
        print(f"compiling for {number} devices", flush=True)
        steps[number] = Step(config, number)
    seconds = interleave(steps, rounds=2 if quick else 5)
    rows = []
    for number, step in steps.items():
        spread = Spread.of(seconds[number])
        rows.append(
            {
                "devices": number,
                "seconds": spread._asdict(),
                "collectives": step.found.count,
                "collective_bytes": step.found.size,
                "unknown_loops": step.found.unknown_loops,
                "temporary_bytes": step.memory,
                "kinds": [each._asdict() for each in step.found.collectives],
            }
        )
    last = rows[-1]
    virtual = jax.default_backend() == "cpu"
    return {
        "what": QUICK if quick or virtual else MEASURED,
        "devices_are": "parts of one CPU" if virtual else "devices",
        "shape": {
            "size": size,
            "batch_size": config.batch_size,
            "batch_length": config.batch_length,
            "imagination_length": config.imagination_length,
        },
        "rows": rows,
        "estimates": estimate(last["collectives"], last["collective_bytes"]),
    }


def table(result: dict[str, Any]) -> str:
    """The rows and the estimate as text."""
    head = ["devices", "ms/update", "collectives", "MB in them", "MB temporaries"]
    rows = [
        [
            str(row["devices"]),
            f"{1e3 * row['seconds']['median']:.1f}",
            str(row["collectives"]),
            f"{row['collective_bytes'] / 1e6:.2f}",
            f"{row['temporary_bytes'] / 1e6:.0f}",
        ]
        for row in result["rows"]
    ]
    lines = [text_table(head, rows, left=0)]
    if result["devices_are"] != "devices":
        lines.append(f"times are of parts of one CPU: {QUICK}")
    lines.append("estimated (not measured) for the collectives of the last row:")
    for each in result["estimates"]:
        lines.append(
            f"  {each['where']}: {1e3 * each['latency_seconds']:.2f} ms of latency + "
            f"{1e3 * each['transfer_seconds']:.2f} ms of transfer per update"
        )
    return "\n".join(lines)


def draw(result: dict[str, Any]) -> Figure:
    """Time per update and bytes in collectives, against the number of devices."""
    rows = result["rows"]
    figure = Figure(figsize=(8, 3.4), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    labels = [str(row["devices"]) for row in rows]
    left.bar(labels, [1e3 * row["seconds"]["median"] for row in rows], color="C0")
    left.set_ylabel("ms per update")
    if result["devices_are"] != "devices":
        left.set_title("virtual devices on one CPU", fontsize="small")
    right.bar(labels, [row["collective_bytes"] / 1e6 for row in rows], color="C1")
    for place, row in enumerate(rows):
        right.annotate(
            f"{row['collectives']}",
            (place, row["collective_bytes"] / 1e6),
            ha="center",
            va="bottom",
            fontsize="small",
        )
    right.set_ylabel("MB in collectives per update")
    right.set_title("number of collectives above each bar", fontsize="small")
    for axes in (left, right):
        axes.set_xlabel("devices")
    return figure


def run(options: argparse.Namespace, size: str, devices: Sequence[int]) -> None:
    """Measure and publish; `options` are those of `benchmarks.throughput`.

    Raises:
        UserError: too few devices, or the batch is not divisible among them.
    """
    coordination.offer_cpu_devices(max(devices))
    size = "1m" if options.quick else size
    result = measure(size, devices, quick=options.quick)
    publish(options, result, table(result), lambda: draw(result))
