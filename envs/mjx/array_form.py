"""MJX's small functions in few operations, for the compiler.

MJX writes products of quaternions, cross products and the like in scalars, and takes
rows by indices that the program computes. For the walker that was 60 % of the
operations of a physics step, which all have to be traced, batched and compiled. Written
for whole arrays, with constant indices, they are the same sums: values agree to
rounding.

Importing this module replaces them for the whole process.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree
from mujoco.mjx._src import math, scan

type Vector = Float[Array, "3"]
type Quaternion = Float[Array, "4"]
"""w, x, y, z."""

_NEXT, _LAST = np.array([1, 2, 0]), np.array([2, 0, 1])
# Row i, entry k: what u_i is multiplied with in entry k of the product u v.
_FACTOR = np.array([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]])
_SIGN = np.array([[1, 1, 1, 1], [-1, 1, -1, 1], [-1, 1, 1, -1], [-1, -1, 1, 1]])
# Of (x, y, z, -x, -y, -z, 0): the matrix of the cross product with (x, y, z).
_SKEW = np.array([[6, 5, 1], [2, 6, 3], [4, 0, 6]])
# Of an inertia's six numbers: the symmetric matrix.
_INERTIA = np.array([[0, 3, 4], [3, 1, 5], [4, 5, 2]])
_TINY = 1e-8


def rows(x: Array, index: np.ndarray) -> Array:
    """`x[index]` for indices in [0, n) that are known now: a single operation."""
    own = tuple(range(index.ndim, index.ndim + x.ndim - 1))
    numbers = lax.GatherDimensionNumbers(
        offset_dims=own, collapsed_slice_dims=(0,), start_index_map=(0,)
    )
    return lax.gather(
        x,
        index[..., None].astype(np.int32),
        numbers,
        (1, *x.shape[1:]),
        mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )


def take(tree: PyTree, index: np.ndarray) -> PyTree:
    """The rows of every leaf; negative indices count from its end."""
    if isinstance(tree, np.ndarray):
        return tree[index]  # stays known to the caller

    def of(x: Array) -> Array:
        count = x.shape[0]
        if not count:
            return x
        found = np.mod(index, count)
        if found.ndim == 1 and found.size and np.all(np.diff(found) == 1):
            return lax.slice_in_dim(x, int(found[0]), int(found[-1]) + 1)
        return rows(x, found)

    return jax.tree.map(of, tree)


def cross(a: Vector, b: Vector) -> Vector:
    """a × b."""
    return rows(a, _NEXT) * rows(b, _LAST) - rows(a, _LAST) * rows(b, _NEXT)


def norm(x: Array, axis: Any = None) -> Array:
    """Length, with a gradient at 0; an array within 1e-8 of 0 has length 0."""
    zero = jnp.all(jnp.abs(x) <= _TINY)
    square = jnp.sum(jnp.square(jnp.where(zero, 1.0, x)), axis=axis)
    return jnp.where(zero, 0.0, jnp.sqrt(square))


def rotate(vec: Vector, quat: Quaternion) -> Vector:
    """`vec` rotated by a unit quaternion."""
    s, u = quat[0], quat[1:]
    turned = 2 * (jnp.dot(u, vec) * u) + (s * s - jnp.dot(u, u)) * vec
    return turned + 2 * s * cross(u, vec)


def quat_mul(u: Quaternion, v: Quaternion) -> Quaternion:
    """The product u v."""
    return jnp.sum(u[:, None] * (_SIGN.astype(v.dtype) * rows(v, _FACTOR)), axis=0)


def quat_to_mat(q: Quaternion) -> Float[Array, "3 3"]:
    """The rotation's matrix: (s² - |u|²) 1 + 2 u uᵀ + 2 s [u]×."""
    s, u = q[0], q[1:]
    skew = rows(jnp.concatenate([u, -u, jnp.zeros(1, q.dtype)]), _SKEW)
    scaled = (s * s - jnp.dot(u, u)) * np.eye(3, dtype=q.dtype)
    return scaled + 2 * (u[:, None] * u[None]) + 2 * s * skew


def axis_angle_to_quat(axis: Vector, angle: Float[Array, ""]) -> Quaternion:
    """The quaternion of a rotation by `angle` (radians) around a unit axis."""
    half = angle * 0.5
    return jnp.concatenate([jnp.cos(half)[None], axis * jnp.sin(half)])


def matmul_unroll(a: Float[Array, "n m"], b: Float[Array, "m k"]) -> Array:
    """a b, of matrices with few columns and rows."""
    return jnp.sum(a[:, :, None] * b[None], axis=1)


def motion_cross(u: Float[Array, "6"], v: Float[Array, "6"]) -> Float[Array, "6"]:
    """The cross product of two spatial motions: rotation, then translation."""
    moved = cross(u[3:], v[:3]) + cross(u[:3], v[3:])
    return jnp.concatenate([cross(u[:3], v[:3]), moved])


def motion_cross_force(v: Float[Array, "6"], f: Float[Array, "6"]) -> Array:
    """The cross product of a spatial motion and a spatial force."""
    turned = cross(v[:3], f[:3]) + cross(v[3:], f[3:])
    return jnp.concatenate([turned, cross(v[:3], f[3:])])


def inert_mul(i: Float[Array, "10"], v: Float[Array, "6"]) -> Float[Array, "6"]:
    """Spatial inertia (six numbers of the matrix, offset, mass) times a motion."""
    matrix, offset, mass = rows(i, _INERTIA), i[6:9], i[9]
    turned = jnp.dot(matrix, v[:3]) + cross(offset, v[3:])
    return jnp.concatenate([turned, mass * v[3:] - cross(offset, v[:3])])


def _replace() -> Mapping[str, Callable[..., Any]]:
    """Put the functions in the place of MJX's own; those that were there."""
    before = {}
    by_module = {
        math: (
            norm,
            rotate,
            quat_mul,
            quat_to_mat,
            axis_angle_to_quat,
            matmul_unroll,
            motion_cross,
            motion_cross_force,
            inert_mul,
        ),
        scan: (take,),
    }
    for module, functions in by_module.items():
        for function in functions:
            name = "_take" if function is take else function.__name__
            if not hasattr(module, name):
                raise ImportError(
                    f"this version of MJX has no {module.__name__}.{name}: install the "
                    "version of mujoco-mjx in constraints.txt"
                )
            before[name] = getattr(module, name)
            setattr(module, name, function)
    return before


MJX = _replace()
"""MJX's own functions, by name."""
