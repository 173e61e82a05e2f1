"""Where a number came from: date, commit, versions, machine and command.

Every benchmark writes its result through `write_result`, so that each committed JSON
answers the same questions. Neither the host nor the user is named, and a path outside
the working directory is reduced to its last component: results are published.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from train.processes.cores import usable_cores

COMMIT = "SMOOTH_DREAMER_COMMIT"
"""Environment variable with the commit, for a copy of the files that has no `.git`."""

_ROOT = Path(__file__).resolve().parent.parent.parent
_DISTRIBUTIONS = (
    "smooth-dreamer",
    "jax",
    "jaxlib",
    "equinox",
    "optax",
    "mujoco",
    "mujoco-mjx",
    "numpy",
)
# JAX's settings that change numbers, by the environment variables that set them.
_SETTINGS = (
    "JAX_ENABLE_X64",
    "JAX_DEFAULT_PRNG_IMPL",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_RANDOM_SEED_OFFSET",
    "JAX_THREEFRY_PARTITIONABLE",
    "JAX_HIGH_DYNAMIC_RANGE_GUMBEL",
    "JAX_SOFTMAX_CUSTOM_JVP",
    "JAX_ACCURATE_ERF_INV",
    "JAX_ALLOW_F16_REDUCTIONS",
    "JAX_DISABLE_JIT",
    "JAX_OPTIMIZATION_LEVEL",
)
_COMPILER = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")
"""Environment variables that the compilers read."""


def provenance(*, with_device: bool = True) -> dict[str, Any]:
    """Describe this run of Python, as a dictionary that JSON can hold.

    **Arguments:**

    - `with_device`: also name the devices jax computes on. It starts jax's backend,
      which a tool that only reads files should not do.

    **Returns:**

    `date` (UTC, ISO 8601), `commit` (outside a git checkout of this project what the
    environment variable SMOOTH_DREAMER_COMMIT says, or `None`),
    `modified` (whether tracked files differ from that commit; `None` without one),
    `versions`, `machine` (`cpu`, `cores` this process may use, `memory_gib`, `system`,
    and `devices`, one entry a device, where asked for), `settings` and `compiler` (see
    `jax_settings`, `compiler_flags`) and `command`.
    """
    checkout = _is_checkout()
    commit = _git("rev-parse", "HEAD") if checkout else os.environ.get(COMMIT)
    status = None
    if checkout:
        status = _git("status", "--porcelain", "--untracked-files=no")
    machine: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if with_device:
        import jax

        kinds = [device.device_kind for device in jax.devices()]
        # A CPU is one, for however many devices it stands.
        machine["devices"] = kinds[:1] if jax.default_backend() == "cpu" else kinds
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "modified": None if status is None else bool(status),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": machine,
        "settings": jax_settings() if with_device else {},
        "compiler": compiler_flags(),
        "command": command_line(),
    }


def jax_settings() -> dict[str, Any]:
    """JAX's settings that change numbers, by their environment variables.

    A setting that this version of JAX does not have is left out. Values are what JSON
    holds: `False`, `"threefry2x32"`, `None`.
    """
    import jax

    values = {name: getattr(jax.config, name.lower(), ...) for name in _SETTINGS}
    plain = (bool, int, float, str, type(None))
    return {
        name: value if isinstance(value, plain) else str(value)
        for name, value in values.items()
        if value is not ...
    }


def compiler_flags() -> dict[str, str]:
    """Environment variables with flags for the compilers, without folders."""
    return {
        name: " ".join(without_folders(word) for word in os.environ[name].split())
        for name in _COMPILER
        if os.environ.get(name)
    }


def write_result(
    path: Path, result: Mapping[str, Any], *, with_device: bool = True
) -> None:
    """Write `result` with its provenance, under the key `provenance`, as JSON.

    Folders above `path` are made. Raises `ValueError` if `result` has that key itself
    or holds a number JSON has no word for (NaN, infinity).
    """
    if "provenance" in result:
        raise ValueError("result: the key 'provenance' is taken; rename yours")
    record = {"provenance": provenance(with_device=with_device), **result}
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def command_line(argv: Sequence[str] | None = None) -> str:
    """The command as one would type it again in the working directory."""
    program, *arguments = list(sys.argv if argv is None else argv)
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if argv is None and spec is not None:
        name = spec.name.removesuffix(".__main__")
        words = ["python", "-m", name, *arguments]
    else:
        installed = Path(program).parent == Path(sys.executable).parent
        words = [Path(program).name if installed else program, *arguments]
    return " ".join(without_folders(word) for word in words)


def without_folders(word: str) -> str:
    """A word of a command with an absolute path as seen from here, or its last part."""
    flag, equals, value = word.partition("=")
    path = Path(value if equals else word)
    if not path.is_absolute():
        return word
    inside = path.is_relative_to(Path.cwd())
    short = str(path.relative_to(Path.cwd())) if inside else path.name
    return f"{flag}={short}" if equals else short


def _versions() -> dict[str, str]:
    versions = {}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _is_checkout() -> bool:
    # An installed copy may lie inside somebody else's repository, whose commit says
    # nothing about this code.
    top = _git("rev-parse", "--show-toplevel")
    return top is not None and Path(top).resolve() == _ROOT


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments],
            capture_output=True,
            check=False,
        )
    except OSError:
        return None
    # As file names are decoded, whatever the locale: a folder may have an umlaut.
    return os.fsdecode(done.stdout).strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
    return round(pages * size / 2**30, 1)
