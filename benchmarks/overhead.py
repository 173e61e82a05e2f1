"""What the penalty costs: the real train step with and without it.

    python -m benchmarks.overhead [--quick] [--size 12m] [--json OUT] [--png OUT]

The counterpart of GPLD's Table 4. Every row is the whole optimizer step of
`train.update` on one batch, timed in turn with the step without penalty; the ratio is
taken within each round. Compiling and memory are what XLA reports for the program.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

import envs
from benchmarks.timing import Spread, interleave, ratios
from core.penalty import PenaltyOptions
from core.world_model import Sequence as Batch
from train.config import Config
from train.errors import UserError
from train.presets import build, preset_values
from train.provenance import write_result
from train.state import compute_dtype, init_learner
from train.update import update

# GPLD Table 4, lambda 0.5 on the posterior: mean ratio of whole runs on their GPU.
PAPER = {0.25: 1.11, 0.5: 1.51, 0.75: 1.46, 1.0: 1.68}
RHOS = (0.25, 0.5, 0.75, 1.0)


class Variant(NamedTuple):
    """One row of the table."""

    implementation: str
    target: str
    rho: float
    probe_kind: str
    probes: int | None

    @property
    def name(self) -> str:
        """A label that tells the rows apart."""
        count = "" if self.probes is None else f"{self.probes} "
        return (
            f"{self.implementation} {self.target} rho {self.rho:g} "
            f"{count}{self.probe_kind}"
        )

    @property
    def options(self) -> PenaltyOptions:
        """The same as the train step takes it."""
        return PenaltyOptions(
            implementation=self.implementation,  # pyright: ignore[reportArgumentType]
            target=self.target,  # pyright: ignore[reportArgumentType]
            rho=self.rho,
            probe_kind=self.probe_kind,  # pyright: ignore[reportArgumentType]
            probes=self.probes,
        )


class Measured(NamedTuple):
    """What was found for one program; ratios are None for the baseline itself."""

    step_seconds: Spread
    step_ratio: Spread | None
    compile_seconds: float
    peak_bytes: int | None
    flops: float | None


def variants(*, classes: int, every: bool, quick: bool) -> list[Variant]:
    """The rows to measure.

    By default: all ρ for the posterior with one Rademacher probe, and the other
    targets and probe kinds at ρ = 0.5 and 1. `every` is the full cross product.
    """
    kinds = [("rademacher", 1), ("hadamard", min(4, classes - 1)), ("exact", None)]
    if quick:
        rows = [Variant("xla", "posterior", rho, "rademacher", 1) for rho in (0.5, 1.0)]
        rows += [
            Variant("reference", "posterior", 1.0, "rademacher", 1),
            Variant("xla", "posterior", 1.0, "exact", None),
            Variant("xla", "prior", 0.5, "rademacher", 1),
            Variant("xla", "core", 0.5, "rademacher", 1),
        ]
        return rows
    rows = []
    for implementation in ("xla", "reference"):
        for target in ("posterior", "prior", "both", "core"):
            for kind, count in kinds:
                for rho in RHOS:
                    plain = target == "posterior" and kind == "rademacher"
                    half = rho in (0.5, 1.0)
                    fast = implementation == "xla" and half
                    other = fast and (target == "posterior" or kind == "rademacher")
                    allowed = target != "core" or kind == "rademacher"
                    if allowed and (every or plain or other):
                        rows.append(Variant(implementation, target, rho, kind, count))
    return rows


class Bench:
    """The train step of one configuration, compiled for any penalty."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.dtype = compute_dtype(config, jax.default_backend())
        env = envs.VectorEnv(envs.make(config.env), config.num_envs)
        self.learner = jax.jit(lambda key: init_learner(config, env, key))(
            jax.random.key(config.seed)
        )
        time, batch = config.batch_length, config.batch_size
        obs, action = env.spec.obs_shape[0], env.spec.action_dim
        keys = jax.random.split(jax.random.key(1), 3)
        flags = jnp.zeros((time, batch), bool)
        self.batch = Batch(
            jax.random.normal(keys[0], (time, batch, obs)),
            jax.random.uniform(keys[1], (time, batch, action), minval=-1.0),
            jax.random.uniform(keys[2], (time, batch)),
            flags,
            flags,
            flags,
        )
        self.initial = self.learner.agent.model.rssm.initial(batch)

    def compile(
        self, penalty: PenaltyOptions | None
    ) -> tuple[Callable[[], object], float, int | None, float | None]:
        """The step as a function that blocks; seconds, bytes and FLOPs of its program.

        XLA counts the body of a loop once, so the FLOPs are a lower bound.
        """

        def step(learner, key):
            return update(
                self.config,
                learner,
                self.initial,
                self.batch,
                key=key,
                penalty=penalty,
                dtype=self.dtype,
            )

        key = jax.random.key(2)
        start = time.perf_counter()
        compiled = jax.jit(step).lower(self.learner, key).compile()
        seconds = time.perf_counter() - start
        memory = compiled.memory_analysis()
        costs = compiled.cost_analysis()
        run = lambda: jax.block_until_ready(compiled(self.learner, key))  # noqa: E731
        peak = None if memory is None else memory.temp_size_in_bytes
        return run, seconds, peak, (costs or {}).get("flops")


def measure(
    bench: Bench,
    rows: Sequence[Variant],
    *,
    rounds: int,
    say: Callable[[str], None] = print,
) -> tuple[Measured, dict[Variant, Measured]]:
    """The step without penalty, and every row against it."""
    start = time.perf_counter()
    programs = {}
    for number, row in enumerate([None, *rows]):
        programs[row] = bench.compile(row and row.options)
        spent = time.perf_counter() - start
        left = spent / (number + 1) * (len(rows) - number)
        say(f"compiled {number + 1}/{len(rows) + 1}, about {left:.0f} s to go")
    begun = time.perf_counter()

    def progress(done: int) -> None:
        spent = time.perf_counter() - begun
        say(f"round {done}/{rounds}, {spent / (done + 1) * (rounds - done):.0f} s left")

    named = {"none" if row is None else row.name: row for row in programs}
    seconds = interleave(
        {name: programs[row][0] for name, row in named.items()},
        rounds=rounds,
        progress=progress,
    )
    found = {}
    for name, row in named.items():
        ratio = None if row is None else ratios(seconds[name], seconds["none"])
        found[row] = Measured(Spread.of(seconds[name]), ratio, *programs[row][1:])
    return found.pop(None), found


def table(baseline: Measured, found: dict[Variant, Measured]) -> str:
    """The rows as text, with the paper's ratio where it has one."""
    lines = [
        f"step without penalty: {1e3 * baseline.step_seconds.median:.1f} ms",
        f"{'':44} {'ratio':>6} {'quartiles':>13} {'paper':>6} {'ms':>8} {'MB':>7}",
    ]
    for row, result in found.items():
        assert result.step_ratio is not None
        ratio = result.step_ratio
        paper = PAPER.get(row.rho) if row.target == "posterior" else None
        beside = f"{paper:.2f}" if paper and row.probes == 1 else "-"
        memory = "-" if result.peak_bytes is None else f"{result.peak_bytes / 1e6:.0f}"
        lines.append(
            f"{row.name:44} {ratio.median:6.3f} {ratio.low:6.3f}-{ratio.high:<6.3f} "
            f"{beside:>6} {1e3 * result.step_seconds.median:8.1f} {memory:>7}"
        )
    return "\n".join(lines)


def draw(found: dict[Variant, Measured]) -> Figure:
    """Ratio against ρ, one line for each kind of row, the paper's points beside."""
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    lines: dict[str, list[tuple[float, Spread]]] = {}
    for row, result in found.items():
        assert result.step_ratio is not None
        label = row.name.replace(f"rho {row.rho:g} ", "")
        lines.setdefault(label, []).append((row.rho, result.step_ratio))
    for label, points in lines.items():
        rhos = [rho for rho, _ in points]
        medians = [spread.median for _, spread in points]
        below = [spread.median - spread.low for _, spread in points]
        above = [spread.high - spread.median for _, spread in points]
        axes.errorbar(rhos, medians, [below, above], marker="o", capsize=3, label=label)
    axes.plot(*zip(*PAPER.items(), strict=True), "k*", label="GPLD paper (its GPU)")
    axes.axhline(1.0, color="0.6", linewidth=0.8)
    axes.set_xlabel("sampling fraction ρ")
    axes.set_ylabel("train step time / step without penalty")
    axes.legend(fontsize="small")
    return figure


def record(
    config: Config, baseline: Measured, found: dict[Variant, Measured], quick: bool
) -> dict[str, Any]:
    """The result file's content."""
    shape = {
        "size": config.size,
        "batch_size": config.batch_size,
        "batch_length": config.batch_length,
        "imagination_length": config.imagination_length,
    }
    rows = []
    for row, result in found.items():
        assert result.step_ratio is not None
        rows.append(
            {
                **row._asdict(),
                "step_ratio": result.step_ratio.median,
                "step_ratio_quartiles": [result.step_ratio.low, result.step_ratio.high],
                "step_seconds": result.step_seconds.median,
                "compile_seconds": result.compile_seconds,
                "peak_bytes": result.peak_bytes,
                "flops": result.flops,
            }
        )
    return {
        "what": "a check of the machinery" if quick else "a measurement",
        "shape": shape,
        "baseline_seconds": baseline.step_seconds._asdict(),
        "baseline_peak_bytes": baseline.peak_bytes,
        "paper": {str(rho): ratio for rho, ratio in PAPER.items()},
        "rows": rows,
        "not_measured": ["pallas: needs an NVIDIA GPU of the Hopper generation"],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 2 for an error of the user's."""
    options = _parser().parse_args(argv)
    try:
        config = _config(options)
        rounds = options.rounds or (3 if options.quick else 7)
        rows = variants(
            classes=config.model.classes, every=options.all, quick=options.quick
        )
        baseline, found = measure(Bench(config), rows, rounds=rounds)
        print(table(baseline, found))
        if options.quick:
            print("--quick: small shapes, a check of the machinery, no measurement")
        if options.json is not None:
            write_result(options.json, record(config, baseline, found, options.quick))
            print(f"wrote {options.json}")
        if options.png is not None:
            options.png.parent.mkdir(parents=True, exist_ok=True)
            draw(found).savefig(options.png)
            print(f"drew {options.png}")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _config(options: argparse.Namespace) -> Config:
    values = preset_values("gpld", platform=jax.default_backend())
    values |= {"--size": options.size}
    if options.quick:
        values |= {"--size": "1m", "--batch-size": 4, "--batch-length": 16}
        values |= {"--imagination-length": 5}
    return dataclasses.replace(build(values), env="walker-walk")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description="Time the train step with and without the Jacobian penalty.",
    )
    parser.add_argument("--size", choices=("1m", "12m", "25m"), default="12m")
    parser.add_argument("--all", action="store_true", help="the full cross product")
    parser.add_argument("--rounds", type=int, help="rounds that count (default 7)")
    parser.add_argument("--quick", action="store_true", help="small shapes, few rows")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--png", type=Path, metavar="OUT")
    return parser


if __name__ == "__main__":
    sys.exit(main())
