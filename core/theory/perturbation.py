"""The small-error expansion of an expected loss (Theorem 3.3 and Corollary 3.4).

From *Towards Unraveling and Improving Generalization in World Models*. A scan
x_{t+1} = F(x_t, w_t) is perturbed by ε times a diffusion error (random, zero-drift)
plus ε times a drift error (systematic). With y = ∂x/∂ε = y_s + y_d (diffusion part,
drift part) and z = ∂²x/∂ε²,

    E L(x^ε) − E L(x⁰) = ε (P + P̃) + (ε²/2) (Q + S + Q̃ + S̃) + O(ε³)
    P = E ∇L·y_s         P̃ = E ∇L·y_d
    Q = E ∇L·z_ss        Q̃ = E ∇L·(z_dd + 2 z_ds)
    S = E y_sᵀ L″ y_s    S̃ = E [y_dᵀ L″ y_d + 2 y_sᵀ L″ y_d]

Derivatives are those of the discrete map, by nested forward-mode differentiation, so
the only approximation is the mean over sampled paths. The paper's formulas differ in
several places: see `perturbation_printed` and docs/theory-sde.md.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Shaped

Step = Callable[[Array, PyTree], Array]
"""(state (n,), noise of one step) → next state, or an increment of it."""
Loss = Callable[[Array], Array]
"""Final state (n,) → scalar."""
Noise = PyTree[Shaped[Array, "paths time ..."], "Noise"]


class Estimate(NamedTuple):
    """A mean over paths and its standard error."""

    mean: float
    error: float


class Coefficients(NamedTuple):
    """Coefficients of the second-order terms, besides ε²."""

    q: float = 0.5
    s: float = 0.5
    q_tilde: float = 0.5
    s_tilde: float = 0.5


_EXACT = Coefficients()


class Check(NamedTuple):
    """The remainder of an expansion over a grid of ε.

    Attributes:
        eps: the grid, ascending.
        remainder: realized minus predicted change of the loss.
        error: its standard error; all ε share the same paths.
        second_order: the ε² term of the prediction.
        resolved: whether the remainder is above rounding error.
        slopes: of log|remainder| against log ε between neighbouring resolved ε. They
            tend to 3 as ε → 0 if the expansion is correct to second order.
        eps_valid: validity radius: the largest grid ε up to which |remainder| stays
            below 25 % of the ε² term; 0 if there is none.
    """

    eps: Float[np.ndarray, "grid"]
    remainder: Float[np.ndarray, "grid"]
    error: Float[np.ndarray, "grid"]
    second_order: Float[np.ndarray, "grid"]
    resolved: np.ndarray
    slopes: Float[np.ndarray, "pairs"]
    eps_valid: float


@dataclasses.dataclass(frozen=True)
class Expansion:
    """The terms of the expansion per path, from which standard errors follow.

    Attributes:
        base: L(x⁰).
        p, p_tilde, q, s, q_tilde, s_tilde: the integrands of P, P̃, Q, S, Q̃, S̃.
        realized: ε ↦ L(x^ε) of every path, on the same noise.
        coefficients: of the second-order terms: all ½; the paper prints others.
    """

    base: Float[Array, "paths"]
    p: Float[Array, "paths"]
    p_tilde: Float[Array, "paths"]
    q: Float[Array, "paths"]
    s: Float[Array, "paths"]
    q_tilde: Float[Array, "paths"]
    s_tilde: Float[Array, "paths"]
    realized: Callable[[float], Float[Array, "paths"]]
    coefficients: Coefficients = _EXACT

    def terms(self) -> dict[str, Estimate]:
        """Each term's mean and standard error, by name."""
        names = ("p", "p_tilde", "q", "s", "q_tilde", "s_tilde")
        return {name: estimate(getattr(self, name)) for name in names}

    @property
    def first(self) -> Float[Array, "paths"]:
        """The coefficient of ε on every path."""
        return self.p + self.p_tilde

    @property
    def second(self) -> Float[Array, "paths"]:
        """The coefficient of ε² on every path."""
        return sum(
            (weight * getattr(self, name))
            for name, weight in self.coefficients._asdict().items()
        )  # pyright: ignore[reportReturnType]

    def predict(self, eps: float) -> Estimate:
        """The change E L(x^ε) − E L(x⁰) to second order, R + R̃ in the paper."""
        return estimate(eps * self.first + eps**2 * self.second)

    def change(self, eps: float) -> Estimate:
        """The realized change E L(x^ε) − E L(x⁰), from the perturbed paths."""
        return estimate(self.realized(eps) - self.base)

    def check(self, eps_grid: Sequence[float]) -> Check:
        """Compare predicted and realized change on a grid of at least two ε.

        Use float64: in float32 the remainder is below rounding error (`resolved` is
        False and `slopes` is empty). A system without a third-order term has slope 4 or
        no remainder.

        Raises `ValueError` unless the grid is positive and ascending.
        """
        eps = np.asarray(eps_grid, float)
        if eps.size < 2 or eps[0] <= 0 or np.any(np.diff(eps) <= 0):
            raise ValueError(
                f"eps_grid is {list(eps_grid)}; give two or more positive ε, ascending"
            )
        first, second = np.asarray(self.first), np.asarray(self.second)
        base = np.asarray(self.base)
        found, size = [], 0.0
        for value in eps:
            realized = np.asarray(self.realized(float(value)))
            found.append(estimate(realized - base - value * first - value**2 * second))
            size = max(size, float(np.mean(np.abs(realized))))
        remainder, error = np.array(found).T
        # The factor 100 allows for rounding in sums over paths and steps.
        resolved = np.abs(remainder) > 100 * np.finfo(base.dtype).eps * max(
            size, 1e-300
        )
        clear = np.flatnonzero(resolved)
        slopes = [
            np.log(abs(remainder[j] / remainder[i])) / np.log(eps[j] / eps[i])
            for i, j in itertools.pairwise(clear)
            if j == i + 1
        ]
        order_two = eps**2 * np.mean(second)
        small = np.abs(remainder) < 0.25 * np.abs(order_two)
        valid = eps[: int(np.argmin(np.append(small, False)))]
        return Check(
            eps,
            remainder,
            error,
            order_two,
            resolved,
            np.array(slopes),
            float(valid[-1]) if valid.size else 0.0,
        )


def expansion_terms(
    step_fn: Step,
    loss: Loss,
    x0: Float[Array, "*paths n"],
    noise: Noise,
    *,
    drift_error: Step | None = None,
    diffusion_error: Step | None = None,
) -> Expansion:
    """Expand E L(x^ε) around ε = 0 for x_{t+1} = F(x_t, w_t) + ε (e_d + e_s)(x_t, w_t).

    **Arguments:**

    - `step_fn`: F, one step of the unperturbed system, differentiable in the state.
        `sde.EulerMaruyama.step` is that of an SDE.
    - `loss`: L, of the final state. For a running loss, add its sum to the state.
    - `x0`: the initial state, shared or per path.
    - `noise`: w, arrays with axes paths, time and those that `step_fn` takes.
    - `drift_error`: e_d, the systematic error of the increment (for an SDE σ(x) dt).
    - `diffusion_error`: e_s, its random error (for an SDE σ̄(x) dB).

    All paths have equal weight; for the paths of `sde.rademacher_tree` the mean is
    exact. Raises `ValueError` if both errors are None.
    """
    last = _perturbed(step_fn, drift_error, diffusion_error)
    starts = spread(x0, noise)
    unit = jnp.eye(2, dtype=x0.dtype)
    zero = jnp.zeros_like(unit[0])

    def one_path(start: Array, rows: PyTree) -> tuple[Array, ...]:
        def curve(eps: Array) -> Array:
            return last(eps, start, rows)

        def second(u: Array, v: Array) -> Array:
            along = lambda eps: jax.jvp(curve, (eps,), (u,))[1]
            return jax.jvp(along, (zero,), (v,))[1]

        x, y_s = jax.jvp(curve, (zero,), (unit[0],))
        y_d = jax.jvp(curve, (zero,), (unit[1],))[1]
        z_ss = second(unit[0], unit[0])
        z_rest = second(unit[1], unit[1]) + 2 * second(unit[1], unit[0])
        gradient = jax.grad(loss)
        bend = lambda y: jax.jvp(gradient, (x,), (y,))[1]
        slope, bent = gradient(x), bend(y_d)
        return (
            loss(x),
            slope @ y_s,
            slope @ y_d,
            slope @ z_ss,
            y_s @ bend(y_s),
            slope @ z_rest,
            y_d @ bent + 2 * y_s @ bent,
        )

    values = jax.jit(jax.vmap(one_path))(starts, noise)
    run = realized_losses(
        step_fn,
        loss,
        x0,
        noise,
        drift_error=drift_error,
        diffusion_error=diffusion_error,
    )
    return Expansion(*values, realized=run)


def realized_losses(
    step_fn: Step,
    loss: Loss,
    x0: Float[Array, "*paths n"],
    noise: Noise,
    *,
    drift_error: Step | None = None,
    diffusion_error: Step | None = None,
) -> Callable[[float], Float[Array, "paths"]]:
    """The function ε → L(x^ε) of every path; arguments as for `expansion_terms`."""
    last = _perturbed(step_fn, drift_error, diffusion_error)
    starts = spread(x0, noise)
    run = jax.jit(
        jax.vmap(lambda eps, a, b: loss(last(eps, a, b)), in_axes=(None, 0, 0))
    )
    return lambda eps: run(jnp.full(2, eps, starts.dtype), starts, noise)


def _perturbed(
    step_fn: Step, drift_error: Step | None, diffusion_error: Step | None
) -> Callable[[Array, Array, PyTree], Array]:
    """(ε of diffusion and drift, x0, noise) ↦ the final state of the perturbed path."""
    if drift_error is None and diffusion_error is None:
        raise ValueError(
            "drift_error and diffusion_error are both None; give at least one"
        )

    def last(eps: Array, start: Array, rows: PyTree) -> Array:
        def advance(x: Array, row: PyTree) -> tuple[Array, None]:
            new = step_fn(x, row)
            if diffusion_error is not None:
                new = new + eps[0] * diffusion_error(x, row)
            if drift_error is not None:
                new = new + eps[1] * drift_error(x, row)
            return new, None

        return jax.lax.scan(advance, start, rows)[0]

    return last


def spread(x0: Float[Array, "*paths n"], noise: Noise) -> Float[Array, "paths n"]:
    """The initial state of every path: `x0` itself, or a single state broadcast."""
    if x0.ndim == 2:
        return x0
    paths = jax.tree.leaves(noise)[0].shape[0]
    return jnp.broadcast_to(x0, (paths, x0.shape[0]))


def estimate(values: Float[Array, "paths"] | Float[np.ndarray, "paths"]) -> Estimate:
    """Mean over paths and its standard error."""
    values = np.asarray(values)
    return Estimate(
        float(np.mean(values)), float(np.std(values) / np.sqrt(max(values.size - 1, 1)))
    )
