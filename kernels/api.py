"""Entry points of the row-wise Jacobian penalty: arguments, checks, dispatch."""

import difflib
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from kernels.gram.forward import Settings, Weights
from kernels.gram.penalty import gram_penalty, gram_penalty_mean
from kernels.head import ACTIVATION_NAMES, Activation, CategoricalHead
from kernels.pallas import tiling
from kernels.probes import PROBE_KINDS, ProbeKind, sample_probes
from kernels.reference import reference_penalty

Implementation = Literal["xla", "pallas", "reference"]
IMPLEMENTATIONS: tuple[str, ...] = get_args(Implementation)


class _Options(NamedTuple):
    """The keyword arguments of `jacobian_penalty`, in its order."""

    classes: int
    unimix: float
    activation: Activation
    probes: int | None
    probe_kind: ProbeKind
    implementation: Implementation
    preactivation: Float[Array, "n h"] | None
    interpret: bool


def jacobian_penalty(
    u: Float[Array, "n d"],
    head: CategoricalHead,
    key: PRNGKeyArray | None,
    *,
    classes: int,
    unimix: float = 0.01,
    activation: Activation = "silu",
    probes: int | None = None,
    probe_kind: ProbeKind = "rademacher",
    implementation: Implementation = "xla",
    preactivation: Float[Array, "n h"] | None = None,
    interpret: bool = False,
) -> Float[Array, " n"]:
    """Row-wise Jacobian penalty of a categorical head, one value for each state.

    ``R(u) = (1/K) Σ_i ‖J_{q_i}(u)ᵀ ε_i‖²``, averaged over probes: an unbiased estimate
    of ``(1/K) Σ_i ‖J_{q_i}(u)‖_F²``, J_{q_i} the Jacobian of row i's probabilities
    (GPLD eq. 5 and Algorithm 1); exact for ``probe_kind="exact"``. Differentiable in
    `u`, `head` and `preactivation`. The same key gives the same value in every
    implementation, up to rounding.

    **Arguments:**

    - `u`: states, the inputs of the head, ``[n, d]``, floating point. Operands of
        matrix products are rounded to its dtype; sums, softmax and RMSNorm are in
        float32, or float64 for float64 `u`.
    - `head`: the weights; each gradient has the dtype of its weight.
    - `key`: PRNG key of the probes; may be None for ``probe_kind="exact"``.
    - `classes`: C; the head's outputs are K rows of C.
    - `unimix`: share of the uniform distribution.
    - `probes`: probes per state and row, default 1; must be None for "exact".
    - `probe_kind`: ``"rademacher"`` (the paper), ``"hadamard"`` (1 to C - 1 distinct
        vectors of an orthonormal basis: less noise at the same cost) or ``"exact"``
        (all C - 1: no noise).
    - `implementation`: ``"xla"`` (Gram form with a hand-written gradient, for every
        platform), ``"pallas"`` (the same with a fused kernel for NVIDIA Hopper: H a
        multiple of 64, to 256 for bfloat16 and 128 for float32 `u`, whose products in
        the kernel have about 16 bits) or ``"reference"`` (plain VJPs: the definition,
        slow).
    - `preactivation`: ``u @ w_in + b_in``, if the caller has computed it. The penalty
        then returns a cotangent for it, which the caller's backward pass propagates to
        `u`, `b_in` and `w_in`. `w_in` also gets the gradient of the Jacobian's first
        factor here; `u` and `b_in` get none.
    - `interpret`: run the "pallas" kernel in Pallas' interpreter, on any platform, for
        tests: slow. It runs each of the kernel's warpgroups (1 to 3) in a thread, and
        with jax 0.11 hangs if there are fewer cores (or threads, if the environment
        variable NPROC sets their number).

    Derivatives are by reverse mode (`jax.grad`, and `jax.grad` of it); forward mode
    (`jax.jvp`, `jax.jacfwd`, `jax.hessian`) works with "reference" only.

    **Returns:** nonnegative values, dimensionless, float32 or float64.

    **Raises:** TypeError for a `head` of another type, or inputs that are not floating
    point; ValueError for wrong shapes, probes out of range, an unknown name, or
    "pallas" where the kernel cannot run.
    """
    options = _Options(
        classes, unimix, activation, probes, probe_kind,
        implementation, preactivation, interpret,
    )  # fmt: skip
    return _apply("states", u, head, key, options)


_PARAMETERS = inspect.signature(jacobian_penalty)


@runtime_checkable  # for beartype
class _Decorate[**P](Protocol):
    def __call__[R](self, function: Callable[..., R]) -> Callable[P, R]: ...


def _same_parameters[**P](_: Callable[P, Array]) -> _Decorate[P]:
    """Give a function the parameters of another, for type checkers and `help`."""

    def decorate[R](function: Callable[..., R]) -> Callable[P, R]:
        result = inspect.signature(function).return_annotation
        signature = _PARAMETERS.replace(return_annotation=result)
        function.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
        return function

    return decorate


@_same_parameters(jacobian_penalty)
def jacobian_penalty_mean(*args: Any, **options: Any) -> Float[Array, ""]:
    """Mean of `jacobian_penalty` over the states: the form to train with.

    Same arguments and errors. The gradient is computed together with the value and
    only scaled in the backward pass, which saves a third of the work and all large
    intermediate arrays. (Algorithm 1, line 18: the sum divided by K·N.)
    """
    return _apply("mean", *_bound(*args, **options))


class PenaltyStats(NamedTuple):
    """An estimate of the penalty and its standard error over probes."""

    value: Float[Array, " n"]
    """As of `jacobian_penalty` with the same key."""
    standard_error: Float[Array, " n"]
    """Standard error of `value` over the draw of the probes; 0 for "exact"."""


@_same_parameters(jacobian_penalty)
def jacobian_penalty_stats(*args: Any, **options: Any) -> PenaltyStats:
    """`jacobian_penalty` with the standard error of each state's estimate.

    Same arguments and errors; at least 2 `probes`, or "exact". With x_m the estimate by
    probe m of M, the error is ``√(Σ (x_m − x̄)² / (M − 1) / M)``; for "hadamard" times
    ``√(1 − M/(C − 1))``, as its M probes are distinct vectors out of C − 1.

    **Raises:** as `jacobian_penalty`; ValueError also for one probe.
    """
    u, head, key, given = _bound(*args, **options)
    kind, count = given.probe_kind, given.probes
    if kind in ("rademacher", "hadamard") and (count or 1) < 2:
        raise ValueError(
            f"probes={count}: one probe has no standard error; take at least 2, or "
            "probe_kind='exact'"
        )
    values = _apply("probes", u, head, key, given)  # [probes, n]
    value = jnp.mean(values, axis=0)
    if kind == "exact":
        return PenaltyStats(value, jnp.zeros_like(value))
    error = jnp.std(values, axis=0, ddof=1) / math.sqrt(len(values))
    if kind == "hadamard":
        share = len(values) / (given.classes - 1)
        error *= math.sqrt(max(0.0, 1 - share))
    return PenaltyStats(value, error)


def _bound(
    *args: Any, **options: Any
) -> tuple[Array, CategoricalHead, PRNGKeyArray | None, _Options]:
    """The arguments of `jacobian_penalty`, with its defaults."""
    given = _PARAMETERS.bind(*args, **options)
    given.apply_defaults()
    u, head, key, *rest = given.arguments.values()
    return u, head, key, _Options(*rest)


def _apply(
    form: Literal["states", "mean", "probes"],
    u: Array,
    head: CategoricalHead,
    key: PRNGKeyArray | None,
    options: _Options,
) -> Array:
    """Check the arguments eagerly, draw the probes, call the implementation."""
    (
        classes, unimix, activation, probes, probe_kind,
        implementation, preactivation, interpret,
    ) = options  # fmt: skip
    _check_name("activation", activation, ACTIVATION_NAMES)
    _check_name("probe_kind", probe_kind, PROBE_KINDS)
    _check_name("implementation", implementation, IMPLEMENTATIONS)
    _check_shapes(u, head, classes, preactivation)
    if isinstance(unimix, Tracer):
        raise TypeError("unimix is traced: it must be a number known when compiling")
    if not 0.0 <= unimix < 1.0:
        raise ValueError(f"unimix={unimix}: must be at least 0 and below 1")
    if interpret and implementation != "pallas":
        raise ValueError(
            f"interpret=True with implementation={implementation!r}: only 'pallas' has "
            "an interpreter; leave interpret out"
        )
    if implementation == "pallas":
        _check_kernel(u, head, classes, interpret)
    settings = Settings(
        classes=classes,
        unimix=unimix,
        activation=activation,
        operand=u.dtype,
        kernel=implementation == "pallas",
        interpret=interpret,
    )
    epsilon = sample_probes(
        key,
        kind=probe_kind,
        probes=probes,
        rows=head.w_out.shape[1] // classes,
        n=u.shape[0],
        classes=classes,
        dtype=settings.wide,
    )
    if implementation == "reference":
        values = lambda epsilon: reference_penalty(
            u,
            head,
            epsilon,
            unimix=unimix,
            activation=activation,
            preactivation=preactivation,
        )
    else:
        a = preactivation
        if a is None:
            a = u @ head.w_in.astype(u.dtype) + head.b_in.astype(u.dtype)[None]
        weights = Weights(a, head.w_in, head.scale, head.w_out, head.b_out)
        if form == "mean":
            return gram_penalty_mean(settings, weights, epsilon)
        values = lambda epsilon: gram_penalty(settings, weights, epsilon)
    if form == "probes":
        return jax.lax.map(lambda probe: values(probe[None]), epsilon)
    found = values(epsilon)
    return jnp.mean(found) if form == "mean" else found


def _check_name(argument: str, value: Any, names: tuple[str, ...]) -> None:
    if value in names:
        return
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{argument}={value!r}: must be one of {', '.join(names)}{hint}")


def kernel_obstacle(
    *, hidden: int, classes: int, dtype: DTypeLike, interpret: bool = False
) -> str | None:
    """Why ``implementation="pallas"`` would be refused here, or None if it would run.

    **Arguments:**

    - `hidden`: H, the width of the head's hidden layer.
    - `classes`: C.
    - `dtype`: the dtype of the states u.
    - `interpret`: whether Pallas' interpreter, rather than a GPU, would run it.
    """
    try:
        tiling.check_sizes(hidden, classes, dtype)
        if not interpret:
            tiling.require_hopper()
    except ValueError as error:
        return str(error)
    return None


def _check_kernel(u: Array, head: CategoricalHead, classes: int, interpret: bool):
    obstacle = kernel_obstacle(
        hidden=head.w_in.shape[1], classes=classes, dtype=u.dtype, interpret=interpret
    )
    if obstacle is not None:
        raise ValueError(f"implementation='pallas': {obstacle}")


def _check_shapes(
    u: Array, head: CategoricalHead, classes: int, preactivation: Array | None
) -> None:
    if not isinstance(head, CategoricalHead):
        raise TypeError(
            f"head is a {type(head).__name__}: it must be a kernels.CategoricalHead. "
            "For any other map to row probabilities there is kernels.row_probe_penalty"
        )
    arrays = {"u": u, **{f"head.{k}": v for k, v in head._asdict().items()}}
    if preactivation is not None:
        arrays["preactivation"] = preactivation
    for name, x in arrays.items():
        if not hasattr(x, "dtype"):
            raise TypeError(f"{name} is {x!r:.60}: it must be an array")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{name} has dtype {x.dtype}: cast it to a floating point")
    if u.ndim != 2 or u.shape[0] == 0:
        raise ValueError(
            f"u has shape {u.shape}: pass at least one state as [n, d] "
            "(reshape batch and time into one axis first)"
        )
    if head.w_in.ndim != 2 or head.w_out.ndim != 2:
        raise ValueError(
            f"head.w_in has shape {head.w_in.shape} and head.w_out {head.w_out.shape}: "
            "they must be [d, h] and [h, k * classes]"
        )
    (n, d), h, outputs = u.shape, head.w_in.shape[1], head.w_out.shape[1]
    if classes < 2 or outputs % classes:
        raise ValueError(
            f"classes={classes} with head.w_out {head.w_out.shape}: classes must be at "
            f"least 2 and divide the {outputs} outputs into whole rows"
        )
    wanted = {
        "head.w_in": (d, h),
        "head.b_in": (h,),
        "head.scale": (h,),
        "head.w_out": (h, outputs),
        "head.b_out": (outputs,),
        "preactivation": (n, h),
    }
    for name, shape in wanted.items():
        if name in arrays and arrays[name].shape != shape:
            raise ValueError(
                f"{name} has shape {arrays[name].shape}, but u {u.shape}, w_in "
                f"{head.w_in.shape} and w_out {head.w_out.shape} ask for {shape}"
            )
