"""``python -m benchmarks.gpu --stage compile``: what would run on a GPU, counted."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from benchmarks.cli import QUICK
from benchmarks.gpu.compile import estimate, target
from benchmarks.gpu.parts import attempt
from train.errors import UserError
from train.program.compiler import GPU_OPTIONS
from train.run_dir.provenance import write_result

WHAT = "a count of what was compiled, no measurement"


def run(options: argparse.Namespace) -> int:
    """Compiles and counts; exit status 1 if a program did not compile.

    Args:
        options: the command line's, of the group "stage compile".

    Raises:
        UserError: XLA's CUDA compiler is missing, or a name is not known.
    """
    if options.keep is None and (options.xla or options.variant):
        raise UserError("--xla and --variant: allowed with --keep DIR")
    if options.keep is not None and options.json is not None:
        raise UserError("--json: --keep counts nothing; allowed: one of the two")
    target.plugin_folder()
    # Nothing is computed, and a GPU that is here is not used.
    jax.config.update("jax_platforms", "cpu")
    if options.keep is not None:
        return _keep(options)
    rows: list[dict[str, Any]] = []
    for row in measured(options.only, options.device, quick=options.quick):
        rows.append(row)
        print(_line(row), flush=True)
        if options.json is not None:  # after each, so that nothing is lost
            write_result(options.json, _result(rows, options.quick))
    print(f"model_ms: {estimate.MODEL}")
    if options.json is not None:
        print(f"wrote {options.json}")
    return int(any("error" in row for row in rows))


def measured(
    only: Iterable[str], devices: Iterable[str], *, quick: bool = False
) -> Iterator[dict[str, Any]]:
    """A row of counts for every program, or of the error that it ended in.

    Args:
        only: names of `programs.PROGRAMS`; none for all.
        quick: the first of each alone.
    """
    for make in _chosen(only).values():
        for number, built in enumerate(make()):
            if quick and number:
                break
            for device in devices:
                row = attempt(lambda b=built, d=device: compiled(b, d))
                yield {"program": built.label, "device": device} | row


def _chosen(only: Iterable[str]) -> Mapping[str, Callable[[], Iterator[Any]]]:
    """The programs of these names, all if there are none."""
    from benchmarks.gpu.compile.programs import PROGRAMS  # imports MuJoCo

    if unknown := set(only) - set(PROGRAMS):
        raise UserError(
            f"--only {' '.join(sorted(unknown))}: allowed: {', '.join(PROGRAMS)}"
        )
    return {name: PROGRAMS[name] for name in only or PROGRAMS}


def _keep(options: argparse.Namespace) -> int:
    """Compiles as a training run does, and writes what `--compiled` runs."""
    from benchmarks.gpu import ahead

    if len(options.device) > 1:
        raise UserError("--keep: one --device, as the files are of one")
    # What comes from the cache on disk may be incomplete when it is written once more.
    jax.config.update("jax_enable_compilation_cache", False)
    usual = [name for names in ahead.UPDATES.values() for name in names]
    usual += ["op", "before-training", "chunk"]
    flags = dict(_flag(word) for word in options.xla)
    variant = " ".join(options.variant)
    for make in _chosen(options.only or usual).values():
        for built in make():
            program = target.compile_for(
                built.fn,
                built.args,
                device=options.device[0],
                donate=built.donate,
                options={**GPU_OPTIONS, **flags},
            )
            path = ahead.keep(
                program,
                built.label,
                options.device[0],
                options.keep,
                flags=flags,
                variant=variant,
            )
            print(f"wrote {path}", flush=True)
    return 0


def _flag(word: str) -> tuple[str, Any]:
    """`NAME=VALUE` of `--xla`."""
    name, equals, value = word.partition("=")
    if not equals:
        raise UserError(f"--xla {word}: allowed: NAME=VALUE")
    return name, {"true": True, "false": False}.get(value, value)


def compiled(built: Any, device: str) -> dict[str, Any]:
    """The counts of one program (a `programs.Built`) for one device."""
    from benchmarks.gpu.compile.count import count

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target.compile_into(
            folder,
            built.fn,
            built.args,
            device=device,
            donate=built.donate,
            options=GPU_OPTIONS,
        )
        return count(folder, built.label, device)


def _result(rows: list[dict[str, Any]], quick: bool) -> dict[str, Any]:
    return {"what": QUICK if quick else WHAT, "model": estimate.MODEL, "rows": rows}


def _line(row: Mapping[str, Any]) -> str:
    title = f"{row['program']}, {row['device']}"
    if "error" in row:
        return f"{title}: {row['error'].splitlines()[0][:200]}"
    spills = "?" if row["spill_bytes"] is None else f"{row['spill_bytes']}"
    return (
        f"{title}: {row['launches']:,} launches ({row['in_graphs']:,} in "
        f"{row['graph_launches']} graphs), {row['flops'] / 1e9:.1f} GFLOP, "
        f"{row['bytes'] / 1e9:.2f} GB, temporaries {row['temp_bytes'] / 1e6:.0f} MB, "
        f"largest spill {spills} bytes, model {row['model_ms']:.2f} ms; "
        f"compiled in {row['compile_seconds']:.0f} s"
    )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a result of this stage."""
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


if __name__ == "__main__":
    sys.exit("python -m benchmarks.gpu --stage compile")
