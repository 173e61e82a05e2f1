"""How long a program might take: a model, never compared with a device."""

from collections.abc import Iterable

from benchmarks.gpu.compile.hlo import Cost
from benchmarks.gpu.compile.thunks import Step
from benchmarks.measure.device_time import PEAKS

MODEL = (
    "a model that was never compared with a device: kernels run in order, each takes "
    "the longest of 1.5 µs, its bytes at the memory's bandwidth and its products at "
    "989 TFLOP/s, and 1 µs passes before the next; the host spends 7 µs on a CUDA "
    "graph and 2.5 µs on any other launch"
)

_PEAKS = {"h100": PEAKS["H100 80GB HBM3"], "h200": PEAKS["H200"]}
_LEAST, _GAP = 1.5e-6, 1.0e-6
_HOST = {"kCommandBuffer": 7e-6, "kAsyncStart": 2e-6, "kAsyncDone": 1e-6}
_HOST_LAUNCH = 2.5e-6


def seconds(steps: Iterable[tuple[Step, Cost]], device: str) -> float:
    """The model's estimate for one run of a program (see `MODEL`).

    Host and device work at the same time within a loop; loops follow one another.
    """
    peak = _PEAKS[device]
    host: dict[tuple, float] = {}
    busy: dict[tuple, float] = {}
    for step, cost in steps:
        if step.is_launch:
            work = max(cost.bytes / peak.bytes, cost.flops / peak.flops, _LEAST)
            busy[step.loops] = busy.get(step.loops, 0.0) + step.times * (work + _GAP)
        if not step.in_graph:
            each = _HOST.get(step.kind, _HOST_LAUNCH if step.is_launch else 0.0)
            host[step.loops] = host.get(step.loops, 0.0) + step.times * each
    return sum(max(host.get(loops, 0.0), busy.get(loops, 0.0)) for loops in host | busy)
