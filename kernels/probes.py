"""Probe vectors for the row-wise Jacobian penalty: Hutchinson's, and exact ones.

The probabilities of a row sum to one, so the columns of its Jacobian lie in the
hyperplane orthogonal to the all-ones vector. Besides the paper's Rademacher probes
(GPLD, Algorithm 1, line 12) there are probes from an orthonormal basis of that
hyperplane; all C - 1 of them give the squared Frobenius norm exactly.

The estimate is always the *mean* over probes of ``‖Jᵀε‖²``. Basis vectors are scaled
by √(C - 1), so that this mean is unbiased for any number of distinct random basis
vectors, and exact for all C - 1.
"""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

ProbeKind = Literal["rademacher", "hadamard", "exact"]
PROBE_KINDS: tuple[str, ...] = get_args(ProbeKind)


def zero_sum_basis(classes: int) -> np.ndarray:
    """Orthonormal basis of the vectors in R^C whose entries sum to zero.

    The non-constant columns of Sylvester's Hadamard matrix when `classes` is a power of
    two (entries ±1/√C), those of the DCT-II otherwise.

    **Returns:** float64 ``[classes - 1, classes]``, one basis vector a row.
    """
    index = np.arange(classes)
    if classes & (classes - 1) == 0:
        bits = index[1:, None] & index[None, :]
        return (1.0 - 2.0 * (np.bitwise_count(bits) % 2)) / math.sqrt(classes)
    angle = math.pi / classes * index[1:, None] * (index[None, :] + 0.5)
    return math.sqrt(2.0 / classes) * np.cos(angle)


def rademacher_probes(
    key: PRNGKeyArray, *, probes: int, rows: int, n: int, classes: int, dtype: jnp.dtype
) -> Float[Array, "probes rows n classes"]:
    """Independent ±1 entries, 32 from each random 32-bit word."""
    shape = (probes, rows, n, classes)
    size = math.prod(shape)
    words = jax.random.bits(key, (-(-size // 32), 1), jnp.uint32)
    bits = (words >> jnp.arange(32, dtype=jnp.uint32)[None]) & jnp.uint32(1)
    signs = 1 - 2 * bits.astype(jnp.int8)
    return signs.reshape(-1)[:size].reshape(shape).astype(dtype)


def basis_probes(
    key: PRNGKeyArray, *, probes: int, rows: int, n: int, classes: int, dtype: jnp.dtype
) -> Float[Array, "probes rows n classes"]:
    """`probes` distinct random basis vectors for each state and row.

    All states share one random permutation of the basis; each state and row has its own
    random start in it, one random number instead of a permutation. Given the
    permutation, the estimates of different states are unbiased and independent, so a
    mean over states has the variance of independent permutations. With a shared start
    the noise would not average out over states.

    Integers have 32 bits, so that a key gives the same probes with 64-bit floats.
    """
    order_key, start_key = jax.random.split(key)
    vectors = classes - 1
    order = jax.random.permutation(order_key, jnp.arange(vectors, dtype=jnp.int32))
    start = jax.random.randint(start_key, (1, rows, n), 0, vectors, jnp.int32)
    place = (start + jnp.arange(probes, dtype=jnp.int32)[:, None, None]) % vectors
    return exact_probes(classes=classes, dtype=dtype)[order[place], 0, 0]


def exact_probes(*, classes: int, dtype: jnp.dtype) -> Float[Array, "m 1 1 classes"]:
    """The whole basis, the same for all states and rows: an exact estimate."""
    scaled = math.sqrt(classes - 1) * zero_sum_basis(classes)
    return jnp.asarray(scaled, dtype)[:, None, None, :]


def sample_probes(
    key: PRNGKeyArray | None,
    *,
    kind: ProbeKind,
    probes: int | None,
    rows: int,
    n: int,
    classes: int,
    dtype: jnp.dtype,
) -> Float[Array, "m rows_or_1 n_or_1 classes"]:
    """Probes ε such that the mean over them of ‖Jᵀε‖² estimates ‖J‖_F² without bias.

    **Arguments:**

    - `key`: unused, and may be None, for ``kind="exact"``.
    - `kind`: ``"rademacher"`` (GPLD, Algorithm 1), ``"hadamard"`` (distinct random
        vectors of `zero_sum_basis`), ``"exact"`` (all of that basis).
    - `probes`: probes per state and row; None means 1. For "exact" it must be None.

    **Raises:** ValueError if the number of probes is out of range for the kind, or the
    key is missing.
    """
    if classes < 2:
        raise ValueError(f"classes={classes}: a categorical row needs at least 2")
    if kind not in PROBE_KINDS:
        raise ValueError(f"probe_kind={kind!r}: must be one of {PROBE_KINDS}")
    if kind == "exact":
        if probes is not None:
            raise ValueError(
                f"probes={probes} with probe_kind='exact', which always takes all "
                f"{classes - 1}: leave probes out, or take probe_kind='hadamard'"
            )
        return exact_probes(classes=classes, dtype=dtype)
    count = 1 if probes is None else probes
    most = classes - 1 if kind == "hadamard" else None
    if count < 1 or (most is not None and count > most):
        allowed = "at least 1" if most is None else f"1 to classes - 1 = {most}"
        raise ValueError(f"probes={count}: probe_kind={kind!r} takes {allowed}")
    if key is None:
        raise ValueError(f"key=None: probe_kind={kind!r} is random and needs a key")
    draw = rademacher_probes if kind == "rademacher" else basis_probes
    return draw(key, probes=count, rows=rows, n=n, classes=classes, dtype=dtype)
