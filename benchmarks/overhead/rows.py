"""The train steps that the overhead benchmark compares, and the result of each."""

from typing import NamedTuple

from benchmarks.measure.timing import Interval, Spread
from core.constants import TARGETS, Target
from core.penalty import PenaltyOptions

# GPLD Table 4, λ = 0.5, posterior: mean time ratio of whole runs on the authors' GPU.
PAPER = {0.25: 1.11, 0.5: 1.51, 0.75: 1.46, 1.0: 1.68}
RHOS = (0.25, 0.5, 0.75, 1.0)


class Variant(NamedTuple):
    """One row of the table."""

    implementation: str
    target: Target
    rho: float
    probe_kind: str
    probes: int | None

    @property
    def name(self) -> str:
        """A unique label of the row."""
        count = "" if self.probes is None else f"{self.probes} "
        return (
            f"{self.implementation} {self.target} rho {self.rho:g} "
            f"{count}{self.probe_kind}"
        )

    @property
    def options(self) -> PenaltyOptions:
        """The row as options of the train step."""
        return PenaltyOptions(
            implementation=self.implementation,  # pyright: ignore[reportArgumentType]
            target=self.target,
            rho=self.rho,
            probe_kind=self.probe_kind,  # pyright: ignore[reportArgumentType]
            probes=self.probes,
        )


class Measured(NamedTuple):
    """The result of one program.

    Attributes:
        step_seconds: by the clock.
        processor_seconds: of both system and user time, all threads added up.
        step_ratio: to the step without penalty; of processor time on a CPU, where other
            processes disturb it least, and by the clock on a GPU.
        wall_ratio: the same by the clock.
    """

    step_seconds: Spread
    processor_seconds: Spread
    step_ratio: Interval
    wall_ratio: Interval
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
        return [
            Variant("xla", "posterior", 0.5, "rademacher", 1),
            Variant("xla", "posterior", 1.0, "exact", None),
            Variant("xla", "prior", 0.5, "rademacher", 1),
            Variant("reference", "posterior", 0.5, "rademacher", 1),
        ]
    rows = []
    for implementation in ("xla", "reference"):
        for target in TARGETS:
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
