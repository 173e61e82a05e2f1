"""Compiling for an NVIDIA GPU on a machine that has none.

XLA's CUDA plugin carries a description of each GPU that it knows, and compiles for it
without a driver. Kernels are not autotuned, as there is nothing to try them on.
"""

import contextlib
import importlib.util
import json
import mmap
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from kernels.pallas import tiling
from train.errors import UserError

DEVICES = {"h100": "NVIDIA H100 80GB HBM3", "h200": "NVIDIA H200 141GB HBM3e"}
"""The names that XLA's descriptions have."""

PLUGIN = "jax_plugins.xla_cuda13"

_VERSIONS = {
    "driver_version": "13.0.0",
    "runtime_version": "13.2.0",
    "compile_time_toolkit_version": "13.2.0",
}
"""What a machine has that installs the extra. The descriptions name older ones, for
which XLA leaves some operations out of CUDA graphs."""

_DESCRIPTION = b"gpu_device_info {"
_LONGEST = 16384
_PRINTABLE = bytes(range(32, 127)) + b"\n\t"

_WRAPPER = """#!/bin/sh
report=$(mktemp "{folder}/XXXXXXXX.ptxas")
exec "{ptxas}" -v "$@" 2>"$report"
"""


def plugin_folder() -> Path:
    """Where XLA's CUDA plugin is installed.

    Raises:
        UserError: it is not.
    """
    try:
        found = importlib.util.find_spec(PLUGIN)
    except ModuleNotFoundError:
        found = None
    if found is None or found.origin is None:
        raise UserError(
            "--stage compile needs XLA's CUDA compiler, which is not installed: "
            "uv sync --extra cuda13 (5 GB, for Linux; no GPU is needed)"
        )
    return Path(found.origin).parent


def description(device: str) -> str:
    """XLA's own description of a device of `DEVICES`."""
    wanted = f'device_description_str: "{DEVICES[device]}"'
    path = plugin_folder() / "xla_cuda_plugin.so"
    with path.open("rb") as file:
        image = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        at = image.find(_DESCRIPTION)
        while at >= 0:
            block = image[at : at + _LONGEST]
            end = next((i for i, c in enumerate(block) if c not in _PRINTABLE), None)
            text = block[:end].decode().split("\n# Copyright")[0]
            if wanted in text:
                for key, version in _VERSIONS.items():
                    text = re.sub(rf'({key}: )"[^"]*"', rf'\1"{version}"', text)
                return text
            at = image.find(_DESCRIPTION, at + 1)
    raise UserError(f"XLA's CUDA plugin in {path.name} does not describe {wanted}")


def placed_on(device: str) -> NamedSharding:
    """The place of an array on the absent device."""
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=description(device), topology="1x1x1"
    )
    mesh = topologies.make_mesh(topology, (1,), ("device",))
    return NamedSharding(mesh, PartitionSpec())


@contextlib.contextmanager
def as_on_gpu() -> Iterator[None]:
    """What this project and JAX ask about the device is answered as on a Hopper GPU."""
    backend, hopper = jax.default_backend, tiling.require_hopper
    jax.default_backend = lambda: "gpu"
    tiling.require_hopper = lambda: None
    try:
        yield
    finally:
        jax.default_backend, tiling.require_hopper = backend, hopper


def compile_for(
    fn: Callable[..., Any],
    args: tuple[PyTree, ...],
    *,
    device: str,
    donate: tuple[int, ...] = (),
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Compiles `fn` for a device, which need not be there.

    Args:
        args: arrays or `jax.ShapeDtypeStruct`s; only shapes and types matter.
        donate: see `jax.jit`.
        options: for XLA.
    """
    place = placed_on(device)

    def absent(x: Any) -> Any:
        if not hasattr(x, "dtype"):
            return x
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

    with as_on_gpu():
        # Not the default device's: it must not matter what this process runs on.
        traced = jax.jit(fn, donate_argnums=donate).trace(*jax.tree.map(absent, args))
        return traced.lower().compile(compiler_options=dict(options or {}))


def compile_into(
    folder: Path,
    fn: Callable[..., Any],
    args: tuple[PyTree, ...],
    *,
    device: str,
    donate: tuple[int, ...] = (),
    options: Mapping[str, Any] | None = None,
) -> Any:
    """As `compile_for`, and writes to `folder` all that `count` reads.

    Returns:
        The compiled program, which cannot be run here.
    """
    flags = {
        "xla_dump_to": str(folder),
        "xla_dump_hlo_as_text": True,
        # Each kernel by ptxas itself, whose report is kept.
        "xla_gpu_cuda_data_dir": str(_toolkit(folder)),
        "xla_gpu_libnvjitlink_mode": "LIB_NV_JIT_LINK_MODE_DISABLED",
    }
    start = time.perf_counter()
    with _mosaic_reports(folder):
        compiled = compile_for(
            fn, args, device=device, donate=donate, options=flags | dict(options or {})
        )
    memory = compiled.memory_analysis()
    assert memory is not None
    (folder / "program.txt").write_text(compiled.as_text() or "", encoding="utf-8")
    found = {
        "compile_seconds": time.perf_counter() - start,
        "temp_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
    }
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    return compiled


def _toolkit(folder: Path) -> Path:
    """A CUDA toolkit whose `ptxas` keeps its reports in `folder`."""
    cuda = plugin_folder().parents[1] / "nvidia" / "cu13"
    home = folder / "toolkit"
    (home / "bin").mkdir(parents=True)
    for each in cuda.iterdir():
        if each.name != "bin":
            (home / each.name).symlink_to(each)
    for each in (cuda / "bin").iterdir():
        if each.name != "ptxas":
            (home / "bin" / each.name).symlink_to(each)
    wrapper = home / "bin" / "ptxas"
    text = _WRAPPER.format(folder=folder.resolve(), ptxas=cuda / "bin" / "ptxas")
    wrapper.write_text(text, encoding="utf-8")
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    return home


@contextlib.contextmanager
def _mosaic_reports(folder: Path) -> Iterator[None]:
    """Mosaic, which makes the fused kernel, writes its reports to `folder`."""
    name = "MOSAIC_GPU_DUMP_TO"
    before = os.environ.get(name)
    os.environ[name] = tempfile.mkdtemp(prefix="mosaic", dir=folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
