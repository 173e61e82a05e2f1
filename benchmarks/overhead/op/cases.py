"""The penalty op as programs to time: shapes, random inputs, minimum FLOPs and bytes.

Shared by `benchmarks.overhead.op` (CPU) and `benchmarks.gpu`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from kernels import CategoricalHead, Implementation, ProbeKind, jacobian_penalty_mean


class HeadShape(NamedTuple):
    """Sizes of a categorical head: D inputs, H hidden units, K rows of C classes."""

    d: int
    h: int
    k: int
    c: int


SHAPES = {
    "12m": HeadShape(d=2304, h=256, k=32, c=16),
    "1m": HeadShape(d=576, h=64, k=32, c=4),
}
"""The posterior head at two of the world model's sizes."""


class Probes(NamedTuple):
    """A probe family as `kernels.jacobian_penalty` takes it."""

    kind: ProbeKind
    count: int | None

    def number(self, classes: int) -> int:
        """Probes of one state and row."""
        return classes - 1 if self.count is None else self.count

    @property
    def label(self) -> str:
        """For tables."""
        return self.kind if self.count is None else f"{self.count} {self.kind}"


def probe_families(classes: int) -> tuple[Probes, ...]:
    """The paper's one Rademacher probe, up to four Hadamard probes, and exact."""
    return (
        Probes("rademacher", 1),
        Probes("hadamard", min(4, classes - 1)),
        Probes("exact", None),
    )


class Case(NamedTuple):
    """One program: see `penalty_program`."""

    implementation: Implementation
    probes: Probes
    gradient: bool
    reuse: bool

    @property
    def label(self) -> str:
        """Label of this case within one pass (value, or value and gradients)."""
        reuse = ", a given" if self.reuse else ""
        return f"{self.implementation}{reuse}, {self.probes.label}"


def random_inputs(
    key: PRNGKeyArray, shape: HeadShape, n: int, dtype: DTypeLike
) -> tuple[Float[Array, "n d"], Float[Array, "n h"], CategoricalHead]:
    """Random states u, their pre-activations, and a head with logits of order 1."""
    keys = jax.random.split(key, 6)
    d, h, outputs = shape.d, shape.h, shape.k * shape.c

    def normal(i: int, *size: int) -> Array:
        return jax.random.normal(keys[i], size)

    head = CategoricalHead(
        w_in=normal(1, d, h) / d**0.5,
        b_in=normal(2, h) / 10,
        scale=1 + normal(3, h) / 5,
        w_out=2 * normal(4, h, outputs) / h**0.5,
        b_out=normal(5, outputs) / 10,
    )
    u, head = jax.tree.map(lambda x: x.astype(dtype), (normal(0, n, d), head))
    a = u @ head.w_in + head.b_in[None]
    return u, a, head


def penalty_program(
    implementation: Implementation,
    probes: Probes,
    *,
    classes: int,
    gradient: bool,
    reuse: bool,
    interpret: bool = False,
) -> Callable[..., tuple[Array, ...]]:
    """The mean penalty as a function of ``(u, a, head, key)``, not yet jitted.

    **Arguments:**

    - `gradient`: also return the gradients with respect to the input and the head.
    - `reuse`: the input is the pre-activation `a`, as in training, where it is already
        computed; otherwise it is the state `u`, and `a` is unused.

    The function returns ``(value,)`` or ``(value, input_bar, head_bar)``.
    """

    def value(u: Array, a: Array, head: CategoricalHead, key: Array) -> Array:
        return jacobian_penalty_mean(
            u,
            head,
            key,
            classes=classes,
            probes=probes.count,
            probe_kind=probes.kind,
            implementation=implementation,
            preactivation=a if reuse else None,
            interpret=interpret,
        )

    if not gradient:
        return lambda *args: (value(*args),)

    def both(*args: Array) -> tuple[Array, ...]:
        found, bars = jax.value_and_grad(value, argnums=(1 if reuse else 0, 2))(*args)
        return found, *bars

    return both


def op_flops(
    shape: HeadShape, n: int, probes: int, *, gradient: bool, reuse: bool
) -> int:
    """Minimum FLOPs of the Gram form's matrix products (`docs/penalty.md`).

    Value: logits, v, x = G y and G. Gradient: Σ y yᵀ, W̄ and δ̄ for each probe, two
    products of the softmax, and 2 W_in Ḡ. Excluded: elementwise work, and the half
    that the symmetry of G and Ḡ could save.
    """
    d, h, k, c = shape
    row, square = 2 * h * k * c, 2 * k * h * h
    each = row + probes * (row + square)
    once = 2 * d * h * h
    if gradient:
        each += 2 * row + probes * (2 * row + square)
        once *= 2
    if not reuse:
        each += 2 * d * h * (3 if gradient else 1)
    return n * each + once


def op_bytes(
    shape: HeadShape, n: int, *, width: int, gradient: bool, reuse: bool
) -> int:
    """Minimum bytes: every input read once and every result written once.

    **Arguments:**

    - `width`: bytes per entry of states, weights and their gradients.
    """
    d, h, k, c = shape
    head = d * h + 2 * h + h * k * c + k * c
    entries = n * (h if reuse else d) + head
    return width * entries * (2 if gradient else 1) + 4


def rows_flops(shape: HeadShape, n: int) -> int:
    """Minimum FLOPs of the fused kernel for one probe: v and x of every row."""
    return n * (2 * shape.h * shape.k * shape.c + 2 * shape.k * shape.h**2)


def rows_bytes(shape: HeadShape, n: int) -> int:
    """Minimum bytes of the fused kernel, one probe: bfloat16 except k, a, Σ x⊙v."""
    _, h, k, c = shape
    inputs = 2 * (k * n * c + k * c * h + n * h + h * h) + 4 * (k * n + n * h)
    return inputs + 2 * (2 * k * n * h) + 4 * n * h
