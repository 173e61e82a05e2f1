"""Counting what a GPU would do: on a small dumped program, and on the real ones."""

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.compile import command, count, estimate, target
from benchmarks.gpu.compile.hlo import Cost, Hlo
from benchmarks.gpu.compile.thunks import Loop, Step, read_steps
from kernels.pallas.kernel import KERNEL_NAME
from train.errors import UserError

FIXTURE = Path(__file__).parents[2] / "fixtures" / "gpu-compile"
RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "gpu-compile"
PTXAS = """ptxas info    : Compiling entry function 'one' for 'sm_90a'
ptxas info    : Function properties for one
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers, 400 bytes cmem[0]
ptxas info    : Compiling entry function 'two' for 'sm_90a'
ptxas info    : Function properties for two
    8 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 3 barriers
"""


@pytest.fixture(scope="module")
def text():
    return (FIXTURE / "program.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def steps(text):
    return read_steps(FIXTURE, Hlo(text))


def test_a_loop_is_counted_as_often_as_it_runs(steps):
    """h = tanh(h W + x) five times, then a sum and a float32 product."""
    (loop,) = {step.loops for step in steps if step.loops}
    assert [each.trips for each in loop] == [5]
    inside = [step for step in steps if step.loops and step.is_launch]
    assert [step.kind for step in inside] == [
        "kCopy",
        "kCustomKernel",
        "kCopy",
        "kCopy",
        "kCustomKernel",
    ]
    assert all(step.times == 5 and step.in_graph for step in inside)
    # The loop's condition is never computed: XLA knows the number of turns.
    assert not [step for step in steps if step.name.startswith("loop_compare")]


def test_the_counts_of_a_program(text, steps):
    found = count.counted(text, steps, Hlo(text), "h200")
    assert found["launches"] == 5 + 5 * 5
    assert found["in_graphs"] == 25 and found["graph_launches"] == 5
    assert found["from_host"] == 5 + 5
    assert found["flops"] == 5 * 2 * 16 * 64 * 64 + 2 * 64 * 64 * 8
    assert found["products"] == 6 and found["float32_products"] == 1
    assert found["launches_by_scope"]["optimizer"] == 2
    assert sum(found["launches_by_scope"].values()) == found["launches"]
    assert sum(found["launches_by_loop"].values()) == found["launches"]
    assert found["largest_products"][0]["times"] == 5
    json.dumps(found, allow_nan=False)


def test_bytes_are_those_of_slices_where_only_slices_are_moved(text, steps):
    hlo = Hlo(text)
    # 16 × 64 numbers of two bytes are read from, or written into, an array of five
    # times as many, by an index of four bytes.
    names = [name for home in hlo.computations.values() for name in home]
    slices = [step for step in steps if step.name.startswith("fusion-start")]
    copies = [step for step in slices if step.is_launch]
    assert len(copies) == 2
    for step in copies:
        assert hlo.cost(step.name).bytes == 2 * 2 * 16 * 64 + 4
    # The last product reads 64 × 64 numbers of two bytes, and writes 64 × 8 of four.
    (product,) = (x for x in names if x.startswith("gemm_fusion_dot_general.3"))
    assert hlo.cost(product).bytes >= 2 * 64 * 64 + 4 * 64 * 8
    assert hlo.cost("no such operation") == Cost(0)


def test_the_model_adds_up_loops_and_takes_the_slower_side_of_each():
    loop = (Loop("while", 10),)
    graph = Step("kCommandBuffer", "", 10, False, loop)
    kernel = Step("kCustomKernel", "a", 20, True, loop)
    # On the device 20 × (1.5 + 1) µs, which the host's 10 × 7 µs exceed.
    assert estimate.seconds(
        [(graph, Cost(0)), (kernel, Cost(0))], "h200"
    ) == pytest.approx(70e-6)
    large = Step("kCustomKernel", "b", 1, False, ())
    one_ms = Cost(int(4.8e9))
    assert estimate.seconds([(large, one_ms)], "h200") == pytest.approx(1e-3 + 1e-6)


def test_spills_are_read_from_ptxas():
    found = count.spills([PTXAS])
    assert found["kernels_compiled"] == 2
    assert found["spill_bytes"] == 12 and found["spilling"] == {"two": 12}
    assert found["registers"] == 255
    assert count.spills([])["spill_bytes"] is None


def test_without_the_compiler_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(target, "PLUGIN", "jax_plugins.no_such_plugin")
    with pytest.raises(SystemExit) as raised:
        gpu.main(["--stage", "compile"])
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "uv sync --extra cuda13" in error


def test_a_program_that_is_not_known_is_refused(monkeypatch):
    with pytest.raises(UserError, match="--only update-12m: allowed: kernel"):
        list(command.measured(["update-12m"], ["h200"]))


def committed(program):
    """The committed counts of a program, the later ones where there are two."""
    rows = [
        row
        for name in ("after", "before")
        for row in command.read_rows(RESULTS / f"{name}.json")
        if row["program"] == program
    ]
    return rows[0]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins.xla_cuda13") is None
    if importlib.util.find_spec("jax_plugins")
    else True,
    reason="needs the extra cuda13: uv sync --extra cuda13",
)
@pytest.mark.parametrize("name", ["kernel", "update-xla-1m", "update-xla-12m"])
def test_what_is_compiled_for_a_gpu_stays_as_it_was(name, tmp_path):
    """No more launches or temporaries than were committed, and 3 %.

    The fused kernel spills 8 bytes at most, XLA's own no more than was committed.
    """
    path = tmp_path / "found.json"
    assert gpu.main(["--stage", "compile", "--only", name, "--json", str(path)]) == 0
    for row in command.read_rows(path):
        before = committed(row["program"])
        assert row["kernels_compiled"] > 0
        fused = [x for name, x in row["spilling"].items() if KERNEL_NAME in name]
        assert all(spilled <= 8 for spilled in fused)
        assert row["spill_bytes"] <= max(8, before["spill_bytes"])
        assert row["launches"] <= 1.03 * before["launches"]
        assert row["temp_bytes"] <= 1.03 * before["temp_bytes"]
