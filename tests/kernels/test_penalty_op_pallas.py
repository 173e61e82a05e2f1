"""The fused GPU kernel: in Pallas' GPU interpreter, and compiled as far as a CPU can.

The interpreter runs every warpgroup in a thread of its own and watches for races.
"""

import itertools
import os
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.sharding import AbstractMesh, AxisType

from kernels import (
    CategoricalHead,
    jacobian_penalty,
    jacobian_penalty_mean,
    kernel_obstacle,
)
from kernels.pallas import kernel as pallas_gpu
from kernels.pallas import tiling

pytestmark = pytest.mark.usefixtures("quick_compiles")

KERNEL_FUNCTION = f"{pallas_gpu.KERNEL_NAME}_mosaic_gpu"
"""Defined once in the program of every kernel call."""

NARROW, WIDE = jnp.bfloat16, jnp.float32
"""The two dtypes of states that the kernel has."""

ROWS_TOLERANCE = {NARROW: 4e-3, WIDE: 2e-5}
"""8 bits of every operand, or about 16 (and with one product too few, 8 again)."""


def make_head(key, *, n=70, d=24, h=64, k=2, c=4, dtype=jnp.bfloat16):
    keys = jax.random.split(key, 6)

    def normal(i, *shape):
        return jax.random.normal(keys[i], shape).astype(dtype)

    return normal(0, n, d), CategoricalHead(
        w_in=normal(1, d, h) / d**0.5,
        b_in=normal(2, h) / 10,
        scale=1 + normal(3, h) / 5,
        w_out=3 * normal(4, h, k * c) / h**0.5,
        b_out=normal(5, k * c) / 10,
    )


def relative_error(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return np.linalg.norm(x - y) / np.linalg.norm(y)


def kernel_inputs(key, *, rows, n, h, classes, dtype=NARROW):
    keys = jax.random.split(key, 6)

    def normal(i, *shape):
        return jax.random.normal(keys[i], shape).astype(dtype).astype(jnp.float32)

    factor = normal(5, h, h)
    return (
        normal(0, rows, n, classes) / 4,
        normal(1, rows, n),
        normal(2, rows, classes, h) / 16,
        normal(3, n, h),
        normal(4, n, h),
        (factor + factor.T) / 16,
    )


@jax.jit
def plain_row_arrays(delta, k, w, gate, a, gram):
    v = jnp.einsum("knc,kch->knh", delta, w)
    y = gate[None] * v - k[..., None] * a[None]
    x = jnp.einsum("knh,hg->kng", y, gram)
    return y, gate[None] * x, jnp.sum(x * v, axis=0)


@pytest.fixture
def run_watched(monkeypatch):
    """Runs the kernel in the interpreter and says whether threads were out of step.

    The interpreter does not watch what a matrix instruction reads, so here each is
    preceded by ordinary reads of its operands.
    """
    wgmma = plgpu.wgmma

    def watched(accumulator, left, right):
        _ = left[...], right[...]
        wgmma(accumulator, left, right)

    monkeypatch.setattr(plgpu, "wgmma", watched)

    def run(inputs, **options):
        params = plgpu.InterpretGPUParams(detect_races=True)
        try:
            out = jax.block_until_ready(
                pallas_gpu.row_arrays(*inputs, interpret=params, **options)
            )
        except jax.errors.JaxRuntimeError as error:
            # jax 0.12 raises at a race and 0.11 takes a note; both raise at a barrier
            # that came round again before anybody waited for it, or twice before a late
            # warpgroup did.
            faults = "RACE DETECTED|no threads observed|barrier is already at phase"
            found = re.search(faults, str(error))
            assert found, error
            return None, True
        return out, gpu_callbacks.get_races().races_found

    yield run
    gpu_callbacks.reset_gpu_interpret_mode_state()


@pytest.mark.parametrize(
    ("dtype", "rows", "n", "h", "classes", "cut"),
    [
        # One warpgroup, ragged states and classes, a row a block.
        (NARROW, 4, 70, 64, 5, (64, 1)),
        # All rows in one block: buffers are used again.
        (NARROW, 4, 64, 128, 16, (128, 4)),
        # Two warpgroups exchange y; two rows a block.
        (NARROW, 4, 100, 256, 16, (128, 2)),
        (WIDE, 2, 70, 64, 5, (64, 2)),
        pytest.param(
            *(NARROW, 2, 64, 192, 16, (64, 2)),
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(
                    jax.__version_info__ < (0, 12) and (os.cpu_count() or 1) < 3,
                    reason="the interpreter of jax 0.11 has one thread a core, and "
                    "the three warpgroups wait for each other",
                ),
            ],
        ),
        pytest.param(WIDE, 2, 64, 128, 16, (64, 2), marks=pytest.mark.slow),
        pytest.param(WIDE, 4, 100, 128, 64, (128, 2), marks=pytest.mark.slow),
    ],
)
def test_kernel_computes_its_definition_without_races(
    dtype, rows, n, h, classes, cut, getkey, run_watched
):
    inputs = kernel_inputs(getkey(), rows=rows, n=n, h=h, classes=classes, dtype=dtype)
    got, races = run_watched(inputs, dtype=dtype, tiling=tiling.Tiling(*cut))
    assert not races
    assert [x.dtype for x in got] == [dtype, dtype, jnp.float32]
    for x, y in zip(got, plain_row_arrays(*inputs), strict=True):
        assert x.shape == y.shape
        assert relative_error(x, y) < ROWS_TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("dtype", "h", "columns"),
    [(NARROW, 256, 128), pytest.param(WIDE, 128, 64, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("skipped", ["resident", "arrived", "written", "drained"])
def test_every_barrier_is_needed(
    skipped, dtype, h, columns, getkey, monkeypatch, run_watched
):
    """Without the wait for any one barrier the interpreter does find the fault."""
    wait, order = plgpu.barrier_wait, ["resident", "arrived", "written", "drained"]
    names = itertools.cycle(order)

    def wait_unless_skipped(barrier):
        if next(names) != skipped:
            wait(barrier)

    monkeypatch.setattr(plgpu, "barrier_wait", wait_unless_skipped)
    inputs = kernel_inputs(getkey(), rows=3, n=64, h=h, classes=16, dtype=dtype)
    cut = tiling.Tiling(columns, 3)
    _, races = run_watched(inputs, dtype=dtype, tiling=cut)
    assert races


@cache
def value_and_grads(implementation, form):
    def loss(u, head, key):
        op = jacobian_penalty if form == "states" else jacobian_penalty_mean
        value = op(
            u,
            head,
            key,
            classes=4,
            probes=2,
            probe_kind="hadamard",
            implementation=implementation,
            interpret=implementation == "pallas",
        )
        return jnp.sum(value * jnp.cos(jnp.arange(len(u)))) if value.ndim else value

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


@pytest.mark.parametrize(
    ("form", "dtype", "tolerance"),
    [
        ("mean", NARROW, 2e-2),
        ("states", NARROW, 2e-2),
        ("mean", WIDE, 1e-4),
        pytest.param("states", WIDE, 1e-4, marks=pytest.mark.slow),
    ],
)
def test_op_agrees_with_the_definition(form, dtype, tolerance, getkey):
    """Value and all gradients, at the tolerance of the operands."""
    u, head = make_head(getkey(), dtype=dtype)
    key = getkey()
    got = value_and_grads("pallas", form)(u, head, key)
    xla = value_and_grads("xla", form)(u, head, key)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (u, head))
    wanted = value_and_grads("reference", form)(*wide, key)
    leaves = map(jax.tree.leaves, (got, xla, wanted))
    for x, same, y in zip(*leaves, strict=True):
        assert x.dtype == same.dtype
        assert relative_error(x, y) < tolerance
        assert relative_error(x, same) < tolerance / 2


@pytest.mark.parametrize("dtype", [NARROW, pytest.param(WIDE, marks=pytest.mark.slow)])
def test_seeds_can_be_vmapped(dtype, getkey):
    agents = [make_head(getkey(), n=20, dtype=dtype) for _ in range(2)]
    u, heads = jax.tree.map(lambda *x: jnp.stack(x), *agents)

    def penalty(u, head):
        return jacobian_penalty(
            u,
            head,
            None,
            classes=4,
            probe_kind="exact",
            implementation="pallas",
            interpret=True,
        )

    got = jax.jit(jax.vmap(penalty))(u, heads)
    single = jax.jit(penalty)
    for i, agent in enumerate(agents):
        assert relative_error(got[i], single(*agent)) < 1e-6


def program(monkeypatch, *, n, **sizes):
    """Jitted value and gradients with the compiled kernel, and arguments for it."""
    monkeypatch.setattr(tiling, "require_hopper", lambda: None)

    def loss(u, head, key):
        return jacobian_penalty_mean(
            u, head, key, classes=sizes["c"], implementation="pallas"
        )

    args = *make_head(jax.random.key(0), n=n, **sizes), jax.random.key(1)
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))), args


@pytest.mark.parametrize(
    "sizes",
    [
        {"d": 2304, "h": 256, "k": 32, "c": 16},
        {"d": 576, "h": 64, "k": 32, "c": 4},
        {"d": 128, "h": 128, "k": 8, "c": 64},
        {"d": 512, "h": 192, "k": 32, "c": 16},
        {"d": 576, "h": 64, "k": 32, "c": 4, "dtype": WIDE},
        {"d": 512, "h": 128, "k": 32, "c": 16, "dtype": WIDE},
    ],
)
def test_lowers_and_exports_for_cuda(sizes, monkeypatch):
    fn, args = program(monkeypatch, n=100, **sizes)
    text = fn.trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count(KERNEL_FUNCTION) == 1
    assert text.count("stablehlo.custom_call @mosaic_gpu") == 1
    kernel = jax.export.DisabledSafetyCheck.custom_call("mosaic_gpu_v2")
    exported = jax.export.export(fn, platforms=["cuda"], disabled_checks=[kernel])(
        *args
    )
    assert exported.platforms == ("cuda",)


@pytest.mark.parametrize(("dtype", "name"), [(NARROW, "bf16"), (WIDE, "f32")])
def test_a_mesh_divides_the_states(dtype, name, monkeypatch):
    """Each of 4 devices runs the kernel on its 50 states, padded to one block of 64."""
    mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))
    fn, args = program(monkeypatch, n=200, d=24, h=64, k=2, c=4, dtype=dtype)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = fn.trace(*args)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count(KERNEL_FUNCTION) == 1
    (call,) = [x for x in text.splitlines() if "custom_call @mosaic_gpu" in x]
    assert f"tensor<2x64x64x{name}>" in call


def call(u, head, **options):
    options = {"classes": 4, "implementation": "pallas", **options}
    return jacobian_penalty(u, head, jax.random.key(0), **options)


def test_errors(getkey, monkeypatch):
    u, head = make_head(getkey())
    if jax.default_backend() == "cpu":
        with pytest.raises(ValueError, match="'cpu': take implementation='xla'"):
            call(u, head)
    with pytest.raises(ValueError, match="interpret=True with implementation='xla'"):
        call(u, head, implementation="xla", interpret=True)
    with pytest.raises(ValueError, match=r"u of dtype float16.*bfloat16 or float32"):
        call(u.astype(jnp.float16), head, interpret=True)
    with pytest.raises(ValueError, match=r"H=96.*multiple of 64"):
        call(*make_head(getkey(), h=96), interpret=True)
    with pytest.raises(ValueError, match=r"H=384.*shared memory.*; take impl.*'xla'"):
        call(*make_head(getkey(), h=384), interpret=True)


@pytest.mark.parametrize("h", [64, 128, 192, 256])
@pytest.mark.parametrize("dtype", [NARROW, WIDE])
def test_widths_that_fit(h, dtype):
    """In bfloat16 all; in float32 to 128, and then it says in one line what else."""
    obstacle = kernel_obstacle(hidden=h, classes=16, dtype=dtype, interpret=True)
    if dtype == NARROW or h <= 128:
        assert obstacle is None
        return
    assert obstacle is not None and "\n" not in obstacle
    assert f"H={h}, classes=16, u of dtype float32" in obstacle
    assert obstacle.endswith("take bfloat16 u or implementation='xla'")


def test_the_default_tiling_fills_the_multiprocessors():
    """One round of 128 blocks rather than two that each read G for a single row."""
    assert tiling.default_tiling(32, 512, 256) == (128, 2)
    assert tiling.default_tiling(32, 1024, 192) == (64, 4)
    assert tiling.default_tiling(32, 64, 64) == (64, 1)
    assert tiling.default_tiling(32, 512, 128, WIDE) == (64, 2)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "h", "tolerance"),
    [
        (NARROW, 64, 1e-2),
        (NARROW, 192, 1e-2),
        (NARROW, 256, 1e-2),
        (WIDE, 64, 1e-4),
        (WIDE, 128, 1e-4),
    ],
)
def test_compiled_kernel_on_hopper(dtype, h, tolerance, getkey):
    try:
        tiling.require_hopper()
    except ValueError as error:
        pytest.skip(str(error))
    u, head = make_head(getkey(), n=500, d=512, h=h, k=32, c=16, dtype=dtype)
    key = getkey()

    def loss(head, implementation):
        return jacobian_penalty_mean(
            u, head, key, classes=16, implementation=implementation
        )

    fn = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    with jax.default_matmul_precision("highest"):
        got, wanted = fn(head, "pallas"), fn(head, "xla")
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert relative_error(x, y) < tolerance
