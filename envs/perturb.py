"""Perturbations of observations: the Jacobian-regularization paper, section 5.

Noise on a whole image, a rotation, or noise on random pixels of an image; for state
vectors, noise. Each is a pure function of (key, observation), applied to the agent's
observations, outside the environment. Strengths are array fields: `stack` several
conditions and `vmap` over them, and one program evaluates all.

>>> noisy = parse("noise:0.5,0.35")
>>> image = noisy(key, image)
"""

import abc
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Key, Num, UInt8

# The noise that the paper puts on a part of Walker's image.
MASK_MEAN = 0.5
MASK_VARIANCE = 0.15

IMAGE_FORMS = (
    "none",
    "noise:VARIANCE",
    "noise:MEAN,VARIANCE",
    "rotate:DEGREES",
    "mask:PERCENT",
    "mask:PERCENT,MEAN,VARIANCE",
)
STATE_FORMS = IMAGE_FORMS[:3]


class Perturbation(eqx.Module):
    """A change of one observation; its fields are scalars, or arrays to `vmap` over."""

    @abc.abstractmethod
    def __call__(
        self, key: Key[Array, ""], obs: Num[Array, "*obs"]
    ) -> Num[Array, "*obs"]:
        """The changed observation, of the same shape and dtype."""


class ImagePerturbation(Perturbation):
    """Rotates an image, then adds noise to a random part of its pixels.

    With all strengths 0 the image is unchanged.

    Attributes:
        angle: rotation about the centre, degrees counterclockwise.
        mean: mean of the noise, for an image in [0, 1].
        variance: variance of the noise.
        share: probability that a pixel gets noise.
    """

    angle: Float[Array, "*conditions"]
    mean: Float[Array, "*conditions"]
    variance: Float[Array, "*conditions"]
    share: Float[Array, "*conditions"]

    def __init__(
        self,
        *,
        angle: float | Num[Array, "*conditions"] = 0.0,
        mean: float | Num[Array, "*conditions"] = 0.0,
        variance: float | Num[Array, "*conditions"] = 0.0,
        share: float | Num[Array, "*conditions"] = 0.0,
    ):
        self.angle = jnp.asarray(angle, jnp.float32)
        self.mean = jnp.asarray(mean, jnp.float32)
        self.variance = jnp.asarray(variance, jnp.float32)
        self.share = jnp.asarray(share, jnp.float32)

    def __call__(
        self, key: Key[Array, ""], obs: Num[Array, "*obs"]
    ) -> UInt8[Array, "*obs"]:
        """Args: a key; an image `(height, width, channels)` of dtype uint8.

        Raises:
            ValueError: the observation is no such image.
        """
        if obs.dtype != jnp.uint8 or obs.ndim != 3:
            raise ValueError(
                f"obs of dtype {obs.dtype} and shape {obs.shape} is no image: give "
                "uint8 (height, width, channels), and jax.vmap over a batch"
            )
        image = rotate(obs.astype(jnp.float32) / 255, self.angle)
        image = add_noise(
            key, image, mean=self.mean, variance=self.variance, share=self.share
        )
        return jnp.round(255 * jnp.clip(image, 0.0, 1.0)).astype(jnp.uint8)


class StateNoise(Perturbation):
    """Adds independent noise to every entry of a state vector, in its own units.

    Attributes:
        mean: mean of the noise.
        variance: variance of the noise.
    """

    mean: Float[Array, "*conditions"]
    variance: Float[Array, "*conditions"]

    def __init__(
        self,
        *,
        mean: float | Num[Array, "*conditions"] = 0.0,
        variance: float | Num[Array, "*conditions"] = 0.0,
    ):
        self.mean = jnp.asarray(mean, jnp.float32)
        self.variance = jnp.asarray(variance, jnp.float32)

    def __call__(
        self, key: Key[Array, ""], obs: Num[Array, "*obs"]
    ) -> Float[Array, "*obs"]:
        """Args: a key; a vector of floats.

        Raises:
            ValueError: the observation is not of floats.
        """
        if not jnp.issubdtype(obs.dtype, jnp.floating):
            raise ValueError(
                f"obs has dtype {obs.dtype}, but noise on a state needs floats: "
                "use ImagePerturbation for images"
            )
        noise = jax.random.normal(key, obs.shape, obs.dtype)
        return obs + (self.mean + jnp.sqrt(self.variance) * noise).astype(obs.dtype)


def rotate(
    image: Float[Array, "height width channels"], angle: float | Float[Array, ""]
) -> Float[Array, "height width channels"]:
    """Rotate an image about its centre, bilinear; the corners become black.

    Args:
        image: any scale.
        angle: degrees counterclockwise.
    """
    height, width, _ = image.shape
    middle = ((height - 1) / 2, (width - 1) / 2)
    y, x = jnp.meshgrid(
        jnp.arange(height) - middle[0], jnp.arange(width) - middle[1], indexing="ij"
    )
    radians = jnp.deg2rad(jnp.asarray(angle, image.dtype))
    cosine, sine = jnp.cos(radians), jnp.sin(radians)
    # The rotation from output to source pixels; image rows go down.
    source = (middle[0] + cosine * y + sine * x, middle[1] - sine * y + cosine * x)
    turn = lambda channel: map_coordinates(channel, source, order=1)
    return jax.vmap(turn, in_axes=-1, out_axes=-1)(image)


def add_noise(
    key: Key[Array, ""],
    image: Float[Array, "height width channels"],
    *,
    mean: float | Float[Array, ""],
    variance: float | Float[Array, ""],
    share: float | Float[Array, ""] = 1.0,
) -> Float[Array, "height width channels"]:
    """Add N(mean, variance) to a random share of the pixels, unclipped.

    Pixels are chosen independently; a chosen one gets independent noise in each
    channel.
    """
    noise_key, mask_key = jax.random.split(key)
    noise = mean + jnp.sqrt(variance) * jax.random.normal(noise_key, image.shape)
    chosen = jax.random.uniform(mask_key, (*image.shape[:2], 1)) < share
    return image + jnp.where(chosen, noise, 0.0)


def stack[P: Perturbation](conditions: Sequence[P]) -> P:
    """Stack perturbations of one type; each field becomes an array.

    >>> jax.vmap(lambda p: p(key, image))(stack([parse("none"), parse("rotate:20")]))
    """
    return jax.tree.map(lambda *rows: jnp.stack(rows), *conditions)


def parse(text: str, *, pixels: bool = True) -> Perturbation:
    """A perturbation from its short form.

    For images: `none`, `noise:0.35` (variance, mean 0), `noise:0.5,0.35` (mean,
    variance), `rotate:20` (degrees), `mask:50` (percent of the pixels, with the
    paper's noise N(0.5, 0.15)), `mask:50,0.05,0.2` (percent, mean, variance). For
    states: `none` and the two forms of `noise`.

    Args:
        text: the short form.
        pixels: the observations are images, not state vectors.

    Raises:
        ValueError: the text is none of these, or a number is out of range or not
            finite.
    """
    kind, _, rest = text.strip().lower().partition(":")
    try:
        numbers = [float(part) for part in rest.split(",")] if rest else []
    except ValueError:
        numbers = None
    values = _values(kind, numbers) if numbers is not None else None
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
        return ImagePerturbation(**values)
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
        case "mask", [percent]:
            return {
                "share": percent / 100,
                "mean": MASK_MEAN,
                "variance": MASK_VARIANCE,
            }
        case "mask", [percent, mean, variance]:
            return {"share": percent / 100, "mean": mean, "variance": variance}
    return None
