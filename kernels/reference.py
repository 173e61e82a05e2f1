"""The definition of the penalty, written with `jax.vjp` alone: slow, and what counts.

GPLD Algorithm 1: for every state and every row i of its [K, C] probability table, one
backward pass gives ``g_i = J_iᵀ ε_i`` and the penalty is the mean over rows of
``‖g_i‖²``. All other implementations must agree with this one, value and gradient.
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

    For maps without a faster form: the prior with its two hidden layers, or a head of
    yours with another norm or activation. Differentiate it as usual: nothing is
    stopped. The probe kinds "hadamard" and "exact" leave out the direction in which all
    entries of a row grow, along which probabilities never move: for a map whose rows do
    not sum to a constant take "rademacher".

    **Arguments:**

    - `fn`: one state ``[d]`` to probabilities ``[rows, classes]``; pure, as it is
        differentiated and mapped over the states.
    - `u`: ``[n, d]``, the states (GPLD's s of eq. 5) at which the Jacobian is taken.
    - `key`: of the random probes; may be None with "exact", which draws none.
    - `rows`, `classes`: K and C, the shape of what `fn` returns. Row i is the
        categorical z_i, and J_i ``[classes, d]`` the Jacobian of its probabilities.
    - `probes`, `probe_kind`: how many probes ε_i ``[classes]`` a state and row take,
        and from where; see `kernels.jacobian_penalty`. None is one probe, or with
        "exact" all of them.
    - `first_layer`: ``[inputs, d]``, W of a linear layer ``u = x W + b`` that comes
        before `fn`. The penalty is then that of the whole map from x: with y the
        cotangent of u, ``‖W y‖² = yᵀ (WᵀW) y``, so that no gradient of x's size is
        ever made.

    **Returns:** ``[n]``, for each state ``(1/K) Σ_i ‖J_i(u)ᵀ ε_i‖²`` (GPLD eq. 5),
    averaged over probes: squared probability per squared unit of u (of x, with
    `first_layer`), float32 or wider. Its mean over the probes' draws is
    ``(1/K) Σ_i ‖J_i(u)‖²_F``.

    **Raises:**

    - `ValueError`: probes out of range for the kind, no key for random ones, or an
        `fn` whose result is not ``[rows, classes]``.
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

    With `preactivation`, the Jacobian is that of a displacement of u around the given
    ``a``: the value is the same, and the cotangents split as the caller expects.
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
