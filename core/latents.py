"""The families of the latent z: what its distribution's parameters are, and how z is
drawn, stored and differentiated.

    Categorical  K one-hot vectors of C classes (DreamerV3)        z: [K, C]
    Gaussian     K real numbers with mean and deviation (PlaNet)   z: [K, 1]

Posterior and prior give `parameters` numbers for each of the K variables, and z has
`entries` numbers for each. Both families draw a variable from one uniform number, so
that acting, filtering and imagining take the same random numbers for either.
"""

import abc
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Shaped

from core.networks.dists import (
    Categoricals,
    Gaussians,
    LatentDist,
    normal_from_uniform,
    onehot_from_uniform,
)
from core.networks.transforms import lift


class Latents(abc.ABC):
    """A family of z. Its objects are hashable: static fields of an `RSSM`."""

    @property
    @abc.abstractmethod
    def parameters(self) -> int:
        """Numbers that posterior and prior give for each variable (P)."""

    @property
    @abc.abstractmethod
    def entries(self) -> int:
        """Numbers of z for each variable (C)."""

    @abc.abstractmethod
    def dist(self, parameters: Float[Array, "*batch K P"]) -> LatentDist:
        """The distribution of z, in at least float32."""

    @abc.abstractmethod
    def sample(
        self, parameters: Float[Array, "*batch K P"], uniform: Float[Array, "*batch K"]
    ) -> Float[Array, "*batch K C"]:
        """z with a gradient, of the type of the parameters.

        Args:
            uniform: random numbers from [0, 1), one for each variable.
        """

    def sample_in_few_kernels(
        self,
        parameters: Float[Array, "*batch K P"],
        uniform: Float[Array, "*batch K"],
        softmax: Callable[[Array], Array],
    ) -> Float[Array, "*batch K C"]:
        """`sample` as `core.loops.wide_gru` takes it.

        Args:
            softmax: over the last axis, as the loop computes it.
        """
        return self.sample(parameters, uniform)

    @abc.abstractmethod
    def pack(self, z: Float[Array, "*batch K C"]) -> Shaped[Array, "*batch K"]:
        """z as the replay buffer stores it."""

    @abc.abstractmethod
    def unpack(
        self, packed: Shaped[Array, "*batch K"], dtype: DTypeLike
    ) -> Float[Array, "*batch K C"]:
        """The inverse of `pack`, up to rounding."""


@dataclasses.dataclass(frozen=True)
class Categorical(Latents):
    """Categoricals with straight-through gradients.

    Args:
        classes: C.
        unimix: share of the uniform distribution in posterior and prior.

    Raises:
        ValueError: less than 2 `classes`, or `unimix` not in [0, 1).
    """

    classes: int = 4
    unimix: float = 0.01

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"classes={self.classes}: must be at least 2")
        if not 0.0 <= self.unimix < 1.0:
            raise ValueError(f"unimix={self.unimix}: must be at least 0 and below 1")

    @property
    def parameters(self) -> int:
        """Logits of the classes."""
        return self.classes

    @property
    def entries(self) -> int:
        """A one-hot vector."""
        return self.classes

    def dist(self, parameters: Float[Array, "*batch K P"]) -> Categoricals:
        """The categoricals with these logits."""
        return Categoricals(parameters, self.unimix)

    def sample(
        self, parameters: Float[Array, "*batch K P"], uniform: Float[Array, "*batch K"]
    ) -> Float[Array, "*batch K C"]:
        """One-hot z with the gradient of its probabilities (straight-through).

        z is drawn by inverting the cumulative distribution.
        """
        dist = self.dist(parameters)
        sample = dist.straight_through(onehot_from_uniform(dist.probs, uniform))
        return sample.astype(parameters.dtype)

    def sample_in_few_kernels(
        self,
        parameters: Float[Array, "*batch K P"],
        uniform: Float[Array, "*batch K"],
        softmax: Callable[[Array], Array],
    ) -> Float[Array, "*batch K C"]:
        """The same, without a reduction."""
        probs = (1.0 - self.unimix) * softmax(parameters)
        probs += self.unimix / self.classes
        constant = jax.lax.stop_gradient(probs)
        z = _onehot(constant, uniform) + (probs - constant)
        return z.astype(parameters.dtype)

    def pack(self, z: Float[Array, "*batch K C"]) -> Shaped[Array, "*batch K"]:
        """One byte for each categorical: its class."""
        return jnp.argmax(z, axis=-1).astype(jnp.uint8)

    def unpack(
        self, packed: Shaped[Array, "*batch K"], dtype: DTypeLike
    ) -> Float[Array, "*batch K C"]:
        """One-hot vectors."""
        return jax.nn.one_hot(packed, self.classes, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class Gaussian(Latents):
    """Independent normal numbers with reparametrized gradients.

        s = softplus(r) + floor,    z = m + s·ε,    ε ~ N(0, 1)

    for the parameters (m, r) of each. PlaNet and DreamerV1 have the same, with 30
    numbers and a floor of 0.1.

    Raises:
        ValueError: `floor` is not positive.
    """

    floor: float = 0.1

    def __post_init__(self) -> None:
        if not self.floor > 0.0:
            raise ValueError(
                f"floor={self.floor}: must be above 0, so that KL divergences are "
                "finite"
            )

    @property
    def parameters(self) -> int:
        """m and r."""
        return 2

    @property
    def entries(self) -> int:
        """A number."""
        return 1

    def dist(self, parameters: Float[Array, "*batch K P"]) -> Gaussians:
        """The normal distributions with these m and r."""
        return Gaussians(parameters[..., :1], parameters[..., 1:], self.floor)

    def sample(
        self, parameters: Float[Array, "*batch K P"], uniform: Float[Array, "*batch K"]
    ) -> Float[Array, "*batch K C"]:
        """m + s·ε, with ε by inverting the cumulative distribution."""
        noise = normal_from_uniform(uniform)[..., None]
        return self.dist(parameters).at(noise).astype(parameters.dtype)

    def pack(self, z: Float[Array, "*batch K C"]) -> Shaped[Array, "*batch K"]:
        """bfloat16, as h."""
        return z[..., 0].astype(jnp.bfloat16)

    def unpack(
        self, packed: Shaped[Array, "*batch K"], dtype: DTypeLike
    ) -> Float[Array, "*batch K C"]:
        """The numbers, rounded to bfloat16."""
        return packed[..., None].astype(dtype)


def _onehot(probs: Array, uniform: Array) -> Array:
    """`core.networks.dists.onehot_from_uniform` without a reduction: one operation.

    A class is drawn where `uniform` lies between the sums of the probabilities before
    and up to it. Both are added in the same order, so that exactly one class is.
    """
    classes = probs.shape[-1]
    index = lift(jnp.arange(classes), probs.ndim)
    before, upto = jnp.zeros_like(probs), jnp.zeros_like(probs)
    for each in range(classes):
        p = probs[..., each, None]
        before += jnp.where(index > each, p, 0.0)
        upto += jnp.where(index >= each, p, 0.0)
    uniform = uniform[..., None]
    # Rounding may put the last sum below 1.
    drawn = (uniform >= before) & ((uniform < upto) | (index == classes - 1))
    return drawn.astype(probs.dtype)
