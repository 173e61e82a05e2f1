"""The perturbations themselves: noise, rotations and masks of images; noise on states.

Each is a pure function of (key, observation). Strengths are array fields: `stack`
several conditions and `vmap` over them, and one program evaluates all.
"""

import abc
import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Bool, Float, Key, Num


class Perturbation(eqx.Module):
    """A change of one observation; its fields are scalars, or arrays to `vmap` over."""

    @abc.abstractmethod
    def __call__(
        self, key: Key[Array, ""], obs: Num[Array, "*obs"]
    ) -> Num[Array, "*obs"]:
        """The changed observation, of the same shape and dtype."""


class ImagePerturbation(Perturbation):
    """Rotates an image, then puts noise on a random part of its pixels.

    With all strengths 0 the image is unchanged. Images in [0, 1] are clipped and
    rounded to uint8 after the noise. Unclipped ones are in DreamerV2's scale,
    x / 255 - 0.5, and stay what they are: the encoder, which takes that very scale,
    sees the noise as it was drawn. Where noise is added, the scale's offset does not
    matter; where it replaces pixels, it does.

    Attributes:
        angle: rotation about the centre, degrees counterclockwise.
        mean: mean of the noise, where an image has a range of 1.
        variance: variance of the noise.
        share: probability that a pixel gets noise.
        replaces: the noise is put in place of a pixel, not added to it.
        clips: the image is clipped to [0, 1].
        floats: the result is float32, from 0 to 255 where it is clipped. False only if
            all conditions clip.
    """

    angle: Float[Array, "*conditions"]
    mean: Float[Array, "*conditions"]
    variance: Float[Array, "*conditions"]
    share: Float[Array, "*conditions"]
    replaces: Bool[Array, "*conditions"]
    clips: Bool[Array, "*conditions"]
    floats: bool = eqx.field(static=True)

    def __init__(
        self,
        *,
        angle: float | Num[Array, "*conditions"] = 0.0,
        mean: float | Num[Array, "*conditions"] = 0.0,
        variance: float | Num[Array, "*conditions"] = 0.0,
        share: float | Num[Array, "*conditions"] = 0.0,
        replaces: bool | Bool[Array, "*conditions"] = False,
        clips: bool | Bool[Array, "*conditions"] = True,
        floats: bool | None = None,
    ):
        self.angle = jnp.asarray(angle, jnp.float32)
        self.mean = jnp.asarray(mean, jnp.float32)
        self.variance = jnp.asarray(variance, jnp.float32)
        self.share = jnp.asarray(share, jnp.float32)
        self.replaces, self.clips = jnp.asarray(replaces), jnp.asarray(clips)
        self.floats = clips is False if floats is None else floats

    def __call__(
        self, key: Key[Array, ""], obs: Num[Array, "*obs"]
    ) -> Num[Array, "*obs"]:
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
        noise, chosen = draw_noise(
            key, image, mean=self.mean, variance=self.variance, share=self.share
        )
        middle = jnp.where(self.clips, 0.0, 0.5)
        noisy = jnp.where(self.replaces, middle + noise, image + noise)
        image = jnp.where(chosen, noisy, image)
        clipped = jnp.round(255 * jnp.clip(image, 0.0, 1.0))
        if not self.floats:
            return clipped.astype(jnp.uint8)
        return jnp.where(self.clips, clipped, 255 * image)


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


def draw_noise(
    key: Key[Array, ""],
    image: Float[Array, "height width channels"],
    *,
    mean: float | Float[Array, ""],
    variance: float | Float[Array, ""],
    share: float | Float[Array, ""] = 1.0,
) -> tuple[Float[Array, "height width channels"], Bool[Array, "height width 1"]]:
    """N(mean, variance) for every pixel and channel, and a random share of the pixels.

    Pixels are chosen independently; a chosen one has independent noise in each
    channel.
    """
    noise_key, mask_key = jax.random.split(key)
    noise = mean + jnp.sqrt(variance) * jax.random.normal(noise_key, image.shape)
    return noise, jax.random.uniform(mask_key, (*image.shape[:2], 1)) < share


def stack[P: Perturbation](conditions: Sequence[P]) -> P:
    """Stack perturbations of one type; each field becomes an array.

    >>> jax.vmap(lambda p: p(key, image))(stack([parse("none"), parse("rotate:20")]))
    """
    if any(getattr(one, "floats", False) for one in conditions):
        conditions = [dataclasses.replace(one, floats=True) for one in conditions]
    return jax.tree.map(lambda *rows: jnp.stack(rows), *conditions)
