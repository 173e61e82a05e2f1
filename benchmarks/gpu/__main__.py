"""What is measured on an NVIDIA GPU, in stages of under nine minutes.

    python -m benchmarks.gpu --stage kernel [--out DIR] [--quick] [--resume FILE]

kernel: is the fused kernel right, how is it best cut, how fast is it? overhead: the
train step with and without penalty. env: control steps a second. throughput: an update
by phase, its trace, XLA's flags, several agents. learn: walker-run with and without
penalty, which goes on where it was at the last call on the same machine. determinism:
when the same seed gives the same bits. A stage writes ``gpu_NAME.json`` and
``gpu_NAME.log`` to DIR, by default to the directory that the environment variable OUT
names, or to the present one. `--quick` rehearses a stage at tiny sizes on any device.
`--resume FILE` keeps the complete parts of an earlier result of the same stage, commit
and device, and measures the rest.

A kernel that was never run may hang or leave the device unusable. So every part runs in
a process of its own with a time limit, and writes down each result as it comes: the
other parts go on, and the file holds whatever was found.

    python -m benchmarks.gpu --stage all [--minutes 9] [--quick]

has the parts of all stages that matter most, for a machine that is lent for one call.

    python -m benchmarks.gpu --stage compile [--only NAME ...] [--json PATH]

compiles the programs for a GPU that need not be there, and counts what they would
launch (see `benchmarks.gpu.compile`).
"""

import importlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.cli import Parser, amount
from benchmarks.gpu.parts import COMPILED, KERNEL_OFF, STAGES, Part, check_compiled
from benchmarks.gpu.resume import WHAT, all_passed, all_well, whole_parts
from benchmarks.gpu.summary import summary
from benchmarks.measure.device_time import PEAKS, peak_of
from train.errors import UserError, one_line_errors
from train.run_dir.provenance import write_result

SHARED_CACHE = ("throughput", "overhead", "all")
"""Stages whose parts share compiled programs, in a new folder at each call."""

PATIENCE = 4
"""A rehearsal may be on a slow machine: it has so many times a part's seconds."""

START_SECONDS = 10.0
"""Of a part's time, what starting Python and JAX may have taken already."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit status 2 without a GPU.

    It is 1 if a check did not pass or, in a stage without checks, not all was measured.
    """
    options = _parser().parse_args(argv)
    # The parts' processes share the device with this one, which computes nothing.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if options.compiled is not None:
        os.environ[COMPILED] = str(options.compiled.absolute())
    with one_line_errors():
        check_compiled(options.stage, options.compiled)
        if options.stage == "compile":
            from benchmarks.gpu.compile import command

            return command.run(options)
        device = any_device() if options.quick else require_gpu()
        if options.part is None:
            done = {}
            if options.resume is not None:
                done = whole_parts(options.resume, options.stage, quick=options.quick)
            return run_stage(
                options.stage,
                options.out,
                device,
                options.quick,
                done,
                minutes=options.minutes,
                only=options.only,
            )
        parts = chosen_parts(options.stage, quick=options.quick)
        if options.part not in parts:
            raise UserError(
                f"--part {options.part}: stage {options.stage} has {', '.join(parts)}"
            )
    part = parts[options.part]
    if options.seconds is not None:
        part = part._replace(seconds=options.seconds)
    entries = entries_path(options.out, options.stage, options.part)
    run_part(part, options.out, entries)
    return 0


def parts_of(stage: str) -> dict[str, Part]:
    """All parts of a stage."""
    return importlib.import_module(f"benchmarks.gpu.{stage}").PARTS


def chosen_parts(
    stage: str, *, quick: bool, only: Sequence[str] = ()
) -> dict[str, Part]:
    """The parts of a stage, with `quick` those that can be rehearsed.

    Args:
        only: their names, in the order in which they are to run; none for all.

    Raises:
        UserError: `quick`, and there is none.
    """
    parts = parts_of(stage)
    if unknown := [name for name in only if name not in parts]:
        raise UserError(
            f"--only {' '.join(unknown)}: stage {stage} has {', '.join(parts)}"
        )
    parts = {name: parts[name] for name in only or parts}
    if not quick:
        return parts
    parts = {
        name: part._replace(run=part.rehearse, seconds=PATIENCE * part.seconds)
        for name, part in parts.items()
        if part.rehearse is not None
    }
    if not parts:
        raise UserError(
            f"--quick: stage {stage} has no rehearsal; allowed with the others: "
            + ", ".join(name for name in STAGES if name != stage)
        )
    return parts


def any_device() -> str:
    """The name of the device that a rehearsal runs on."""
    return jax.devices()[0].device_kind


def require_gpu() -> str:
    """The name of the GPU that is measured; raises `UserError` where there is none."""
    device = jax.devices()[0]
    if device.platform != "gpu":
        raise UserError(
            "benchmarks.gpu needs an NVIDIA GPU, and JAX's default device is "
            f"{device.platform!r}: install the extra 'cuda13' on a machine that has "
            "one, or run python -m benchmarks.overhead.op here"
        )
    return device.device_kind


def run_stage(
    stage: str,
    out: Path,
    device: str,
    quick: bool = False,
    done: Mapping[str, Any] | None = None,
    *,
    minutes: float | None = None,
    only: Sequence[str] = (),
) -> int:
    """Runs all parts, each in its own process, and gathers what they wrote.

    Args:
        done: parts that were measured before, as the result had them.
        minutes: what all parts together may take, in their order: those for which
            there is no time left are named. None for what they say.
        only: see `chosen_parts`.
    """
    chosen = chosen_parts(stage, quick=quick, only=only)
    path = out / f"gpu_{stage}.json"
    entries_path(out, stage, "").parent.mkdir(parents=True, exist_ok=True)
    peak = peak_of(device)
    begun = time.perf_counter()
    parts: dict[str, Any] = {}
    environment = os.environ.copy()

    def write() -> None:
        result = {
            "what": WHAT[quick],
            "stage": stage,
            "peaks": {kind: known._asdict() for kind, known in PEAKS.items()},
            "peak": None if peak is None else peak._asdict(),
            "seconds": time.perf_counter() - begun,
            "parts": parts,
        }
        write_result(path, result)

    with tempfile.TemporaryDirectory() as cache:
        if stage in SHARED_CACHE:
            environment.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
        limit = 60 * minutes if minutes else math.inf
        spare = 0.0
        for name, part in chosen.items():
            if done and name in done:
                parts[name] = done[name]
                print(f"{name}: taken from the earlier result", flush=True)
                continue
            start = time.perf_counter()
            allowed = int(min(part.seconds + spare, limit - (start - begun)))
            if allowed < 2 * START_SECONDS:
                parts[name] = {"ended": "not begun", "seconds": 0.0, "entries": {}}
                continue
            print(f"{name}: at most {allowed} s", flush=True)
            entries = entries_path(out, stage, name)
            entries.unlink(missing_ok=True)
            command = [sys.executable, "-m", "benchmarks.gpu", "--stage", stage]
            command += ["--quick"] if quick else []
            command += ["--part", name, "--seconds", str(allowed), "--out", str(out)]
            log = entries.with_suffix(".log")
            ended = own_process(command, allowed, log, environment)
            taken = time.perf_counter() - start
            # What one part leaves is for those after it.
            spare = max(0.0, allowed - taken)
            parts[name] = {
                "ended": ended,
                "seconds": taken,
                "entries": read_entries(entries),
            }
            if name == "checks" and ended != "complete":
                # A kernel that hangs or breaks the device would end the rest as well.
                environment[KERNEL_OFF] = ended.partition(":")[0]
            write()
        write()
    gather_logs(entries_path(out, stage, "").parent, path.with_suffix(".log"))
    print(summary(parts))
    if quick:
        print(f"--quick: tiny sizes, {WHAT[True]}")
    print(f"wrote {path}")
    if "checks" in parts and stage != "all":
        return 0 if all_passed(parts["checks"]) else 1
    return 0 if all(all_well(*each) for each in parts.items()) else 1


def gather_logs(folder: Path, path: Path) -> None:
    """Makes one file of the parts' logs, and removes their folder.

    What comes back from a lent machine may be few files.
    """
    with path.open("w", encoding="utf-8") as file:
        for log in sorted(folder.glob("*.log"), key=lambda log: log.stat().st_mtime):
            text = log.read_text(encoding="utf-8", errors="replace")
            file.write(f"== {log.stem}\n{text}\n")
    shutil.rmtree(folder)


def own_process(
    command: Sequence[str],
    seconds: float,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Runs a command with a time limit; says how it ended, with the log's last lines.

    Returns "complete", or what went wrong.
    """
    with log.open("w", encoding="utf-8") as output:
        child = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0,
        )
        try:
            code = child.wait(timeout=seconds)
        except BaseException as error:
            # With what it started: a run that is left would keep the device busy.
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return f"killed after {seconds:g} s"
    if code == 0:
        return "complete"
    last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-4:]
    return f"exit status {code}: {' | '.join(last)[:1000]}"


def run_part(part: Part, out: Path, path: Path) -> None:
    """Runs one part here, writing each entry as a line as soon as it is known."""
    begun = time.perf_counter()

    def left() -> float:
        return part.seconds - START_SECONDS - (time.perf_counter() - begun)

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as lines:
        for name, entry in part.run(left, out) if part.files else part.run(left):
            print(f"{name}: {sorted(entry)}, {left():.0f} s left", flush=True)
            lines.write(json.dumps([name, entry], allow_nan=False) + "\n")
            lines.flush()


def entries_path(out: Path, stage: str, part: str) -> Path:
    """Where a part's process leaves its entries, in a folder of the stage's parts."""
    return out / f"gpu_{stage}_parts" / f"{part.replace(' ', '-')}.jsonl"


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


def _parser() -> Parser:
    parser = Parser(
        "gpu",
        description="Check and time this project on an NVIDIA GPU.",
    )
    parser.add_argument("--stage", choices=(*STAGES, "all", "compile"), required=True)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get("OUT", ".")),
        help="where the results go (default: $OUT, or here)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, on any device: a rehearsal"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="an earlier result: keep its parts"
    )
    parser.add_argument(
        "--minutes",
        type=amount,
        help="end after so many, whatever is left to do (default: when all is done)",
    )
    parser.add_argument(
        "--compiled",
        type=Path,
        metavar="DIR",
        help="stage all: programs that --stage compile --keep wrote (only those that "
        "you trust: they are pickles)",
    )
    parser.add_argument("--part", help="only this part, in this process")
    parser.add_argument("--seconds", type=int, help="what --part may take")
    parser.add_argument(
        "--only",
        metavar="NAME",
        nargs="+",
        default=[],
        help="only these parts, in this order; of stage compile, only these programs",
    )
    compiling = parser.add_argument_group("stage compile")
    compiling.add_argument(
        "--device",
        nargs="+",
        choices=("h100", "h200"),
        default=["h200"],
        help="what is compiled for (default: h200)",
    )
    compiling.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="count nothing, and keep the programs for --compiled "
        "(by default the updates, the op, and those of a training run)",
    )
    compiling.add_argument(
        "--xla",
        metavar="NAME=VALUE",
        nargs="+",
        default=[],
        help="with --keep: XLA's flags, besides those of a training run",
    )
    compiling.add_argument(
        "--variant",
        metavar="WORD",
        nargs="+",
        default=[],
        help="with --keep: what such a program's file is called besides its name",
    )
    compiling.add_argument(
        "--json", type=Path, metavar="PATH", help="write the counts here"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
