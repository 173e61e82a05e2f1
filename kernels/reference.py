"""The definition of the penalty, by `jax.vjp`: the slow reference implementation.

GPLD Algorithm 1: for every state and every row i of its [K, C] probability table, one
backward pass gives ``g_i = J_iᵀ ε_i``; the penalty is ``(1/K) Σ_i ‖g_i‖²``. The tests
compare value and gradient of all other implementations with this one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from kernels.head import Activation, CategoricalHead, head_probabilities
from kernels.probes import ProbeKind, sample_probes


def row_probe_penalty(
    fn: Callable[[Float[Array, " d"]], Float[Array, "k c"]],
    u: Float[Array, "n d"],
    key: PRNGKeyArray | None,
    *,
    rows: int,
    classes: int,
    probes: int | None = None,
    probe_kind: ProbeKind = "rademacher",
    first_layer: Float[Array, "inputs d"] | None = None,
) -> Float[Array, " n"]:
    """The penalty of *any* map from one state to a table of row probabilities.

    For maps without a faster form, such as the prior with its two hidden layers, or a
    head with another norm or activation. Differentiable in every mode. The probe kinds
    "hadamard" and "exact" assume that the entries of each row sum to a constant; use
    "rademacher" for other maps.

    **Arguments:**

    - `fn`: a pure function of one state ``[d]`` to probabilities ``[rows, classes]``.
    - `u`: ``[n, d]``, the states (GPLD's s of eq. 5) at which the Jacobian is taken.
    - `key`: PRNG key of the probes; may be None for "exact".
    - `rows`, `classes`: K and C, the shape of what `fn` returns. Row i is the
        categorical z_i, and J_i ``[classes, d]`` the Jacobian of its probabilities.
    - `probes`, `probe_kind`: number and kind of the probes ε_i ``[classes]`` per state
        and row, see `kernels.jacobian_penalty`.
    - `first_layer`: ``[inputs, d]``, the weight W of a linear layer ``u = x W + b``
        before `fn`. The penalty is then that of the map from x: with y the cotangent of
        u, ``‖W y‖² = yᵀ (WᵀW) y``, without a gradient of x's size.

    **Returns:** ``[n]``, for each state ``(1/K) Σ_i ‖J_i(u)ᵀ ε_i‖²`` (GPLD eq. 5),
    averaged over probes: squared probability per squared unit of u (of x, with
    `first_layer`), float32 or wider. Its mean over the probes' draws is
    ``(1/K) Σ_i ‖J_i(u)‖²_F``.

    **Raises:**

    - `ValueError`: probes out of range for the kind, a missing key, or an `fn` that
        does not return ``[rows, classes]``.
    """
    shape = jax.eval_shape(fn, u[0]).shape
    if shape != (rows, classes):
        raise ValueError(
            f"fn returns {shape}, but rows={rows} and classes={classes}: it must map "
            "one state to probabilities [rows, classes]"
        )
    n = u.shape[0]
    epsilon = sample_probes(
        key,
        kind=probe_kind,
        probes=probes,
        rows=rows,
        n=n,
        classes=classes,
        dtype=jnp.promote_types(u.dtype, jnp.float32),
    )
    epsilon = jnp.broadcast_to(epsilon, (epsilon.shape[0], rows, n, classes))
    gram = None
    if first_layer is not None:
        wide = first_layer.astype(jnp.promote_types(first_layer.dtype, jnp.float32))
        gram = wide.T @ wide
    one = lambda x, e: _one_state(fn, x, e, gram)
    return jax.vmap(one, in_axes=(0, 2))(u, epsilon)


def reference_penalty(
    u: Float[Array, "n d"],
    head: CategoricalHead,
    epsilon: Float[Array, "m k_or_1 n_or_1 c"],
    *,
    unimix: float,
    activation: Activation,
    preactivation: Float[Array, "n h"] | None,
) -> Float[Array, " n"]:
    """`row_probe_penalty` of a `CategoricalHead`, in at least float32.

    With a `preactivation` a, the Jacobian is that of a displacement of u around a: the
    value is the same, and the cotangent goes to a instead of u.
    """
    dtype = jnp.promote_types(u.dtype, jnp.float32)
    u, head, epsilon, preactivation = jax.tree.map(
        lambda x: x.astype(dtype), (u, head, epsilon, preactivation)
    )
    m, *_, classes = epsilon.shape
    rows = head.w_out.shape[1] // classes
    epsilon = jnp.broadcast_to(epsilon, (m, rows, u.shape[0], classes))

    def probabilities(a: Array) -> Array:
        return head_probabilities(
            a, head, classes=classes, unimix=unimix, activation=activation
        )

    def one_state(x: Array, a: Array | None, e: Array) -> Array:
        if a is None:
            return _one_state(lambda y: probabilities(y @ head.w_in + head.b_in), x, e)
        return _one_state(
            lambda dy: probabilities(a + dy @ head.w_in), jnp.zeros_like(x), e
        )

    return jax.vmap(one_state, in_axes=(0, 0, 2))(u, preactivation, epsilon)


def _one_state(
    fn: Callable[[Array], Array],
    u: Float[Array, " d"],
    epsilon: Float[Array, "m k c"],
    gram: Float[Array, "d d"] | None = None,
) -> Float[Array, ""]:
    out, vjp = jax.vjp(fn, u)
    k = epsilon.shape[1]

    def one_row(i: Array, e: Float[Array, " c"]) -> Array:
        table = jnp.zeros(epsilon.shape[1:], out.dtype).at[i].set(e.astype(out.dtype))
        (gradient,) = vjp(table)
        gradient = gradient.astype(jnp.promote_types(u.dtype, jnp.float32))
        image = gradient if gram is None else gram @ gradient
        return jnp.sum(gradient * image)

    over_rows = jax.vmap(one_row)
    return jnp.mean(jax.vmap(lambda e: over_rows(jnp.arange(k), e))(epsilon))
