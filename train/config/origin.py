"""What a new run starts from: a fork's checkpoint, or modules of a trained agent."""

import dataclasses
from typing import Annotated

from train.config.fields import Range, check_fields, did_you_mean, invalid

PARTS = ("encoder", "decoder", "dynamics", "reward", "continue", "policy", "value")
"""The modules of an agent, by the names of `Agent.parameter_counts`."""


@dataclasses.dataclass(frozen=True)
class OriginConfig:
    """Where the first state of a new run comes from; no effect once it has begun."""

    fork: str = ""
    """Run directory to fork: the new run goes on from its checkpoint, with the same
    parameters, replay buffer, environments and random numbers. Flags that are not given
    are those of that run. Needs --logdir."""
    at: Annotated[int | None, Range(0, 2**31 - 1)] = None
    """Environment step of the checkpoint that --fork or --init-from reads. Default: the
    newest."""
    init_from: str = ""
    """Run directory whose trained agent gives the initial parameters; the optimizer,
    the replay buffer and the environments start anew."""
    init_parts: str = ",".join(PARTS)
    """Which of its modules, separated by commas; the others are initialized anew."""

    def __post_init__(self) -> None:
        check_fields(self)
        for part in self.parts:
            if part not in PARTS:
                near = did_you_mean(part, PARTS)
                allowed = f"{', '.join(PARTS)}, separated by commas{near}"
                raise invalid("--init-parts", part, "no module of an agent", allowed)
        if self.fork and self.init_from:
            raise invalid(
                "--init-from",
                self.init_from,
                "a fork takes all its parameters from --fork",
                "one of --fork and --init-from",
            )
        if self.at is not None and not (self.fork or self.init_from):
            raise invalid("--at", self.at, "of no run", "with --fork or --init-from")
        if self.init_parts != ",".join(PARTS) and not self.init_from:
            raise invalid(
                "--init-parts", self.init_parts, "of no run", "with --init-from RUN"
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """The modules that `--init-from` reads."""
        return tuple(word.strip() for word in self.init_parts.split(","))
