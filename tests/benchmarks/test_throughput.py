"""The throughput benchmark: its counting, its programs, its arithmetic."""

import json

import jax
import jax.numpy as jnp
import pytest

from benchmarks.measure.flops import matmul_flops
from benchmarks.measure.program import donated, repeat
from benchmarks.measure.timing import Spread
from benchmarks.throughput import __main__ as throughput
from benchmarks.throughput.programs import Update
from benchmarks.throughput.report import (
    LoopTimes,
    SeedTimes,
    UpdateTimes,
    draw,
    table,
    trace_table,
)
from train.config.presets import build, preset_values


def test_products_are_counted_as_often_as_they_run():
    x = jnp.ones((3, 4))
    w = jnp.ones((4, 4))
    once = 2 * 3 * 4 * 4
    assert matmul_flops(lambda x: x @ w, x) == once
    assert matmul_flops(jax.jit(lambda x: jax.nn.relu(x @ w) @ w), x) == 2 * once

    def looped(x):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=7)[0]

    assert matmul_flops(looped, x) == 7 * once
    # Backward: one product for x and one for w at each step.
    gradient = jax.grad(lambda w: jnp.sum(x @ w @ w), argnums=0)
    assert matmul_flops(gradient, w) == 2 * once + 3 * once
    batched = jax.vmap(lambda a, b: a @ b)
    assert matmul_flops(batched, jnp.ones((5, 3, 4)), jnp.ones((5, 4, 4))) == 5 * once
    branch = lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ w, lambda x: x, x)
    assert matmul_flops(branch, x) == once


def test_a_repeat_runs_the_step_that_often_with_its_own_keys():
    program = repeat(lambda carry, key: carry + jax.random.uniform(key), 0.0, 5)
    keys = jax.random.split(jax.random.key(2), 5)
    wanted = sum(jax.random.uniform(key) for key in keys)
    assert program.call() == pytest.approx(float(wanted), rel=1e-6)
    assert program.times == 5


def test_a_donated_program_goes_on_and_can_be_waited_for():
    """Without its carry a program with no output would not be waited for."""
    start = {"x": jnp.zeros(()), "key": jax.random.key(0)}
    step = lambda carry, _: (carry | {"x": carry["x"] + 1}, None)
    one, other = (donated(step, start, times=3) for _ in range(2))
    for expected in (1.0, 2.0):
        carry, output = one.call()  # pyright: ignore[reportGeneralTypeIssues]
        assert float(carry["x"]) == expected and output is None
    assert float(other.call()[0]["x"]) == 1.0  # pyright: ignore
    assert float(start["x"]) == 0.0  # what was given is still there
    assert one.times == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "1m,huge"], "--size: huge: allowed: 400k"),
        (["--seeds", "1,x"], "--seeds: 1,x: allowed: counts"),
        (["--seeds", "0"], "--seeds: 0: allowed: counts"),
    ],
)
def test_bad_input_gets_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as raised:
        throughput.main(words)
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_share_of_the_machines_rate_stands_in_the_table():
    half = Spread(0.345, 0.34, 0.35)
    found = UpdateTimes(
        size="1m",
        batch_size=16,
        batch_length=64,
        imagination_length=25,
        dtype="float32",
        seconds=half,
        seconds_with_penalty=half,
        phases={"world model": Spread(0.1, 0.1, 0.1)},
        flops=int(0.345 * 100e9),
        product_flops=400e9,
        peak_bytes=None,
        compile_seconds=9.0,
        warm_seconds=2.0,
    )
    assert found.share == pytest.approx(0.25)
    seeds = [SeedTimes("1m", 8, half, Spread(0.7, 0.6, 0.8))]
    loop = LoopTimes(
        preset="laptop",
        size="1m",
        env="walker-walk",
        updates_per_second=30.0,
        env_steps_per_second=300.0,
        decisions_per_second=150.0,
        chunk_seconds=Spread(4.0, 3.9, 4.1),
        collect_share=Spread(0.1, 0.1, 0.1),
        replay_share=Spread(0.01, 0.01, 0.01),
        host_share=0.001,
        compile_seconds=9.0,
        peak_bytes=10**6,
    )
    text = table([found], seeds, loop)
    assert "25% of a 400 GFLOP/s product" in text
    assert "0.70 of 8 single ones" in text
    times = {"count": 8, "seconds": 0.02}
    traced = {"updates": 2, "span_seconds": 0.03, "busy_share": 0.5}
    traced |= {"kinds": [{"name": "dot", "scope": "imagine", **times}]}
    lines = trace_table(traced | {"scopes": {"imagine": times}}).splitlines()
    assert lines[0].startswith("trace of an update: 15.0 ms, 50% busy")
    assert lines[1].split() == ["imagine", "4", "times", "10.0", "ms"]
    assert lines[3].split() == ["imagine", "dot", "4", "times", "10.0", "ms"]
    assert json.dumps([found.record(), seeds[0].record(), loop.record()])
    assert len(draw([found], seeds, loop).axes) == 3


@pytest.mark.slow
def test_the_gradient_takes_more_products_than_its_parts():
    parts = Update(build(preset_values("smoke", platform="cpu")), 2)
    whole, gradient = parts.whole(None), parts.gradient()
    world, imagination = parts.world_model(), parts.imagination()
    assert whole.flops == gradient.flops  # the optimizer multiplies no matrices
    assert gradient.flops > world.flops + imagination.flops > world.flops
    assert parts.seeds(2).flops == 2 * parts.seeds(1).flops
    assert jax.tree.leaves(whole.call())
