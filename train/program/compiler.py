"""XLA's options for the programs of a run."""

import functools
from collections.abc import Mapping
from typing import Any

import jax

_GRAPHS = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION"
GPU_OPTIONS: Mapping[str, Any] = {
    # Loops as a whole in CUDA graphs: one launch for the host, not one a turn.
    "xla_gpu_enable_command_buffer": f"{_GRAPHS},WHILE,CONDITIONAL",
}
BRIEF_OPTIONS: Mapping[str, Any] = {
    # LLVM optimizes nothing: half the time to compile, five times that to run.
    "xla_backend_optimization_level": 0,
}


def compiler_options(platform: str, *, brief: bool = False) -> Mapping[str, Any]:
    """The options for a platform (`jax.default_backend()`).

    Args:
        brief: of a program that runs for an instant. Prefill is none: it would take
            longer in every run than is saved in the first.
    """
    if platform == "gpu":
        return _known_to_xla()
    return BRIEF_OPTIONS if brief and platform == "cpu" else {}


@functools.cache
def _known_to_xla() -> Mapping[str, Any]:
    """Those of a GPU, and a line that says so.

    A version of XLA that does not know them gets none, and the line says why.
    """
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options=dict(GPU_OPTIONS))
    except Exception as error:  # of whatever kind: the run goes on without them
        reason = str(error).splitlines()[0][:150]
        print(f"compiler: XLA's usual options ({reason})", flush=True)
        return {}
    words = ", ".join(f"{name}={value}" for name, value in GPU_OPTIONS.items())
    print(f"compiler: {words}", flush=True)
    return GPU_OPTIONS
