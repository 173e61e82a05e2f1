"""Is the fused kernel right on this machine? Checks that need no test runner.

Each check draws fresh random inputs and compares by ``‖out − wanted‖ / ‖wanted‖``: the
kernel with its own definition, and value and all gradients of the op with the XLA form
in bfloat16 and with the reference in float32.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from benchmarks.overhead.op.cases import SHAPES, HeadShape, Probes, random_inputs
from kernels import Implementation, jacobian_penalty, jacobian_penalty_mean
from kernels.pallas import kernel as pallas_gpu
from kernels.pallas.tiling import Tiling

NARROW, WIDE = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)
ROWS_TOLERANCE = {NARROW: 4e-3, WIDE: 2e-5}
"""y and D⊙x are rounded to bfloat16, whose spacing is 2^-8, and so is y before G y. In
float32, operands are sums of two such numbers."""
XLA_TOLERANCE = {NARROW: 1e-2, WIDE: 5e-5}
"""Both round operands to bfloat16, but in different places; in float32 XLA does not."""
REFERENCE_TOLERANCE = {NARROW: 2e-2, WIDE: 1e-4}
"""Operands with 8, or about 16, significant bits against float32."""


class Check(NamedTuple):
    """One array compared; `error` is None where it is not a finite number."""

    name: str
    error: float | None
    tolerance: float

    @property
    def passed(self) -> bool:
        """False also for NaN."""
        return self.error is not None and self.error <= self.tolerance


def compare(name: str, got: Array, wanted: Array, tolerance: float) -> Check:
    """The relative error in the Euclidean norm; 0 if both are 0."""
    if got.shape != wanted.shape:
        raise ValueError(f"{name}: shape {got.shape}, wanted {wanted.shape}")
    x, y = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    difference, size = float(np.linalg.norm(x - y)), float(np.linalg.norm(y))
    error = 0.0 if difference == size == 0 else difference / size if size else math.inf
    return Check(name, error if math.isfinite(error) else None, tolerance)


def rows_inputs(
    key: PRNGKeyArray, shape: HeadShape, n: int, dtype: DTypeLike = NARROW
) -> tuple[Float[Array, "..."], ...]:
    """δ, k, W, D, a and G of `pallas_gpu.row_arrays`, float32 with `dtype`'s values."""
    _, h, k, c = shape
    keys = jax.random.split(key, 6)

    def normal(i: int, *size: int) -> Array:
        x = jax.random.normal(keys[i], size)
        return x.astype(dtype).astype(jnp.float32)

    factor = normal(5, h, h) / 16
    return (
        normal(0, k, n, c) / 4,
        normal(1, k, n),
        normal(2, k, c, h) / 16,
        normal(3, n, h),
        normal(4, n, h),
        factor + factor.T,
    )


def plain_rows(
    delta: Float[Array, "k n c"],
    k: Float[Array, "k n"],
    w: Float[Array, "k c h"],
    gate: Float[Array, "n h"],
    a: Float[Array, "n h"],
    gram: Float[Array, "h h"],
) -> tuple[Float[Array, "k n h"], Float[Array, "k n h"], Float[Array, "n h"]]:
    """What the kernel computes, in the dtype of its operands."""
    v = jnp.einsum("knc,kch->knh", delta, w)
    y = gate[None] * v - k[..., None] * a[None]
    x = jnp.einsum("knh,hg->kng", y, gram)
    return y, gate[None] * x, jnp.sum(x * v, axis=0)


def check_rows(
    shape: HeadShape,
    n: int,
    *,
    dtype: DTypeLike = NARROW,
    tiling: Tiling | None = None,
    interpret: bool = False,
    repeats: int = 3,
) -> list[Check]:
    """The kernel against its definition, and against itself: no bit may change."""
    inputs = rows_inputs(jax.random.key(n), shape, n, dtype)
    run = jax.jit(
        partial(pallas_gpu.row_arrays, dtype=dtype, tiling=tiling, interpret=interpret)
    )
    with jax.default_matmul_precision("highest"):
        wanted = jax.jit(plain_rows)(*inputs)
    got = run(*inputs)
    names = ("y", "D⊙x", "Σ x⊙v")
    checks = [
        compare(name, x, y, ROWS_TOLERANCE[jnp.dtype(dtype)])
        for name, x, y in zip(names, got, wanted, strict=True)
    ]
    for number in range(repeats):
        again = run(*inputs)
        checks += [
            compare(f"{name}, run {number + 2} against run 1", x, y, 0.0)
            for name, x, y in zip(names, again, got, strict=True)
        ]
    return checks


def check_op(
    shape: HeadShape,
    n: int,
    probes: Probes,
    *,
    mean: bool,
    dtype: DTypeLike = NARROW,
    interpret: bool = False,
) -> list[Check]:
    """Value and all gradients of the op, per state (random weights) or as a mean.

    XLA's own float32 products are taken in full precision, for the kernel's to show.
    """
    key, dtype = jax.random.key(n), jnp.dtype(dtype)
    u, _, head = random_inputs(key, shape, n, dtype)
    weights = jax.random.normal(jax.random.key(n + 1), (n,))

    def loss(inputs, implementation: Implementation) -> Array:
        u, head = inputs
        op = jacobian_penalty_mean if mean else jacobian_penalty
        value = op(
            u,
            head,
            key,
            classes=shape.c,
            probes=probes.count,
            probe_kind=probes.kind,
            implementation=implementation,
            interpret=interpret and implementation == "pallas",
        )
        return value if mean else jnp.sum(weights * value)

    run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    precision = "highest" if dtype == WIDE else None
    with jax.default_matmul_precision(precision):
        got = run((u, head), "pallas")
        same = run((u, head), "xla")
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (u, head))
    with jax.default_matmul_precision("highest"):
        wanted = run(wide, "reference")
    paths = jax.tree_util.tree_leaves_with_path(got[1])
    names = ["value", *(f"gradient{jax.tree_util.keystr(path)}" for path, _ in paths)]
    checks = []
    for name, x, y, z in zip(
        names, *map(jax.tree.leaves, (got, same, wanted)), strict=True
    ):
        checks += [
            compare(f"{name} against xla", x, y, XLA_TOLERANCE[dtype]),
            compare(f"{name} against reference", x, z, REFERENCE_TOLERANCE[dtype]),
        ]
    return checks


def check_vmap(shape: HeadShape, n: int, *, interpret: bool = False) -> list[Check]:
    """Two agents in one program: each gets the gradients it gets alone."""
    agents = [
        random_inputs(jax.random.key(seed), shape, n, jnp.bfloat16) for seed in (0, 1)
    ]
    inputs = [(u, head) for u, _, head in agents]

    def loss(inputs) -> Array:
        u, head = inputs
        return jacobian_penalty_mean(
            u,
            head,
            None,
            classes=shape.c,
            probe_kind="exact",
            implementation="pallas",
            interpret=interpret,
        )

    grads = jax.value_and_grad(loss)
    together = jax.jit(jax.vmap(grads))(
        jax.tree.map(lambda *x: jnp.stack(x), *inputs),
    )
    checks = []
    for number, alone in enumerate(map(jax.jit(grads), inputs)):
        mine = jax.tree.map(lambda x, i=number: x[i], together)
        leaves = zip(*map(jax.tree.leaves, (mine, alone)), strict=True)
        checks += [
            compare(f"agent {number}, array {i}", x, y, XLA_TOLERANCE[NARROW])
            for i, (x, y) in enumerate(leaves)
        ]
    return checks


def suite() -> dict[str, Callable[[], list[Check]]]:
    """All checks, the simplest first; every H and dtype the kernel has, ragged N."""
    one, basis, exact = (
        Probes("rademacher", 1),
        Probes("hadamard", 2),
        Probes("exact", None),
    )
    checks: dict[str, Callable[[], list[Check]]] = {}
    for dtype, h, n, classes in (
        (NARROW, 64, 70, 5),
        (NARROW, 128, 64, 16),
        (NARROW, 192, 100, 16),
        (NARROW, 256, 100, 16),
        (NARROW, 256, 500, 48),
        (WIDE, 64, 70, 5),
        (WIDE, 128, 500, 64),
    ):
        shape = HeadShape(d=h, h=h, k=32, c=classes)
        name = f"kernel, {dtype.name}, H={h}, N={n}, C={classes}"
        checks[name] = partial(check_rows, shape, n, dtype=dtype)
    for dtype, h, n, classes in (
        (NARROW, 64, 70, 4),
        (NARROW, 128, 130, 8),
        (NARROW, 256, 100, 16),
        (WIDE, 128, 130, 8),
    ):
        shape = HeadShape(d=2 * h, h=h, k=8, c=classes)
        checks[f"op, mean, {dtype.name}, H={h}, N={n}"] = partial(
            check_op, shape, n, basis, mean=True, dtype=dtype
        )
    small = HeadShape(d=512, h=256, k=8, c=16)
    checks["op, states, H=256, N=100"] = partial(check_op, small, 100, one, mean=False)
    for name, n, probes in (("12m", 500, one), ("1m", 1024, one), ("12m", 100, exact)):
        checks[f"op, mean, {name} head, N={n}, {probes.label}"] = partial(
            check_op, SHAPES[name], n, probes, mean=True
        )
    checks["two agents by vmap, H=256"] = partial(check_vmap, small, 100)
    return checks
