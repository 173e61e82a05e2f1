"""Settings of the Jacobian penalty, and which of them go together."""

import dataclasses
from typing import Annotated, Literal

from tyro.conf import arg

from core.constants import PENALIZED, Decay, Normalization, Target  # needs no JAX
from train.config.fields import (
    MAX_COUNT,
    Count,
    Fraction,
    NonNegative,
    Positive,
    Range,
    check_fields,
    invalid,
)


@dataclasses.dataclass(frozen=True)
class PenaltyConfig:
    """The Jacobian penalty on the latent dynamics (GPLD, Algorithms 1 and 2)."""

    implementation: Annotated[
        Literal["none", "reference", "xla", "pallas"], arg(name="penalty")
    ] = "xla"
    """Which code computes the penalty; none trains plain DreamerV3.
    reference: the definition by vector-Jacobian products, slow.
    xla: the Gram form, fast everywhere; pallas: the fused GPU kernel."""
    target: Annotated[Target, arg(name="penalty-target")] = "posterior"
    """Which map the penalty keeps smooth; core is the recurrent map h, z, a -> h'."""
    rho: Fraction = 0.5
    """Fraction of the batch's states that are penalized, in (0, 1]."""
    lambda0: NonNegative = 0.5
    """Coefficient of the penalty at the first update; .01 with target core."""
    lambda0_prior: NonNegative | None = None
    """The same for the prior, with target prior or both. Default: --lambda0."""
    lambda_min: NonNegative = 0.001
    """Lower bound of the decaying coefficient; --lambda0 with target core."""
    decay: Decay = "sqrt"
    """How the coefficient falls, by d(updates / c) with c = --decay-scale:
    lambda = max(lambda0 d, lambda_min). sqrt: 1 / sqrt(1 + x) (the paper).
    exponential: exp(-x). linear and cosine: 1 to 0, where x is 1. none: 1."""
    decay_scale: Positive = 1000.0
    """c in the decay, in updates."""
    penalty_start: Annotated[int, Range(0, MAX_COUNT)] = 0
    """Updates before the penalty sets in; the decay begins there."""
    penalty_error: NonNegative = 0.0
    """Weakens the penalty as the model becomes accurate: lambda is multiplied by
    min(1, E / this), with E the KL divergence of posterior and prior above --free-nats
    in the update's batch; not below --lambda-min. 0: by the schedule alone."""
    normalization: Normalization = "sampled"
    """sampled: mean over the sampled states (Algorithm 1).
    batch: their sum over all states, so that the weight is lambda * rho
    (what the authors' released code does)."""
    probe_kind: Literal["rademacher", "hadamard", "exact"] = "rademacher"
    """rademacher: random signs (the paper).
    hadamard: distinct random columns of an orthogonal basis.
    exact: the whole basis, which gives the exact squared Frobenius norm."""
    probes: Count | None = None
    """Probes per state, for rademacher and hadamard. Default: 1."""
    core_carry: bool = True
    """With target core: whether the gate's direct path from h to h' counts."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.implementation == "none":
            return
        if self.rho == 0:
            raise invalid(
                "--rho",
                f"0 with --penalty {self.implementation}",
                "nothing would be penalized",
                "a value in (0, 1], or --penalty none",
            )
        if self.probe_kind == "exact" and self.probes is not None:
            raise invalid(
                "--probes",
                f"{self.probes} with --probe-kind exact",
                "exact uses the whole basis",
                "leave --probes out, or --probe-kind hadamard",
            )
        if self.target == "core" and self.implementation == "pallas":
            raise invalid(
                "--penalty",
                "pallas with --penalty-target core",
                "the kernel covers the posterior head only",
                "for core: reference, xla",
                "--penalty xla",
            )
        if self.target == "core" and self.probe_kind != "rademacher":
            raise invalid(
                "--probe-kind",
                f"{self.probe_kind} with --penalty-target core",
                "the core has no class rows to build a basis on",
                "rademacher",
            )
        if self.lambda0_prior is not None and "prior" not in self.maps:
            raise invalid(
                "--lambda0-prior",
                f"{self.lambda0_prior:g} with --penalty-target {self.target}",
                "it would have no effect",
                "with the targets: prior, both",
            )
        for name, value in self._starts().items():
            if self.lambda_min > value:
                raise invalid(
                    "--lambda-min",
                    f"{self.lambda_min:g}",
                    f"exceeds {name} {value:g}, where the decay starts",
                    f"a value in [0, {value:g}]",
                    f"--lambda-min {value:g}",
                )

    def _starts(self) -> dict[str, float]:
        """The coefficients at the first update, by the flags that set them."""
        found = {"--lambda0": self.lambda0}
        if "prior" in self.maps and self.lambda0_prior is not None:
            found["--lambda0-prior"] = self.lambda0_prior
            if self.maps == ("prior",):
                del found["--lambda0"]
        return found

    @property
    def maps(self) -> tuple[str, ...]:
        """The maps that the target means."""
        return PENALIZED[self.target]

    @property
    def active(self) -> bool:
        """Whether any penalty is computed."""
        return self.implementation != "none"

    @property
    def resolved_lambda0_prior(self) -> float:
        """The prior's coefficient at the first update, with its default filled in."""
        return self.lambda0 if self.lambda0_prior is None else self.lambda0_prior
