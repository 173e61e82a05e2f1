"""The penalty that a run takes: its implementation, and why it was taken."""

import dataclasses
from typing import NamedTuple

from core.penalty import PenaltyOptions
from kernels import kernel_obstacle
from train.config import Config, PenaltyConfig
from train.program.state import compute_dtype


class Penalty(NamedTuple):
    """The penalty's static choices (None: no penalty) and why they were taken."""

    options: PenaltyOptions | None
    reason: str


def choose_penalty(config: Config, platform: str) -> Penalty:
    """The implementation to run, and the reason if it is not the requested one."""
    asked = config.penalty
    if not asked.active:
        return Penalty(None, "none: plain DreamerV3")
    taken, why = asked.implementation, "as configured"
    if taken == "pallas":
        obstacle = kernel_obstacle(
            hidden=config.model.hidden,
            classes=config.model.classes,
            dtype=compute_dtype(config, platform),
        )
        if platform == "cpu":
            obstacle = "the Pallas kernel needs a GPU"
        elif "posterior" not in asked.maps:
            obstacle = "the Pallas kernel covers the posterior head only"
        if obstacle:
            taken, why = "xla", f"{obstacle}; xla is the same mathematics"
        elif others := [name for name in asked.maps if name != "posterior"]:
            why = f"as configured; the {' and '.join(others)} by xla"
    assert taken != "none"
    options = PenaltyOptions(
        taken,
        asked.target,
        asked.rho,
        asked.normalization,
        asked.probe_kind,
        asked.probes,
        asked.core_carry,
    )
    probes = "all" if asked.probe_kind == "exact" else asked.probes or 1
    what = f"{taken} on the {asked.target}, rho {asked.rho:g}, {probes} "
    reason = f"{what}{asked.probe_kind} ({why}), {coefficients(asked)}"
    return Penalty(options, reason)


def with_taken(config: Config, penalty: Penalty) -> Config:
    """The configuration with the implementation of the penalty that will run."""
    if penalty.options is None:
        return config
    taken = dataclasses.replace(
        config.penalty, implementation=penalty.options.implementation
    )
    return dataclasses.replace(config, penalty=taken)


def coefficients(penalty: PenaltyConfig) -> str:
    """The penalty's coefficient and its decay, in words."""
    starts = {"lambda": penalty.lambda0}
    if "prior" in penalty.maps:
        starts["prior's lambda"] = penalty.resolved_lambda0_prior
    if penalty.maps == ("prior",):
        del starts["lambda"]
    least = penalty.lambda_min
    how = "" if penalty.decay == "sqrt" else f" ({penalty.decay})"
    words = [
        f"{name} {start:g} "
        + (
            "throughout"
            if start == least or penalty.decay == "none"
            else f"decaying to {least:g}{how}"
        )
        for name, start in starts.items()
    ]
    if penalty.penalty_start:
        words.append(f"from update {penalty.penalty_start:,} on")
    if penalty.penalty_error:
        words.append(f"weaker for a KL below {penalty.penalty_error:g} nats")
    return ", ".join(words)
