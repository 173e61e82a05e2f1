"""The fused GPU kernel: in Pallas' GPU interpreter, and compiled as far as a CPU can.

The interpreter runs every warpgroup in a thread of its own and watches for races.
"""

import itertools
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.sharding import AbstractMesh, AxisType

from kernels import CategoricalHead, jacobian_penalty, jacobian_penalty_mean, pallas_gpu

KERNEL_FUNCTION = f"{pallas_gpu.KERNEL_NAME}_mosaic_gpu"
"""Defined once in the program of every kernel call."""


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


def kernel_inputs(key, *, rows, n, h, classes):
    keys = jax.random.split(key, 6)

    def normal(i, *shape):
        x = jax.random.normal(keys[i], shape)
        return x.astype(jnp.bfloat16).astype(jnp.float32)

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

    def run(inputs):
        params = plgpu.InterpretGPUParams(detect_races=True)
        try:
            out = jax.block_until_ready(
                pallas_gpu.row_arrays(*inputs, interpret=params)
            )
        except jax.errors.JaxRuntimeError as error:
            # jax 0.12 raises at a race and 0.11 takes a note; both raise at a barrier
            # that came round again before anybody waited for it.
            found = re.search("RACE DETECTED|no threads observed", str(error))
            assert found, error
            return None, True
        return out, gpu_callbacks.get_races().races_found

    yield run
    gpu_callbacks.reset_gpu_interpret_mode_state()


@pytest.mark.parametrize(
    ("rows", "n", "h", "classes", "target_blocks"),
    [
        (4, 70, 64, 5, 132),  # one warpgroup, ragged states and classes, a row a block
        (4, 64, 128, 16, 1),  # all rows in one block: buffers are used again
        (4, 100, 256, 16, 4),  # two warpgroups exchange y; two rows a block
    ],
)
def test_kernel_computes_its_definition_without_races(
    rows, n, h, classes, target_blocks, getkey, monkeypatch, run_watched
):
    monkeypatch.setattr(pallas_gpu, "TARGET_BLOCKS", target_blocks)
    inputs = kernel_inputs(getkey(), rows=rows, n=n, h=h, classes=classes)
    got, races = run_watched(inputs)
    assert not races
    for x, y in zip(got, plain_row_arrays(*inputs), strict=True):
        assert x.shape == y.shape
        assert relative_error(x, y) < 4e-3


@pytest.mark.parametrize("skipped", ["resident", "arrived", "written", "drained"])
def test_every_barrier_is_needed(skipped, getkey, monkeypatch, run_watched):
    """Without the wait for any one barrier the interpreter does find the fault."""
    monkeypatch.setattr(pallas_gpu, "TARGET_BLOCKS", 1)
    wait, order = plgpu.barrier_wait, ["resident", "arrived", "written", "drained"]
    names = itertools.cycle(order)

    def wait_unless_skipped(barrier):
        if next(names) != skipped:
            wait(barrier)

    monkeypatch.setattr(plgpu, "barrier_wait", wait_unless_skipped)
    inputs = kernel_inputs(getkey(), rows=3, n=64, h=256, classes=16)
    _, races = run_watched(inputs)
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


@pytest.mark.parametrize("form", ["mean", "states"])
def test_op_agrees_with_the_definition(form, getkey):
    """Value and all gradients, at the tolerance of bfloat16 operands."""
    u, head = make_head(getkey())
    key = getkey()
    got = value_and_grads("pallas", form)(u, head, key)
    xla = value_and_grads("xla", form)(u, head, key)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (u, head))
    wanted = value_and_grads("reference", form)(*wide, key)
    leaves = map(jax.tree.leaves, (got, xla, wanted))
    for x, same, y in zip(*leaves, strict=True):
        assert x.dtype == same.dtype
        assert relative_error(x, y) < 2e-2
        assert relative_error(x, same) < 1e-2


def test_seeds_can_be_vmapped(getkey):
    agents = [make_head(getkey(), n=20) for _ in range(2)]
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
        assert relative_error(got[i], single(*agent)) < 1e-3


def program(monkeypatch, *, n, **sizes):
    """Jitted value and gradients with the compiled kernel, and arguments for it."""
    monkeypatch.setattr(pallas_gpu, "require_hopper", lambda: None)

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


def test_a_mesh_divides_the_states(monkeypatch):
    """Each of 4 devices runs the kernel on its 50 states, padded to one block of 64."""
    mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))
    fn, args = program(monkeypatch, n=200, d=24, h=64, k=2, c=4)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = fn.trace(*args)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count(KERNEL_FUNCTION) == 1
    (call,) = [x for x in text.splitlines() if "custom_call @mosaic_gpu" in x]
    assert "tensor<2x64x64xbf16>" in call


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
    with pytest.raises(ValueError, match=r"u of dtype float32.*cast u"):
        call(u.astype(jnp.float32), head, interpret=True)
    with pytest.raises(ValueError, match=r"H=96.*64 or a multiple of 128"):
        call(*make_head(getkey(), h=96), interpret=True)
    with pytest.raises(ValueError, match=r"H=384.*bytes of shared memory"):
        call(*make_head(getkey(), h=384), interpret=True)


@pytest.mark.gpu
def test_compiled_kernel_on_hopper(getkey):
    try:
        pallas_gpu.require_hopper()
    except ValueError as error:
        pytest.skip(str(error))
    u, head = make_head(getkey(), n=512, d=2304, h=256, k=32, c=16)
    key = getkey()

    def loss(head, implementation):
        return jacobian_penalty_mean(
            u, head, key, classes=16, implementation=implementation
        )

    fn = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    got, wanted = fn(head, "pallas"), fn(head, "xla")
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert relative_error(x, y) < 1e-2
