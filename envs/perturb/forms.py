"""Perturbations by their short forms, and the paper's sets of them by their names."""

import math
from collections.abc import Iterable

from envs.perturb.changes import ImagePerturbation, Perturbation, StateNoise

# The noise that the paper puts on a part of Walker's image.
MASK_MEAN = 0.5
MASK_VARIANCE = 0.15

UNCLIPPED = "dreamerv2-"
"""In front of a form: noise in DreamerV2's scale, without clipping."""

IMAGE_FORMS = (
    "none",
    "noise:VARIANCE",
    "noise:MEAN,VARIANCE",
    "rotate:DEGREES",
    "mask:PERCENT",
    "mask:PERCENT,MEAN,VARIANCE",
    "replace:PERCENT",
    "replace:PERCENT,MEAN,VARIANCE",
)
STATE_FORMS = IMAGE_FORMS[:3]


def _set(full: float, mask: str) -> tuple[str, ...]:
    """The paper's grid of section 5 and appendix D.2, with the clean image first.

    Args:
        full: μ₁, of noise on the whole image.
        mask: μ₂ and σ₂².
    """
    noise = (f"noise:{full:g},{step / 100:g}" for step in range(5, 60, 5))
    turns = (f"rotate:{degrees}" for degrees in (10, 20, 30))
    masks = (f"mask:{percent},{mask}" for percent in range(25, 80, 5))
    return ("none", *noise, *turns, *masks)


SETS = {
    "paper-walker": _set(0.5, "0.5,0.15"),
    "paper-quadruped": _set(0.0, "0.05,0.2"),
}
"""Rotations by 10° are in the paper's Table 1 only; the text has the variances from .05
for both tasks, Table 11 (Quadruped) from .10."""


def expanded(texts: Iterable[str]) -> list[str]:
    """Short forms, with those of a set in the place of its name."""
    return [form for text in texts for form in SETS.get(text.lower(), (text,))]


def parse(text: str, *, pixels: bool = True) -> Perturbation:
    """A perturbation from its short form.

    For images: `none`, `noise:0.35` (variance, mean 0), `noise:0.5,0.35` (mean,
    variance), `rotate:20` (degrees), `mask:50` (percent of the pixels, with the
    paper's noise N(0.5, 0.15) for Walker), `mask:50,0.05,0.2` (percent, mean,
    variance), `replace:...` (as `mask`, but noise replaces the pixels); the last four
    also with `dreamerv2-` in front, for noise that is not clipped. For states: `none`
    and the two forms of `noise`.

    Args:
        text: the short form.
        pixels: the observations are images, not state vectors.

    Raises:
        ValueError: the text is none of these, or a number is out of range or not
            finite.
    """
    kind, _, rest = text.strip().lower().partition(":")
    plain = kind.removeprefix(UNCLIPPED)
    unclipped = plain != kind
    try:
        numbers = [float(part) for part in rest.split(",")] if rest else []
    except ValueError:
        numbers = None
    values = _values(plain, numbers) if numbers is not None else None
    if unclipped and plain in ("none", "rotate"):
        values = None
    forms = IMAGE_FORMS if pixels else STATE_FORMS
    if values is not None and not pixels and kind not in ("none", "noise"):
        raise ValueError(
            f"perturbation {text!r} is for images (--obs pixels), and these "
            f"observations are vectors: use one of {', '.join(forms)}"
        )
    if values is None:
        raise ValueError(
            f"perturbation {text!r} is not understood: use one of {', '.join(forms)}"
        )
    if not all(map(math.isfinite, values.values())):
        raise ValueError(f"perturbation {text!r}: the numbers must be finite")
    if not 0 <= values.get("share", 0.0) <= 1:
        raise ValueError(f"perturbation {text!r}: the percentage must be 0 to 100")
    if values.get("variance", 0.0) < 0:
        raise ValueError(f"perturbation {text!r}: the variance must not be negative")
    if pixels:
        return ImagePerturbation(
            angle=values.get("angle", 0.0),
            mean=values.get("mean", 0.0),
            variance=values.get("variance", 0.0),
            share=values.get("share", 0.0),
            replaces=plain == "replace",
            clips=not unclipped,
        )
    return StateNoise(**{k: v for k, v in values.items() if k != "share"})


def _values(kind: str, numbers: list[float]) -> dict[str, float] | None:
    match kind, numbers:
        case "none", []:
            return {}
        case "noise", [variance]:
            return {"mean": 0.0, "variance": variance, "share": 1.0}
        case "noise", [mean, variance]:
            return {"mean": mean, "variance": variance, "share": 1.0}
        case "rotate", [angle]:
            return {"angle": angle}
        case (("mask" | "replace"), [percent]):
            return {
                "share": percent / 100,
                "mean": MASK_MEAN,
                "variance": MASK_VARIANCE,
            }
        case (("mask" | "replace"), [percent, mean, variance]):
            return {"share": percent / 100, "mean": mean, "variance": variance}
    return None
