"""Reasons not to trust a model, each a number with a limit.

`benchmarks.trust --calibrate` counts how often each speaks against a model that is
right, and how often it finds a planted error, on systems whose truth is known.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.trust.labels import PARTS

NAMES = ("observations", "ranking", "optimism", "bias", "critic", "cancellation")
SAMPLED = 2.0
CORRELATION = 0.5
BIAS = 0.25
CANCELLATION = 4.0


class Reason(NamedTuple):
    """Why a model is not trusted.

    Attributes:
        name: of the kind of reason.
        text: a sentence with the numbers.
    """

    name: str
    text: str


def reasons(summary: dict[str, Any], steps: int) -> list[Reason]:
    """What speaks against the model at the imagination length; empty if nothing does.

    Args:
        summary: see `benchmarks.trust.summary`.
        steps: imagination length.
    """
    found = [_observation, _ranking, _optimism, _bias, _critic, _cancellation]
    return [reason for judge in found if (reason := judge(summary, steps))]


def _observation(summary: dict[str, Any], steps: int) -> Reason | None:
    """A model that samples from the truth errs twice as much as its mean would."""
    rows = summary["horizons"]
    unchanged = rows["unchanged"]["mean"][steps - 1]
    limit = SAMPLED * min(1.0, unchanged)
    if rows["observation"]["low"][steps - 1] <= limit:
        return None
    return Reason(
        "observations",
        f"after {steps} steps the imagined observation is worse than "
        f"{'their mean' if unchanged > 1 else 'the one at the start'} (error "
        f"{rows['observation']['mean'][steps - 1]:.2g}, limit {limit:.2g})",
    )


def _ranking(summary: dict[str, Any], steps: int) -> Reason | None:
    found = summary["horizons"]["return correlation"][steps - 1]
    if found is None or found >= CORRELATION:
        return None
    return Reason(
        "ranking",
        f"imagined returns of {steps} steps do not order the true ones "
        f"(correlation {found:.2f}, limit {CORRELATION})",
    )


def _optimism(summary: dict[str, Any], steps: int) -> Reason | None:
    """Of actions chosen in imagination: a policy exploits the errors of its model."""
    rows = summary["horizons"]
    found = {key: values[steps - 1] for key, values in rows["return bias"].items()}
    limit = BIAS * rows["return spread"][steps - 1]
    if not _exceeds(found, limit):
        return None
    way = "less" if found["mean"] > 0 else "more"
    return Reason(
        "optimism",
        f"the actions of {steps} imagined steps earn {abs(found['mean']):.2g} {way} in "
        f"the simulator (limit {limit:.2g}: {BIAS} of the spread of returns)",
    )


def _bias(summary: dict[str, Any], steps: int) -> Reason | None:
    """Of the model's part in the return: without that of the critic."""
    if "attribution" not in summary:
        return None
    found = summary["attribution"]["mean"]["model"]
    limit = BIAS * summary["horizons"]["return spread"][steps - 1]
    if not _exceeds(found, limit):
        return None
    way = "low" if found["mean"] > 0 else "high"
    return Reason(
        "bias",
        f"the policy's return of {steps} imagined steps is too {way} by "
        f"{abs(found['mean']):.2g} (limit {limit:.2g}: {BIAS} of their spread)",
    )


def _exceeds(found: dict[str, float], limit: float) -> bool:
    """Whether a mean is not 0, by its interval, and its size is above a limit."""
    significant = not found["low"] <= 0 <= found["high"]
    return significant and abs(found["mean"]) > limit


def _critic(summary: dict[str, Any], steps: int) -> Reason | None:
    found = summary["critic"]
    if found["excess"]["low"] <= 0:
        return None
    return Reason(
        "critic",
        "the critic is worse than the mean of the realized returns (error "
        f"{found['rmse']:.3g}, limit {found['spread']:.3g})",
    )


def _cancellation(summary: dict[str, Any], steps: int) -> Reason | None:
    """The parts are far larger than the gap: right for the wrong reasons."""
    if "attribution" not in summary:
        return None
    means = summary["attribution"]["mean"]
    parts = {
        name: part
        for name, part in means.items()
        if name in PARTS and _exceeds(part, 0.0)
    }
    gap = max(abs(means["gap"][end]) for end in ("low", "high"))
    large = {name: x["mean"] for name, x in parts.items() if abs(x["mean"]) > gap}
    if len(large) < 2 or sum(map(abs, large.values())) < CANCELLATION * gap:
        return None
    words = ", ".join(f"{name} {value:+.2g}" for name, value in large.items())
    return Reason(
        "cancellation",
        f"errors of its parts cancel: {words}, together {means['gap']['mean']:+.2g}",
    )


def choose_length(found: dict[str, Any], trained: int) -> int | None:
    """The imagination length that the measured value errors speak for.

    That of training where it is not distinguishable from the best, else the nearest
    length that is. None if no imagined step is better than the critic alone, or if the
    length of training is above those that were measured.

    Args:
        found: of `summary.value_profile`.
        trained: imagination length of training.
    """
    lengths = [length for length in found["flat"] if length > 0]
    if not lengths or trained >= len(found["squared error"]["mean"]):
        return None
    return min(lengths, key=lambda length: (abs(length - trained), length))


def fork_command(run_dir: Path, length: int, *, step: int) -> str:
    """A command that goes on from a run with another imagination length.

    A compiled program has one imagination length, so that it is chosen between runs
    rather than while one goes on.
    """
    words = ["python", "-m", "train.main", "--fork", str(run_dir)]
    words += ["--logdir", f"{run_dir}-h{length}", "--imagination-length", str(length)]
    return shlex.join([*words, "--steps", str(2 * step)])


def verdict(found: Sequence[Reason]) -> str:
    """One line."""
    if not found:
        return "trusted: nothing measured speaks against it"
    return "not trusted because " + "; ".join(reason.text for reason in found)
