"""The GPU stages that train: their parts, and whole rehearsals on this device."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import all as gpu_all
from benchmarks.gpu import determinism as gpu_determinism
from benchmarks.gpu import learn as gpu_learn
from benchmarks.gpu import parts as gpu_parts
from benchmarks.gpu import throughput as gpu_throughput
from benchmarks.gpu.parts import Part, differing
from benchmarks.gpu.summary import summary
from train.errors import UserError


def test_differing_bits_are_found_by_path():
    key = jax.random.key(0)
    one = {"w": jnp.array([1.0, 0.0]), "key": key}
    assert differing(one, jax.tree.map(lambda x: x, one)) == []
    # Equal as numbers, not as bits.
    assert differing(one, one | {"w": jnp.array([1.0, -0.0])}) == ["['w']"]
    assert differing(one, one | {"key": jax.random.key(1)}) == ["['key']"]
    found = gpu_determinism.compare(one, one | {"w": jnp.array([1.0, 1e-3])})
    assert not found["bitwise"] and found["leaves_that_differ"] == 1
    assert found["largest_difference_to_largest_entry"] == pytest.approx(1e-3)


def child(code, tmp_path, **limits):
    return gpu_learn.stopped_in_time(
        [sys.executable, "-u", "-c", code], tmp_path / "log", **limits
    )


SLEEP = "import time; print('begun'); time.sleep(60)"
DEAF = f"import signal; signal.signal(15, signal.SIG_IGN); {SLEEP}"


def test_a_run_is_asked_to_stop_and_killed_if_it_does_not(tmp_path):
    log = tmp_path / "log"
    begun = lambda: log.exists() and "begun" in log.read_text()
    code, said = child(SLEEP, tmp_path, until_stop=60, until_kill=60, stop_when=begun)
    assert (code, said) == (-15, "begun\n")
    code, _ = child(DEAF, tmp_path, until_stop=60, until_kill=1, stop_when=begun)
    assert code == -9
    code, _ = child(SLEEP, tmp_path, until_stop=0, until_kill=30)
    assert code == -15
    flags = "import os; print(os.environ['XLA_FLAGS'])"
    code, said = child(flags, tmp_path, until_stop=30, until_kill=40, flags="--xla_a=1")
    assert code == 0 and said.endswith("--xla_a=1\n")


def test_a_run_that_fails_is_an_error_with_its_last_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_learn, "home", lambda name: tmp_path / name)
    run = gpu_learn.train("gpld", lambda: 100.0, words="--size nonsense")
    ((name, entry),) = run
    assert name == "gpld"
    assert "exit status 2" in entry["error"] and "--size" in entry["error"]


def test_speed_is_that_since_the_call_began(tmp_path):
    rows = [(100, 1.0), (200, 50.0), (300, 70.0)]
    lines = [
        {"step": step, "time/steps_per_second": rate, "time/updates_per_second": rate}
        for step, rate in rows
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "timing.jsonl").write_text(text + '{"step": 9')
    assert gpu_learn.last_step(tmp_path) == 300
    assert gpu_learn.speed(tmp_path, 100)["steps_per_second"] == 60.0
    assert gpu_learn.speed(tmp_path, 300) == {}
    assert gpu_learn.last_step(tmp_path / "none") == 0


def test_flags_of_xla_are_known_to_it():
    """Those of a GPU are read, and left unused, on a CPU too."""
    lowered = jax.jit(lambda x: x + 1).lower(jnp.ones(2))
    sets = gpu_throughput.COMMAND_BUFFERS | gpu_throughput.SCHEDULING
    for flags in [*sets.values(), *gpu_determinism.FLAGS.values()]:
        assert lowered.compile(compiler_options=dict(flags)) is not None
    with pytest.raises(Exception, match="No such compile option"):
        lowered.compile(compiler_options={"xla_gpu_no_such_flag": True})


def test_training_flags_are_those_of_the_trainer():
    from train.config.cli import parse

    for arm in gpu_learn.ARMS.values():
        for words in (gpu_learn.FLAGS, gpu_learn.TINY):
            parse([*words.split(), *arm.split()], "gpu")
    config = parse(gpu_learn.FLAGS.split(), "gpu")
    assert config.size == "12m" and config.replay_size >= config.decisions
    for words in (gpu_determinism.TRAIN, gpu_determinism.TINY):
        config = parse(words.split(), "gpu")
        # A stop after the first checkpoint is in the middle of the run.
        assert 2 * config.save_every < config.steps


def test_one_call_knows_the_trainer():
    from train.config.cli import parse

    parts = gpu.chosen_parts("all", quick=False)
    order = ["checks", "op", "ahead-op", "ahead-12m", "ahead-train", "train"]
    assert list(parts)[: len(order)] == order
    config = parse(gpu_all.TRAIN.split(), "gpu")
    assert (config.size, config.penalty.implementation) == ("12m", "pallas")
    parse(gpu_all.TINY_TRAIN.split(), "cpu")


def test_parts_are_chosen_by_name_and_end_in_time(tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="--only no-such: stage all has checks, op"):
        gpu.chosen_parts("all", quick=False, only=["op", "no-such"])
    chosen = gpu.chosen_parts("all", quick=False, only=["op", "checks"])
    assert list(chosen) == ["op", "checks"]
    # What a part leaves, the next may take; what has no time left is named.
    given = {}

    def run_here(command, seconds, log, environment):
        given[command[command.index("--part") + 1]] = seconds
        log.write_text("")
        return "complete"

    idle = lambda clock: iter(())
    stage = {"one": Part(idle, 40), "two": Part(idle, 50), "three": Part(idle, 60)}
    monkeypatch.setattr(gpu, "parts_of", {"all": stage}.__getitem__)
    monkeypatch.setattr(gpu, "own_process", run_here)
    gpu.run_stage("all", tmp_path, "NVIDIA H200", minutes=1)
    assert given == {"one": 40, "two": 59, "three": 59}
    monkeypatch.setattr(gpu, "START_SECONDS", 45.0)
    gpu.run_stage("all", tmp_path, "NVIDIA H200", minutes=1)
    parts = json.loads((tmp_path / "gpu_all.json").read_text())["parts"]
    assert [part["ended"] for part in parts.values()] == ["not begun"] * 3


def test_measured_launches_stand_beside_those_that_were_counted():
    counted = gpu_all.counted("update-xla-12m")
    assert counted is not None and counted["device"] == "h200"
    assert counted["launches"] > 1000 and counted["model_ms"] > 1
    assert gpu_all.counted("no such program") is None


def test_a_stage_without_a_rehearsal_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as raised:
        gpu.main(["--stage", "kernel", "--quick"])
    assert raised.value.code == 2
    assert "--quick: stage kernel has no rehearsal" in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"
    for stage in ("overhead", "env", "throughput", "learn", "determinism"):
        assert gpu.chosen_parts(stage, quick=True)


def test_the_summary_has_every_stage_s_figures():
    bits = {"bitwise": False}
    entries = {
        "step": {"overhead": {"median": 1.02}, "over_targets": {"target": 1.5}},
        "trace": {"updates": 2, "trace": {"operations": 8, "busy_share": 0.25}},
        "flags": {"ratio": {"median": 0.9}},
        "seeds": {"over_one_run": {"median": 2.5}},
        "heads": {"over_heads_at_once": {"median": 1.25}},
        "learn": {"from_step": 0, "step": 2000, "updates_per_second": 90.0}
        | {"steps_per_second": 360.0},
        "again": {"same_program_again": {"bitwise": True}, "compiled_again": bits},
        "error": {"error": "RuntimeError: no\nmore"},
    }
    text = summary({"x": {"ended": "complete", "entries": entries}})
    for words in (
        "penalty 1.020×, 1.50× target",
        "device busy 25%, 4 operations an update",
        "0.900× as usual",
        "2.50× one run",
        "1.25× heads at once",
        "step 0 to 2,000, 90.0 updates/s of each agent, 360 environment steps/s",
        "same program again: the same bits, compiled again: OTHER BITS",
        "x: error: RuntimeError: no\n",
    ):
        assert words in text + "\n", words


def rehearse(stage, out):
    status = gpu.main(["--stage", stage, "--quick", "--out", str(out)])
    result = json.loads((out / f"gpu_{stage}.json").read_text())
    assert status == 0, result
    assert result["what"] == "a quick check, not a measurement"
    assert len(list(out.iterdir())) <= 8  # what a lent machine gives back
    return {name: part["entries"] for name, part in result["parts"].items()}


@pytest.mark.slow
def test_throughput_is_rehearsed(tmp_path):
    parts = rehearse("throughput", tmp_path)
    step = parts["step"]
    assert step["update"]["overhead"]["median"] > 0
    assert not step["update"]["over_targets"]  # those are for 12m in bfloat16
    assert step["trace"]["trace"]["operations"] > 100
    assert (tmp_path / "gpu_throughput.trace.json.gz").stat().st_size > 1000
    assert set(step["phases"]["programs"]) > {"gradient", "imagination"}
    assert step["heads in each step"]["over_heads_at_once"]["median"] > 0
    (flags,) = parts["command buffers"].values()
    assert flags["same_bits"]  # a CPU leaves these flags unused
    assert parts["seeds"]["2 agents"]["over_one_run"]["median"] > 0


@pytest.mark.slow
def test_learning_goes_on_where_it_was(tmp_path, monkeypatch):
    """The second call finds the first one's run."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    out = tmp_path / "out"
    first = rehearse("learn", out)
    assert first["gpld"]["gpld"]["from_step"] == 0
    assert first["gpld"]["gpld"]["finished"]
    assert first["curves"]["picture"]["curves"] == 4
    assert (out / "gpu_learn.png").stat().st_size > 1000
    second = rehearse("learn", out)
    for arm in gpu_learn.ARMS:
        assert second[arm][arm]["from_step"] == first[arm][arm]["step"] > 0
    assert second["curves"] == first["curves"]


@pytest.mark.slow
def test_determinism_is_rehearsed(tmp_path):
    parts = rehearse("determinism", tmp_path)
    for entry in parts["updates"].values():
        assert entry["same_program_again"]["bitwise"]
    trained = parts["training"]
    assert len(trained) == 6
    assert trained["as usual: stopped and resumed"]["exits"] == [143, 0]
    for name, entry in trained.items():
        if not name.endswith("first run"):
            assert entry["same_log"] and entry["last_checkpoint"]["bitwise"], name
            assert entry["last_checkpoint"]["leaves"] > 50


def test_a_difference_in_a_log_is_placed():
    assert gpu_determinism._common_lines(b"a\nb\nc\n", b"a\nb\nd\n") == 2


def test_an_error_does_not_say_where_the_project_lies():
    def fail():
        raise RuntimeError(f"cannot read {Path(gpu_parts.__file__)}")

    found = gpu_parts.attempt(fail)
    assert found["error"].endswith("cannot read benchmarks/gpu/parts.py")
    assert str(Path(gpu_parts.__file__).parents[2]) not in json.dumps(found)
