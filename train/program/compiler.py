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


@functools.cache
def compiler_options(platform: str) -> Mapping[str, Any]:
    """The options for a platform, and a line that says so where there are any.

    A version of XLA that does not know them gets none, and the line says why.
    """
    if platform != "gpu":
        return {}
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options=dict(GPU_OPTIONS))
    except Exception as error:  # of whatever kind: the run goes on without them
        reason = str(error).splitlines()[0][:150]
        print(f"compiler: XLA's usual options ({reason})", flush=True)
        return {}
    words = ", ".join(f"{name}={value}" for name, value in GPU_OPTIONS.items())
    print(f"compiler: {words}", flush=True)
    return GPU_OPTIONS
