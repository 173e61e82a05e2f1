"""The penalty op against its definition: values, gradients, precisions, transforms."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import (
    Activation,
    CategoricalHead,
    head_probabilities,
    jacobian_penalty,
    jacobian_penalty_mean,
    row_probe_penalty,
)

pytestmark = pytest.mark.usefixtures("quick_compiles")

FAMILIES = [
    ("rademacher", 2, 4),
    ("hadamard", 2, 4),
    ("hadamard", 3, 5),
    ("exact", None, 4),
    ("exact", None, 3),
]


@partial(jax.jit, static_argnames=("n", "d", "h", "k", "c", "dtype"))
def make_head(key, *, n=5, d=7, h=8, k=3, c=4, sharpness=1.0, dtype=jnp.float32):
    """Random states and weights; `sharpness` scales the logits."""
    keys = jax.random.split(key, 6)

    def normal(i, *shape):
        return jax.random.normal(keys[i], shape, dtype)

    head = CategoricalHead(
        w_in=normal(1, d, h) / d**0.5,
        b_in=0.1 * normal(2, h),
        scale=1 + 0.2 * normal(3, h),
        w_out=sharpness * normal(4, h, k * c) / h**0.5,
        b_out=0.1 * normal(5, k * c),
    )
    return normal(0, n, d), head


@cache
def value_and_grads(
    implementation, kind, probes, classes, form, activation: Activation = "silu"
):
    """Jitted value and all gradients of one form of the op.

    The forms: "mean", "states" (random weights for the states), and "reused", the mean
    with the pre-activation passed in, whose own cotangent is returned as well. A mean
    is multiplied by 3, as λ does in training: its cotangent is not 1.
    """

    def loss(u, head, preactivation, key):
        probe_key, weight_key = jax.random.split(key)
        op = jacobian_penalty if form == "states" else jacobian_penalty_mean
        value = op(
            u,
            head,
            probe_key,
            classes=classes,
            probes=probes,
            probe_kind=kind,
            implementation=implementation,
            activation=activation,
            preactivation=preactivation if form == "reused" else None,
        )
        weights = jax.random.normal(weight_key, u.shape[:1], value.dtype)
        return jnp.sum(weights * value) if form == "states" else 3.0 * value

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))


@jax.jit
def preactivation_of(u, head):
    return u @ head.w_in + head.b_in[None]


def assert_close(got, wanted, tolerance):
    """Every leaf within `tolerance` of the wanted one's Euclidean norm."""
    paths = jax.tree_util.tree_leaves_with_path(wanted)
    for x, (path, y) in zip(jax.tree.leaves(got), paths, strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        error = np.linalg.norm(x - y)
        assert error <= tolerance * np.linalg.norm(y), (path, error, np.linalg.norm(y))


@pytest.mark.parametrize(
    ("kind", "probes", "classes", "form"),
    [(*family, "mean") for family in FAMILIES]
    + [(*family, form) for family in FAMILIES[::2] for form in ("states", "reused")],
)
def test_float64_equals_the_definition(kind, probes, classes, form):
    with jax.enable_x64(True):
        for seed, sharpness in enumerate([0.3, 1.0, 8.0]):
            key = jax.random.key(seed)
            u, head = make_head(key, c=classes, sharpness=sharpness, dtype=jnp.float64)
            args = u, head, preactivation_of(u, head), key
            got = value_and_grads("xla", kind, probes, classes, form)(*args)
            wanted = value_and_grads("reference", kind, probes, classes, form)(*args)
            assert_close(got, wanted, 1e-12)
            assert got[0] != 0


def test_another_activation():
    with jax.enable_x64(True):
        key = jax.random.key(0)
        u, head = make_head(key, dtype=jnp.float64)
        args = u, head, preactivation_of(u, head), key
        rest = ("rademacher", 1, 4, "mean", "gelu")
        assert_close(
            value_and_grads("xla", *rest)(*args),
            value_and_grads("reference", *rest)(*args),
            1e-12,
        )


@pytest.mark.parametrize(
    ("dtype", "implementation", "tolerance"),
    [
        (jnp.float32, "xla", 1e-5),
        (jnp.float32, "reference", 1e-5),
        # Operands of products have 8 significant bits: 2^-8 = 0.4% each.
        (jnp.bfloat16, "xla", 2e-2),
        # The definition computes in float32 and rounds only the gradients.
        (jnp.bfloat16, "reference", 4e-3),
    ],
)
@pytest.mark.parametrize("form", ["mean", "reused"])
@pytest.mark.parametrize("sharpness", [1.0, 6.0])
def test_lower_precisions(dtype, implementation, tolerance, form, sharpness):
    key = jax.random.key(3)
    u, head = make_head(
        key, n=16, d=24, h=32, k=4, c=8, sharpness=sharpness, dtype=dtype
    )
    pre = preactivation_of(u, head)
    with jax.default_matmul_precision("highest"):
        fn = value_and_grads(implementation, "hadamard", 2, 8, form)
        value, grads = fn(u, head, pre, key)
    assert value.dtype == jnp.float32
    assert all(x.dtype == dtype for x in jax.tree.leaves(grads))
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (u, head, pre))
        fn = value_and_grads("reference", "hadamard", 2, 8, form)
        assert_close((value, grads), fn(*exact, key), tolerance)


@partial(jax.jit, static_argnames="classes")
def exact_norm(u, head, classes):
    """Mean over rows of ‖J_i‖_F², by the full Jacobian."""

    def table(x):
        a = x @ head.w_in + head.b_in
        return head_probabilities(a, head, classes=classes)

    jacobians = jax.vmap(jax.jacrev(table))(u)
    return jnp.mean(jnp.sum(jacobians**2, axis=(2, 3)), axis=1)


@pytest.mark.parametrize(
    ("implementation", "classes"), [("xla", 2), ("xla", 7), ("reference", 4)]
)
def test_exact_is_the_squared_frobenius_norm(implementation, classes, getkey):
    with jax.enable_x64(True):
        u, head = make_head(getkey(), c=classes, sharpness=2.0, dtype=jnp.float64)
        got = jacobian_penalty(
            u,
            head,
            None,
            classes=classes,
            probe_kind="exact",
            implementation=implementation,
        )
        np.testing.assert_allclose(got, exact_norm(u, head, classes), rtol=1e-12)


@pytest.mark.parametrize(("kind", "probes"), [("rademacher", 2), ("hadamard", 2)])
def test_estimates_are_unbiased(kind, probes, getkey):
    """The mean over many keys is within 4 standard errors of the exact norm."""
    u, head = make_head(getkey(), n=2, c=4, sharpness=2.0)

    def draw(key):
        return jacobian_penalty(u, head, key, classes=4, probes=probes, probe_kind=kind)

    draws = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(getkey(), 4000)))
    error = draws.mean(0) - np.asarray(exact_norm(u, head, 4))
    assert np.all(np.abs(error) < 4 * draws.std(0) / 4000**0.5)
    assert np.all(draws.std(0) > 0)


def test_row_probe_penalty_serves_any_function(getkey):
    u = jax.random.normal(getkey(), (3, 5))
    weights = jax.random.normal(getkey(), (5, 8))

    def table(x):
        return jax.nn.softmax(jnp.tanh(x @ weights).reshape(2, 4))

    got = row_probe_penalty(table, u, None, rows=2, classes=4, probe_kind="exact")
    jacobians = jax.vmap(jax.jacrev(table))(u)
    wanted = jnp.mean(jnp.sum(jacobians**2, axis=(2, 3)), axis=1)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    with pytest.raises(ValueError, match=r"fn returns \(2, 4\)"):
        row_probe_penalty(table, u, None, rows=4, classes=2, probe_kind="exact")


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 4),
    d=st.integers(1, 5),
    h=st.integers(1, 6),
    k=st.integers(1, 6),
    c=st.integers(2, 6),
    kind=st.sampled_from(["rademacher", "hadamard", "exact"]),
)
def test_any_shape(n, d, h, k, c, kind):
    u, head = make_head(jax.random.key(n), n=n, d=d, h=h, k=k, c=c)
    probes = None if kind == "exact" else 1

    @jax.jit
    def both(u, head, key):
        def loss(head, implementation):
            return jacobian_penalty_mean(
                u,
                head,
                key,
                classes=c,
                probes=probes,
                probe_kind=kind,
                implementation=implementation,
            )

        return [jax.value_and_grad(loss)(head, i) for i in ("xla", "reference")]

    got, wanted = both(u, head, jax.random.key(d))
    chex.assert_trees_all_close(got, wanted, rtol=2e-4, atol=1e-5)


def test_value_does_not_depend_on_how_rows_are_blocked(getkey, monkeypatch):
    u, head = make_head(getkey(), k=6)
    key = getkey()

    def grads():
        def loss(head):
            return jacobian_penalty_mean(u, head, key, classes=4, probes=2)

        return jax.jit(jax.value_and_grad(loss))(head)

    wanted = grads()
    for block in (2, 3, 6):
        monkeypatch.setattr(
            "kernels.gram.rows.row_block", lambda *_, block=block: block
        )
        assert_close(grads(), wanted, 1e-5)


def test_seeds_can_be_vmapped(getkey):
    """Two agents in one program: each gets its own result."""
    key = getkey()
    agents = [make_head(getkey()) for _ in range(2)]
    u, heads = jax.tree.map(lambda *x: jnp.stack(x), *agents)
    keys = jax.random.split(key, 2)
    fn = value_and_grads("xla", "rademacher", 1, 4, "mean")
    pre = jax.vmap(preactivation_of)(u, heads)
    got = jax.vmap(fn)(u, heads, pre, keys)
    for i in range(2):
        one = jax.tree.map(lambda x, i=i: x[i], (u, heads, pre, keys))
        assert_close(jax.tree.map(lambda x, i=i: x[i], got), fn(*one), 1e-5)


def test_traces_once(getkey):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(u, head, key):
        return jacobian_penalty_mean(u, head, key, classes=4)

    for _ in range(3):
        step(*make_head(getkey()), getkey())


def test_reused_preactivation_costs_no_first_layer(getkey):
    """With `preactivation`, no product of the states with W_in is compiled."""
    u, head = make_head(getkey(), n=5, d=7, h=8)
    pre = preactivation_of(u, head)

    def products(preactivation):
        def loss(head, preactivation):
            return jacobian_penalty_mean(
                u, head, getkey(), classes=4, preactivation=preactivation
            )

        jaxpr = jax.make_jaxpr(loss)(head, preactivation)
        return str(jaxpr).count("dot_general")

    assert products(pre) == products(None) - 1


def call(u, head, key=None, **options):
    options = {"classes": 4, **options}
    return jacobian_penalty(u, head, key, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probes": 0}, "probes=0: .* at least 1"),
        ({"probe_kind": "hadamard", "probes": 4}, "probes=4: .* 1 to classes - 1 = 3"),
        ({"probe_kind": "exact", "probes": 1}, "probes=1 with probe_kind='exact'"),
        ({"probe_kind": "hadamart"}, "did you mean 'hadamard'"),
        ({"implementation": "xlaa"}, "did you mean 'xla'"),
        ({"activation": "relu"}, "activation='relu': must be one of silu"),
        ({"classes": 5}, r"classes=5 with head.w_out \(8, 12\)"),
        ({"classes": 1}, "classes=1"),
        ({"unimix": 1.0}, "unimix=1.0"),
        ({"preactivation": jnp.zeros((5, 7))}, r"preactivation has shape \(5, 7\)"),
    ],
)
def test_argument_errors(options, message, getkey, plain_signatures):
    u, head = make_head(getkey())
    with pytest.raises(ValueError, match=message):
        call(u, head, getkey(), **options)


def test_input_errors(getkey, plain_signatures):
    u, head = make_head(getkey())
    with pytest.raises(ValueError, match="key=None"):
        call(u, head)
    with pytest.raises(ValueError, match=r"u has shape \(7,\)"):
        call(u[0], head, getkey())
    with pytest.raises(ValueError, match=r"head.scale has shape \(7,\).*\(8,\)"):
        call(u, head._replace(scale=head.scale[1:]), getkey())
    with pytest.raises(TypeError, match="u has dtype int32"):
        call(u.astype(int), head, getkey())
    with pytest.raises(TypeError, match=r"head is a tuple: .*row_probe_penalty"):
        call(u, tuple(head), getkey())
    with pytest.raises(TypeError, match=r"head.scale is None: it must be an array"):
        call(u, head._replace(scale=None), getkey())
    with pytest.raises(TypeError, match="unimix is traced"):
        jax.jit(lambda unimix: call(u, head, getkey(), unimix=unimix))(0.1)


@pytest.fixture
def plain_signatures():
    """The op's own checks, as users without run-time type checks meet them."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
