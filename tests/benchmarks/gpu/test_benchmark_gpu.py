"""The GPU benchmark, as far as a machine without a GPU can tell."""

import json
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import kernel as gpu_kernel
from benchmarks.gpu import resume as gpu_resume
from benchmarks.gpu.kernel_checks import (
    Check,
    check_op,
    check_rows,
    check_vmap,
    compare,
    plain_rows,
    rows_inputs,
    suite,
)
from benchmarks.measure.device_time import Peak, chain, floor, peak_of
from benchmarks.overhead.op.cases import SHAPES, HeadShape, Probes
from kernels.pallas import kernel as pallas_gpu
from kernels.pallas import tiling

pytestmark = pytest.mark.long
TINY = HeadShape(d=16, h=64, k=2, c=4)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(capsys):
    with pytest.raises(SystemExit) as raised:
        gpu.main(["--stage", "kernel"])
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: benchmarks.gpu needs an NVIDIA GPU")
    assert error.count("\n") == 1


def test_the_floor_is_the_slower_of_arithmetic_and_memory():
    peak = Peak(flops=100.0, bytes=10.0, source="made up")
    found = floor(200, 50, peak, 10.0)
    assert found["flop_floor_seconds"] == 2.0
    assert found["byte_floor_seconds"] == 5.0
    assert found["fraction_of_flop_floor"] == 0.2
    assert found["fraction"] == found["fraction_of_byte_floor"] == 0.5


@pytest.mark.parametrize(
    ("kind", "bandwidth"),
    [("NVIDIA H100 80GB HBM3", 3.35e12), ("NVIDIA H200", 4.8e12)],
)
def test_peaks_are_found_by_the_device_name(kind, bandwidth):
    peak = peak_of(kind)
    assert peak is not None
    assert (peak.flops, peak.bytes) == (989e12, bandwidth)
    assert peak_of("cpu") is None


def test_all_parts_together_take_less_than_nine_minutes():
    assert sum(part.seconds for part in gpu_kernel.PARTS.values()) <= 520


@pytest.mark.parametrize("with_gradients", [False, True])
def test_chained_calls_give_the_last_result(with_gradients):
    """Every call sees the same numbers, and its own key."""
    x = jnp.arange(1.0, 4.0)

    def fn(x, key):
        return jnp.sum(x**2), 2 * x, jax.random.uniform(key)

    run = chain(
        fn,
        x,
        calls=3,
        gradients=(lambda results: results[1]) if with_gradients else None,
    )
    value, gradient, drawn = run()
    assert value == 14.0
    assert gradient.tolist() == [2.0, 4.0, 6.0]
    assert drawn == jax.random.uniform(jax.random.split(jax.random.key(7), 3)[2])


def test_chain_refuses_results_that_are_not_finite():
    with pytest.raises(ValueError, match="not finite"):
        chain(lambda x, _: x / 0.0, jnp.ones(2), calls=1)


def test_an_op_is_timed_where_it_runs():
    entry = gpu_kernel.time_op(TINY, 4, 0, gradient=True, calls=2)
    assert set(entry["implementations"]) == {"reference", "xla", "loop alone"}
    assert "xla" in entry["not_measured"]["pallas"]
    assert entry["implementations"]["xla"]["seconds"]["median"] > 0
    assert "speedup_over_reference" in entry["implementations"]["xla"]
    json.dumps(entry, allow_nan=False)


def test_one_failure_does_not_stop_the_rest():
    def fail():
        raise RuntimeError("no such instruction")

    work = {"first": fail, "second": lambda: {"passed": True}}
    found = dict(gpu_kernel.items(work, lambda: 60.0, 15.0))
    assert found["first"]["error"] == "RuntimeError: no such instruction"
    assert found["second"] == {"passed": True}
    (late,) = dict(gpu_kernel.items({"late": fail}, lambda: 3.0, 15.0)).values()
    assert late["error"] == "not begun: 3 s were left"


def test_a_part_that_hangs_is_killed_and_keeps_what_it_found(tmp_path):
    entries = tmp_path / "part.jsonl"
    script = (
        f"import time; f = open({str(entries)!r}, 'w'); "
        """f.write('["a", {"passed": true}]\\n["b", {"pas'); f.flush(); """
        "time.sleep(60)"
    )
    log = tmp_path / "log"
    assert gpu.own_process([sys.executable, "-c", script], 3, log) == "killed after 3 s"
    assert gpu.read_entries(entries) == {"a": {"passed": True}}
    ended = gpu.own_process([sys.executable, "-c", "1 / 0"], 20, log)
    assert ended.startswith("exit status 1: ")
    assert "ZeroDivisionError" in ended
    assert gpu.own_process([sys.executable, "-c", ""], 20, log) == "complete"


def test_what_a_killed_part_started_is_killed_too(tmp_path):
    mark = tmp_path / "mark"
    grandchild = f"import time; time.sleep(3); open({str(mark)!r}, 'w')"
    run = f"subprocess.run([sys.executable, '-c', {grandchild!r}])"
    command = [sys.executable, "-c", f"import subprocess, sys; {run}"]
    assert gpu.own_process(command, 2, tmp_path / "log") == "killed after 2 s"
    time.sleep(2)
    assert not mark.exists()


def test_a_part_writes_every_entry(tmp_path):
    part = gpu_kernel.Part(lambda left: iter([("now", {"left": left() > 0})]), 60)
    gpu.run_part(part, tmp_path, tmp_path / "x.jsonl")
    assert gpu.read_entries(tmp_path / "x.jsonl") == {"now": {"left": True}}
    assert gpu.read_entries(tmp_path / "never.jsonl") == {}


def test_a_stage_gathers_its_parts(tmp_path, monkeypatch):
    def broken(left):
        yield "first", {"passed": True, "arrays": []}
        raise RuntimeError("device lost")

    def run_here(command, seconds, log, environment):
        name, out = command[command.index("--part") + 1], Path(command[-1])
        log.write_text(f"log of {name}")
        try:
            gpu.run_part(stage[name], out, log.with_suffix(".jsonl"))
        except RuntimeError as error:
            return f"exit status 1: {error}"
        return "complete"

    stage = {
        "checks": gpu_kernel.Part(broken, 60),
        "times": gpu_kernel.Part(lambda left: iter([("op", {"error": "none"})]), 60),
    }
    monkeypatch.setattr(gpu, "parts_of", {"kernel": stage}.__getitem__)
    monkeypatch.setattr(gpu, "own_process", run_here)
    assert gpu.run_stage("kernel", tmp_path / "out", "NVIDIA H200") == 1
    result = json.loads((tmp_path / "out" / "gpu_kernel.json").read_text())
    assert result["peak"]["bytes"] == 4.8e12
    parts = result["parts"]
    assert parts["checks"]["ended"] == "exit status 1: device lost"
    assert parts["checks"]["entries"] == {"first": {"passed": True, "arrays": []}}
    assert parts["times"]["entries"] == {"op": {"error": "none"}}
    # What comes back is few files.
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["gpu_kernel.json", "gpu_kernel.log"]
    assert "log of times" in (tmp_path / "out" / "gpu_kernel.log").read_text()


def test_a_stage_goes_on_from_an_earlier_result(tmp_path, monkeypatch, capsys):
    """What was whole is kept as it was, the rest is measured."""
    ran = []

    def run_here(command, seconds, log, environment):
        name = command[command.index("--part") + 1]
        ran.append(name)
        log.write_text("")
        lines = [["first", {"error": "late"} if fails and name == "b" else {"n": 1}]]
        log.with_suffix(".jsonl").write_text(json.dumps(lines[0]) + "\n")
        return "complete"

    nothing = gpu_kernel.Part(lambda left: iter([]), 60, lambda left: iter([]))
    stages = {"throughput": {"a": nothing, "b": nothing}, "env": {"a": nothing}}
    monkeypatch.setattr(gpu, "parts_of", stages.__getitem__)
    monkeypatch.setattr(gpu, "own_process", run_here)
    words = ["--stage", "throughput", "--quick", "--out"]
    fails = True
    assert gpu.main([*words, str(tmp_path / "one")]) == 1
    fails, earlier = False, tmp_path / "one/gpu_throughput.json"
    again = [*words, str(tmp_path / "two"), "--resume", str(earlier)]
    assert gpu.main(again) == 0
    assert ran == ["a", "b", "b"]
    before, after = (
        json.loads((tmp_path / name / "gpu_throughput.json").read_text())["parts"]
        for name in ("one", "two")
    )
    assert after["a"] == before["a"] and after["b"]["entries"] == {"first": {"n": 1}}

    text = earlier.read_text()
    for words, old, new, said in [
        (again, '"commit": ', '"commit": "0" and ', "no result of a stage"),
        (again, '"stage": "throughput"', '"stage": "env"', "the stage was env, now"),
        (
            again,
            '"a quick check, not a measurement"',
            '"a measurement"',
            "the result was a m",
        ),
        (again, '"devices": [', '"devices": ["NVIDIA H200", ', "the device was NVIDIA"),
        (["--stage", "learn", *again[2:]], "", "", "stage learn goes on by itself"),
    ]:
        earlier.write_text(text.replace(old, new, 1))
        capsys.readouterr()
        with pytest.raises(SystemExit):
            stages["learn"] = stages["env"]
            gpu.main(words)
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1

    # Without git, and with nobody to name the commit.
    unknown = json.loads(text)["provenance"] | {"commit": None}
    earlier.write_text(json.dumps(json.loads(text) | {"provenance": unknown}))
    monkeypatch.setattr(gpu_resume, "provenance", lambda: unknown)
    with pytest.raises(SystemExit):
        gpu.main(again)
    assert "the commit was None" in capsys.readouterr().err


def test_the_kernel_is_left_alone_after_checks_that_hung(monkeypatch, tmp_path):
    """The other forms of the op are measured all the same."""
    seen = []

    def ended(command, seconds, log, environment=None):
        seen.append((environment or {}).get(gpu.KERNEL_OFF))
        log.write_text("")
        return "killed after 60 s" if "checks" in command else "complete"

    nothing = gpu_kernel.Part(lambda left: iter([]), 60)
    stage = {"ceilings": nothing, "checks": nothing, "times": nothing}
    monkeypatch.setattr(gpu, "parts_of", {"kernel": stage}.__getitem__)
    monkeypatch.setattr(gpu, "own_process", ended)
    assert gpu.run_stage("kernel", tmp_path / "out", "NVIDIA H200") == 1
    assert seen == [None, None, "killed after 60 s"]
    monkeypatch.setenv(gpu.KERNEL_OFF, "killed after 60 s")
    shape = HeadShape(k=2, c=4, h=128, d=8)
    entry = gpu_kernel.time_op(shape, 64, 0, gradient=False, calls=2)
    assert entry["not_measured"]["pallas"].startswith("not begun: the kernel's checks")
    assert entry["implementations"]["xla"]["seconds"]["median"] > 0


def test_tuning_names_the_best_and_what_failed(monkeypatch):
    """With a stand-in for the kernel, which a CPU cannot run."""

    def stand_in(*inputs, dtype, tiling):
        if tiling.rows == 2:
            raise RuntimeError("out of registers")
        y, gx, xv = plain_rows(*(x.astype(jnp.float32) for x in inputs))
        return y.astype(dtype), gx.astype(dtype), xv

    monkeypatch.setattr(pallas_gpu, "row_arrays", stand_in)
    monkeypatch.setattr(tiling, "TARGET_BLOCKS", 16)
    monkeypatch.setitem(SHAPES, "12m", TINY)
    work = gpu_kernel.tune(lambda: 100.0)
    name, entry = next(work)
    assert name == "12m, N=512, bfloat16"
    assert entry["default"] == entry["best"] == "columns 64, rows 1"
    assert entry["failed"] == {"columns 64, rows 2": "RuntimeError: out of registers"}
    assert set(entry["programs"]) == {"xla", "columns 64, rows 1", "loop alone"}
    # Of 20 seconds for all heads, the first may not take more than its own default.
    _, entry = next(gpu_kernel.tune(lambda: 20.0))
    assert entry["best"] == "columns 64, rows 1"
    assert entry["failed"] == {"columns 64, rows 2": "not begun: no time was left"}


def test_the_verdict_and_the_summary():
    good = {"passed": True, "arrays": []}
    bad = {"passed": False, "arrays": [{"name": "y", "error": 0.3, "passed": False}]}
    error = {"error": "RuntimeError: launch failed\nmore"}

    def part(*entries, ended="complete"):
        return {"ended": ended, "entries": {str(i): e for i, e in enumerate(entries)}}

    assert gpu_resume.all_passed(part(good, good))
    for other in (part(), part(good, bad), part(good, error), None):
        assert not gpu_resume.all_passed(other)
    assert not gpu_resume.all_passed(part(good, ended="killed after 160 s"))
    text = gpu.summary({"checks": part(good, bad, error)})
    assert "checks: 0: passed" in text
    assert "checks: 1: FAILED {'name': 'y'" in text
    assert text.endswith("RuntimeError: launch failed")
    timed = {"implementations": {"xla": {"seconds": {"median": 2e-6}}}}
    assert "xla" in gpu.summary({"times": part(timed)})
    assert "2.0 µs" in gpu.summary({"times": part(timed)})


def test_tilings_fit_and_begin_with_the_default():
    for shape, n in ((SHAPES["12m"], 512), (SHAPES["1m"], 1024), (TINY, 70)):
        found = gpu_kernel.tilings(shape, n)
        assert found[0] == tiling.default_tiling(shape.k, n, shape.h)
        assert len(set(found)) == len(found)
        for columns, rows in found:
            assert shape.h % columns == 0
            assert shape.k % rows == 0


def test_tiling_errors_name_the_argument():
    inputs = rows_inputs(jax.random.key(0), TINY, 8)
    for cut in (tiling.Tiling(128, 1), tiling.Tiling(64, 3)):
        with pytest.raises(ValueError, match="tiling=Tiling"):
            jax.eval_shape(partial(pallas_gpu.row_arrays, tiling=cut), *inputs)


def test_every_tiling_lowers_for_cuda(monkeypatch):
    """Two warpgroups in place of one, and all rows in one block."""
    shape = HeadShape(d=0, h=128, k=4, c=16)
    sizes = [(4, 64, 16), (4, 64), (4, 16, 128), (64, 128), (64, 128), (128, 128)]
    inputs = [jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes]
    monkeypatch.setattr(tiling, "TARGET_BLOCKS", 1)
    found = gpu_kernel.tilings(shape, 64)
    for cut in (tiling.Tiling(64, 1), tiling.Tiling(128, 4)):
        assert cut in found
        fn = jax.jit(lambda *x, t=cut: pallas_gpu.row_arrays(*x, tiling=t))
        text = fn.trace(*inputs).lower(lowering_platforms=("cuda",)).as_text()
        assert pallas_gpu.KERNEL_NAME in text


def test_comparison():
    x = jnp.array([3.0, 4.0])
    assert compare("x", x * 1.1, x, 0.2).error == pytest.approx(0.1)
    assert Check("x", 0.1, 0.2).passed
    assert not compare("x", x * 1.1, x, 0.05).passed
    assert compare("x", 0 * x, 0 * x, 0.0).passed
    for broken in (x.at[0].set(jnp.nan), x.at[0].set(jnp.inf)):
        assert not compare("x", broken, x, 1.0).passed
    assert not compare("x", x, 0 * x, 1.0).passed
    with pytest.raises(ValueError, match="x: shape"):
        compare("x", x[:1], x, 1.0)


def test_the_suite_has_every_width_and_ragged_states():
    names = " ".join(suite())
    for part in (
        *(f"kernel, bfloat16, H={h}," for h in (64, 128, 192, 256)),
        *(f"kernel, float32, H={h}," for h in (64, 128)),
        *("N=70", "12m", "1m", "vmap", "states", "op, mean, float32"),
    ):
        assert part in names


def test_the_suite_asks_for_no_size_that_the_kernel_refuses():
    for run in suite().values():
        shape = run.args[0]
        dtype = run.keywords.get("dtype", jnp.bfloat16)
        tiling.check_sizes(shape.h, shape.c, dtype)


def failures(checks):
    return [check for check in checks if not check.passed]


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, pytest.param(jnp.float32, marks=pytest.mark.slow)]
)
def test_kernel_check_in_the_interpreter(dtype):
    checks = check_rows(TINY, 70, dtype=dtype, interpret=True, repeats=1)
    assert len(checks) == 6
    assert not failures(checks)


@pytest.mark.slow
def test_op_checks_in_the_interpreter():
    probes = Probes("rademacher", 1)
    for dtype in (jnp.bfloat16, jnp.float32):
        assert not failures(
            check_op(TINY, 70, probes, mean=True, dtype=dtype, interpret=True)
        )
    assert not failures(check_op(TINY, 20, probes, mean=False, interpret=True))
    assert not failures(check_vmap(TINY, 20, interpret=True))


def test_kernel_check_finds_a_wrong_kernel(monkeypatch):
    def wrong(delta, k, w, gate, a, gram, **options):
        y = jnp.einsum("knc,kch->knh", delta, w) * gate[None]  # no projection
        return y, y, y[0]

    monkeypatch.setattr(pallas_gpu, "row_arrays", wrong)
    found = failures(check_rows(TINY, 8, repeats=1))
    assert [check.name for check in found] == ["y", "D⊙x", "Σ x⊙v"]
