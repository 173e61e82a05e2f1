"""Profiles: traces summed up, and which part of the algorithm an operation is of."""

import gzip
import json
import re

import jax
import jax.numpy as jnp
import pytest
from toy_run import PENALTY, configured, vector_env

from benchmarks.measure import trace
from benchmarks.measure.scopes import SCOPES, Origin, origins_of
from benchmarks.overhead import __main__ as overhead
from benchmarks.overhead import profile as overhead_profile
from train import loop
from train.program.chunk import Schedule, make_chunk
from train.program.penalty import choose_penalty

pytestmark = pytest.mark.long

MIDDLE = [
    ("fusion.1", 1, 0.0, 10.0),
    ("fusion.2", 1, 12.0, 8.0),
    ("copy", 2, 15.0, 10.0),
]


def write_trace(path, events, *, process="/device:GPU:0", thread="Stream #{}", **extra):
    rows = [{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": process}}]
    for tid in {tid for _, tid, *_ in events}:
        name = {"name": thread.format(tid)}
        rows.append(
            {"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": name}
        )
    for name, tid, start, length in events:
        row = {"ph": "X", "pid": 1, "tid": tid, "name": name, "ts": start}
        rows.append(row | {"dur": length, **extra})
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        json.dump({"traceEvents": [*rows, {}]}, file)


def test_a_trace_is_summed_up(tmp_path):
    path = tmp_path / "plugins" / "a.trace.json.gz"
    write_trace(path, MIDDLE)
    assert trace.newest(tmp_path) == path
    found = trace.summary(path, top=1)
    assert found["operations"] == 3
    assert found["span_seconds"] == pytest.approx(25e-6)
    assert found["busy_seconds"] == pytest.approx(23e-6)  # two streams overlap by 5
    (kind,) = found["kinds"]
    assert (kind["name"], kind["count"]) == ("fusion", 2)
    assert kind["seconds"] == pytest.approx(18e-6)
    assert found["other_seconds"] == pytest.approx(10e-6)
    with pytest.raises(FileNotFoundError, match=r"no \*\.trace"):
        trace.newest(tmp_path / "nowhere")


def test_of_a_gpu_only_the_streams_count_and_of_a_cpu_what_xla_ran(tmp_path):
    path = tmp_path / "b.trace.json.gz"
    write_trace(path, MIDDLE, thread="XLA Modules {}")
    assert trace.summary(path)["operations"] == 0
    write_trace(path, MIDDLE, process="/host:CPU")
    assert trace.summary(path)["operations"] == 0
    write_trace(path, MIDDLE, process="/host:CPU", args={"hlo_op": "x"})
    assert trace.summary(path)["operations"] == 3


def test_what_lies_inside_an_operation_is_not_counted_twice():
    events = [
        trace.Event("while", (1, 1), 0.0, 10.0),
        trace.Event("dot", (1, 1), 1.0, 4.0),
        trace.Event("add", (1, 1), 5.0, 2.0),
        trace.Event("dot", (1, 2), 1.0, 4.0),
    ]
    found = trace.own_seconds(events)
    assert sum(s for e, s in found if e.name == "while") == pytest.approx(4e-6)
    assert sum(s for e, s in found if e.name == "dot") == pytest.approx(8e-6)


def test_a_real_trace_has_operations(tmp_path):
    x = jnp.ones((300, 300))
    program = jax.jit(lambda x: jnp.sort(x @ x, axis=0)).lower(x).compile()
    jax.block_until_ready(program(x))
    with jax.profiler.trace(str(tmp_path)):
        jax.block_until_ready(program(x))
    found = trace.summary(trace.newest(tmp_path))
    assert found["operations"] > 0
    assert 0 < found["busy_seconds"] <= found["span_seconds"]


PROGRAM = """
ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %dot.3 = f32[8]{0} dot(%x, %x), metadata={op_name="jit(f)/jvp(imagine)/while/body/\
jvp(imagine)/heads/dot_general" stack_frame_id=3}
  %copy.1 = f32[8]{0} copy(%dot.3)
  %copy.2 = f32[8]{0} copy(%copy.1)
  %copy.3 = f32[8]{0} copy(%x)
  %add.1 = f32[8]{0} add(%copy.3, %x), metadata={op_name="jit(f)/optimizer/add"}
  ROOT %tanh = f32[8]{0} tanh(%x), metadata={op_name="jit(f)/my_heads/tanh"}
}
"""


def test_the_origin_of_operations_and_of_the_copies_between_them():
    found = origins_of(PROGRAM)
    assert found["dot.3"] == Origin("imagine/heads", "dot_general")
    assert found["copy.1"] == found["copy.2"] == Origin("imagine/heads", "")
    assert found["copy.3"] == Origin("optimizer", "")  # by what uses it
    assert found["tanh"] == Origin("", "tanh")  # a longer word is another name


def test_a_real_program_and_its_gradient(tmp_path):
    x = jnp.ones((200, 200))

    def loss(x):
        with jax.named_scope("imagine"):
            carry, _ = jax.lax.scan(lambda c, _: (jnp.sin(c @ x), None), x, length=3)
        with jax.named_scope("penalty"):
            return jnp.sum(jnp.cos(carry @ x))

    program = jax.jit(jax.grad(loss)).lower(x).compile()
    text = program.as_text() or ""
    found = trace.traced(lambda: program(x), text, tmp_path)
    seconds = {name: part["seconds"] for name, part in found["scopes"].items()}
    assert seconds["imagine"] > 0 and seconds["penalty"] > 0
    assert sum(kind["seconds"] for kind in found["kinds"]) + found[
        "other_seconds"
    ] == pytest.approx(sum(seconds.values()))
    products = [kind for kind in found["kinds"] if "dot_general" in kind["name"]]
    assert {kind["scope"] for kind in products} >= {"imagine", "penalty"}


def test_times_by_scope(tmp_path):
    path = tmp_path / "a.trace.json.gz"
    write_trace(path, [("dot.3", 1, 0.0, 10.0), ("tanh", 1, 12.0, 8.0)])
    found = trace.summary(path, origins=origins_of(PROGRAM))
    assert found["scopes"]["imagine/heads"]["seconds"] == pytest.approx(10e-6)
    assert found["scopes"]["no scope"]["seconds"] == pytest.approx(8e-6)
    names = [(kind["scope"], kind["name"]) for kind in found["kinds"]]
    assert names == [("imagine/heads", "dot (dot_general)"), ("", "tanh (tanh)")]


def test_the_overhead_by_scope(tmp_path):
    names = []

    def compiled(row):
        names.append(row and row.name)

        def step(x):
            # Not the same operation: the compilation cache ignores scopes, and would
            # give the second program the first one's.
            function = jnp.sin if row is None else jnp.cos
            with jax.named_scope("observe" if row is None else "penalty"):
                return function(x @ x)

        x = jnp.ones((100, 100))
        program = jax.jit(step).lower(x).compile()
        return lambda: program(x), program.as_text() or ""

    rows = overhead_profile.programs(quick=True)
    found = overhead_profile.measure(compiled, rows, tmp_path, say=print)
    assert names == [None, "xla posterior rho 1 exact"]
    times = overhead_profile.scopes(found)
    assert times["observe"][0] > 0 == times["observe"][1]
    assert times["penalty"][1] > 0 == times["penalty"][0]
    assert "observe" in overhead_profile.table(found)
    assert overhead_profile.record(found)["penalty_operations"]["kinds"]
    assert len(overhead_profile.draw(found).axes) == 1
    assert len(list(tmp_path.rglob("*.trace.json.gz"))) == len(rows)


def test_options_that_exclude_each_other(capsys):
    assert overhead.main(["--profile", "x", "--variance"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --profile: ")


def test_every_scope_is_one_of_the_trainer():
    config = configured("--env toy-target --penalty xla")
    vector = vector_env(config)
    options = choose_penalty(config, "cpu").options
    dtype = jnp.dtype("float32")
    chunk = make_chunk(config, vector, Schedule.of(config), options, dtype)
    run = loop.Programs(config, vector, PENALTY).template
    text = jax.jit(chunk).lower(run).as_text(debug_info=True)
    assert not [name for name in SCOPES if not re.search(rf"\b{name}[)/]", text)]
