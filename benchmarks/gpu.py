"""What is measured on an NVIDIA GPU, in stages of under nine minutes.

    python -m benchmarks.gpu --stage kernel [--out DIR]

kernel: is the fused kernel right, how is it best cut, how fast is it? overhead: the
train step with and without penalty. env: control steps a second. A stage writes
``gpu_NAME.json`` to DIR, by default to the directory that the environment variable OUT
names, or to the present one.

A kernel that was never run may hang or leave the device unusable. So every part runs in
a process of its own with a time limit, and writes down each result as it comes: the
other parts go on, and the file holds whatever was found.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import gpu_env, gpu_kernel, gpu_overhead
from benchmarks.device_time import PEAKS, peak_of
from train.errors import UserError, one_line_errors
from train.provenance import write_result

STAGES = {
    "kernel": gpu_kernel.PARTS,
    "overhead": gpu_overhead.PARTS,
    "env": gpu_env.PARTS,
}

START_SECONDS = 10.0
"""Of a part's time, what starting Python and JAX may have taken already."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit status 2 without a GPU.

    It is 1 if a check did not pass or, in a stage without checks, not all was measured.
    """
    options = _parser().parse_args(argv)
    # The parts' processes share the device with this one, which computes nothing.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with one_line_errors():
        device = require_gpu()
        if options.part is None:
            return run_stage(options.stage, options.out, device)
        if options.part not in STAGES[options.stage]:
            raise UserError(
                f"--part {options.part}: stage {options.stage} has "
                f"{', '.join(STAGES[options.stage])}"
            )
    run_part(STAGES[options.stage][options.part], entries_path(options))
    return 0


def require_gpu() -> str:
    """The name of the GPU that is measured; raises `UserError` where there is none."""
    device = jax.devices()[0]
    if device.platform != "gpu":
        raise UserError(
            "benchmarks.gpu needs an NVIDIA GPU, and JAX's default device is "
            f"{device.platform!r}: install the extra 'cuda13' on a machine that has "
            "one, or run python -m benchmarks.op here"
        )
    return device.device_kind


def run_stage(stage: str, out: Path, device: str) -> int:
    """Runs all parts, each in its own process, and gathers what they wrote."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"gpu_{stage}.json"
    peak = peak_of(device)
    parts: dict[str, Any] = {}
    for name, part in STAGES[stage].items():
        print(f"{name}: at most {part.seconds} s", flush=True)
        start = time.perf_counter()
        options = argparse.Namespace(stage=stage, part=name, out=out)
        entries_path(options).unlink(missing_ok=True)
        command = [sys.executable, "-m", "benchmarks.gpu", "--stage", stage]
        command += ["--part", name, "--out", str(out)]
        ended = own_process(command, part.seconds, out / f"{stage}_{name}.log")
        parts[name] = {
            "ended": ended,
            "seconds": time.perf_counter() - start,
            "entries": read_entries(entries_path(options)),
        }
        write_result(
            path,
            {
                "what": "a measurement",
                "stage": stage,
                "peaks": {kind: known._asdict() for kind, known in PEAKS.items()},
                "peak": None if peak is None else peak._asdict(),
                "parts": parts,
            },
        )
    print(summary(parts))
    print(f"wrote {path}")
    if "checks" in parts:
        return 0 if all_passed(parts["checks"]) else 1
    return 0 if all(all_measured(part) for part in parts.values()) else 1


def own_process(command: Sequence[str], seconds: float, log: Path) -> str:
    """Runs a command with a time limit; says how it ended, with the log's last lines.

    Returns "complete", or what went wrong.
    """
    with log.open("w", encoding="utf-8") as output:
        try:
            done = subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"killed after {seconds:g} s"
    if done.returncode == 0:
        return "complete"
    last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-4:]
    return f"exit status {done.returncode}: {' | '.join(last)[:1000]}"


def run_part(part: gpu_kernel.Part, path: Path) -> None:
    """Runs one part here, writing each entry as a line as soon as it is known."""
    begun = time.perf_counter()

    def left() -> float:
        return part.seconds - START_SECONDS - (time.perf_counter() - begun)

    with path.open("w", encoding="utf-8") as lines:
        for name, entry in part.run(left):
            print(f"{name}: {sorted(entry)}, {left():.0f} s left", flush=True)
            lines.write(json.dumps([name, entry], allow_nan=False) + "\n")
            lines.flush()


def entries_path(options: argparse.Namespace) -> Path:
    """Where a part's process leaves its entries."""
    return options.out / f"{options.stage}_{options.part}.jsonl"


def read_entries(path: Path) -> dict[str, Any]:
    """The entries a part wrote; of a last line cut short, nothing."""
    if not path.is_file():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            name, entry = json.loads(line)
            found[name] = entry
    return found


def all_passed(checks: Mapping[str, Any] | None) -> bool:
    """Whether the part ran to its end and every one of its checks passed."""
    if checks is None or checks["ended"] != "complete" or not checks["entries"]:
        return False
    return all(entry.get("passed") is True for entry in checks["entries"].values())


def all_measured(part: Mapping[str, Any]) -> bool:
    """Whether the part ran to its end without an error in any of its entries."""
    errors = ["error" in entry for entry in part["entries"].values()]
    return part["ended"] == "complete" and bool(errors) and not any(errors)


def summary(parts: Mapping[str, Any]) -> str:
    """What was found, in a few lines."""
    lines = [f"{name}: {part['ended']}" for name, part in parts.items()]
    for name, part in parts.items():
        for item, entry in part["entries"].items():
            if "error" in entry:
                lines.append(f"{name}: {item}: {entry['error'].splitlines()[0][:150]}")
            elif "passed" in entry:
                worst = [x for x in entry["arrays"] if not x["passed"]]
                told = "passed" if entry["passed"] else f"FAILED {worst[0]}"
                lines.append(f"{name}: {item}: {told}")
            else:
                speed = entry.get("steps_per_second")
                told = f", {speed['median']:,.0f} control steps/s" if speed else ""
                lines.append(f"{name}: {item}{told}")
                timed = entry.get("implementations") or entry.get("programs") or {}
                lines += [_timed_line(key, found) for key, found in timed.items()]
    return "\n".join(lines)


def _timed_line(name: str, found: Mapping[str, Any]) -> str:
    text = f"    {name:24} {1e6 * found['seconds']['median']:9.1f} µs"
    if "speedup_over_xla" in found:
        text += f", {found['speedup_over_xla']['median']:.2f}× xla"
    if "floor" in found:
        text += f", {100 * found['floor']['fraction']:.0f}% of the floor"
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Check and time this project on an NVIDIA GPU.",
    )
    parser.add_argument("--stage", choices=tuple(STAGES), required=True)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get("OUT", ".")),
        help="where the results go (default: $OUT, or here)",
    )
    parser.add_argument("--part", help="only this part, in this process")
    return parser


if __name__ == "__main__":
    sys.exit(main())
