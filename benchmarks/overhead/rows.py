"""The train steps that the overhead benchmark compares, and the result of each."""

from typing import NamedTuple

from benchmarks.measure.timing import Spread
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
    """The result of one program; the ratio is None for the baseline."""

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
