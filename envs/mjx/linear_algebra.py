"""Cholesky factors of small matrices without a library, for MJX on a GPU.

MJX factors its n x n matrices, n the degrees of freedom, by `jax.scipy.linalg`. On a
GPU each call is one of cuSOLVER or cuBLAS, which cannot be part of a CUDA graph: the
host begins every kernel of a physics step, and of the solver's loop, by itself. Written
out in scalars, a factor and the solution with it are one kernel for 9 rows; in columns
they were nine. More than `WIDEST` rows are divided in blocks: 10 kernels for 22 rows,
18 for 30.

On a CPU all of it is `jax.scipy.linalg`, as before.
"""

import itertools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

WIDEST = 12
"""Rows of a block. Operations to compile grow with their cube."""

LARGEST = 60
"""Rows of the largest matrix. MJX has its own sparse form from here on."""

type _Entries = list[list[Array]]
"""Blocks or entries by row and column, each of shape (*batch, rows, columns)."""


def is_written_out(n: int) -> bool:
    """Whether matrices of n rows are factored here, not by a library."""
    return jax.default_backend() == "gpu" and n <= LARGEST


def cho_factor(
    a: Float[Array, "*batch n n"], lower: bool = False
) -> tuple[Float[Array, "*batch n n"], bool]:
    """As `jax.scipy.linalg.cho_factor`.

    A matrix that is not positive definite gives NaN, if not in every entry.
    """
    if not is_written_out(a.shape[-1]):
        return jax.scipy.linalg.cho_factor(a, lower)
    factor = lower_factor(a if lower else a.mT)
    return factor if lower else factor.mT, lower


def cho_solve(
    c_and_lower: tuple[Float[Array, "*batch n n"], bool], b: Float[Array, " n"]
) -> Float[Array, "*batch n"]:
    """As `jax.scipy.linalg.cho_solve`, with one right-hand side."""
    c, lower = c_and_lower
    if not is_written_out(c.shape[-1]):
        return jax.scipy.linalg.cho_solve(c_and_lower, b)
    return solve(c if lower else c.mT, b)


def lower_factor(a: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
    """L of a = L L^T; of `a` only the lower triangle is read."""
    blocks = _divided(a, _bounds(a.shape[-1]), _bounds(a.shape[-1]))
    count = len(blocks)
    for j in range(count):
        blocks[j][j] = _factor_block(blocks[j][j])
        for i in range(j + 1, count):
            blocks[i][j] = _right_solve(blocks[j][j], blocks[i][j])
        for i in range(j + 1, count):
            for k in range(j + 1, i + 1):
                blocks[i][k] -= _product(blocks[i][j], blocks[k][j].mT)
        for i in range(j):
            blocks[i][j] = jnp.zeros_like(blocks[i][j])
    return _joined(blocks)


def solve(
    factor: Float[Array, "*batch n n"], b: Float[Array, "*batch n"]
) -> Float[Array, "*batch n"]:
    """x of L L^T x = b."""
    bounds = _bounds(factor.shape[-1])
    blocks = _divided(factor, bounds, bounds)
    x = [row[0] for row in _divided(b[..., None], bounds, [0, 1])]
    count = len(x)
    for i in range(count):  # L y = b
        for j in range(i):
            x[i] -= _product(blocks[i][j], x[j])
        x[i] = _forward(blocks[i][i], x[i])
    for i in reversed(range(count)):  # L^T x = y
        for j in range(i + 1, count):
            x[i] -= _product(blocks[j][i].mT, x[j])
        x[i] = _backward(blocks[i][i], x[i])
    return _joined([[block] for block in x])[..., 0]


def _factor_block(a: Array) -> Array:
    """L of one block, in scalars."""
    n = a.shape[-1]
    entries = _entries(a)
    for j in range(n):
        row = entries[j]
        square = _less(row[j], [(x, x) for x in row[:j]])
        # LAPACK stops at a pivot that is not positive; so does this, with NaN.
        row[j] = jnp.sqrt(jnp.where(square > 0, square, jnp.nan))
        for below in entries[j + 1 :]:
            pairs = list(zip(below[:j], row[:j], strict=True))
            below[j] = _less(below[j], pairs) / row[j]
        row[j + 1 :] = [jnp.zeros_like(x) for x in row[j + 1 :]]
    return _joined(entries)


def _forward(factor: Array, b: Array) -> Array:
    """y of L y = b, one block, in scalars."""
    rows, y = _entries(factor), [row[0] for row in _entries(b)]
    for i, row in enumerate(rows):
        y[i] = _less(y[i], list(zip(row[:i], y[:i], strict=True))) / row[i]
    return _joined([[x] for x in y])


def _backward(factor: Array, y: Array) -> Array:
    """x of L^T x = y, one block, in scalars."""
    rows, x = _entries(factor), [row[0] for row in _entries(y)]
    for i in reversed(range(len(x))):
        pairs = [(rows[j][i], x[j]) for j in range(i + 1, len(x))]
        x[i] = _less(x[i], pairs) / rows[i][i]
    return _joined([[each] for each in x])


def _right_solve(factor: Array, a: Array) -> Array:
    """X of X L^T = a, one block, in columns."""
    rows = _entries(factor)
    (columns,) = _divided(a, [0, a.shape[-2]], list(range(a.shape[-1] + 1)))
    for j, row in enumerate(rows):
        pairs = list(zip(columns[:j], row[:j], strict=True))
        columns[j] = _less(columns[j], pairs) / row[j]
    return _joined([columns])


def _less(start: Array, pairs: list[tuple[Array, Array]]) -> Array:
    """`start` less the sum of the products of the pairs."""
    for left, right in pairs:
        start = lax.sub(start, lax.mul(left, right))
    return start


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def _bounds(n: int) -> list[int]:
    """Where blocks of about the same size begin and end."""
    count = -(-n // WIDEST)
    return [n * i // count for i in range(count + 1)]


def _entries(a: Array) -> _Entries:
    """Every entry as an array of shape (*batch, 1, 1).

    So that the slices of a joined array are seen by XLA to be what was joined: with
    factor and solution in one kernel, the factor's array need not exist.
    """
    return _divided(a, list(range(a.shape[-2] + 1)), list(range(a.shape[-1] + 1)))


def _divided(a: Array, rows: list[int], columns: list[int]) -> _Entries:
    """The blocks between these bounds."""

    def cut(x: Array, bounds: list[int], axis: int) -> list[Array]:
        pairs = itertools.pairwise(bounds)
        return [lax.slice_in_dim(x, i, j, axis=axis) for i, j in pairs]

    return [cut(row, columns, a.ndim - 1) for row in cut(a, rows, a.ndim - 2)]


def _joined(blocks: _Entries) -> Array:
    """The inverse of `_divided`."""
    return jnp.concatenate([jnp.concatenate(row, axis=-1) for row in blocks], axis=-2)
