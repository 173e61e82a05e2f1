"""The environments' benchmarks, on as little as will do."""

import json
import re

import numpy as np
import pytest

import envs
from benchmarks.environments import parity, throughput
from benchmarks.environments.render import __main__ as render
from benchmarks.environments.render.scenes import Comparison
from benchmarks.environments.throughput import Row
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import env as gpu_env
from benchmarks.gpu import resume as gpu_resume
from benchmarks.measure import rollouts as env_cases
from benchmarks.measure.timing import Spread

pytestmark = pytest.mark.long


def row(task, program, batch, threads, speed):
    return Row(
        task=task,
        program=program,
        batch=batch,
        threads=threads,
        steps_per_second=Spread(speed, 0.9 * speed, 1.1 * speed),
        physics_per_control=10,
        compile_seconds=None if batch is None else 3.0,
        temporary_bytes=None if batch is None else 4000 * batch,
        state_bytes=None if batch is None else 100 * batch,
        corrupt_share=None if batch is None else 0.0,
    )


ROWS = [
    row("walker-walk", "MJX, 16", 16, None, 3000.0),
    row("walker-walk", "MuJoCo C, 1 thread", None, 1, 9000.0),
]


@pytest.fixture(scope="module")
def measured():
    return throughput.measure(
        "pendulum-swingup", [2], rounds=2, seconds=0.01, say=lambda _: None
    )


@pytest.mark.slow
def test_every_program_is_measured(measured):
    threads = sorted({1, throughput.cores()})
    assert [row.batch for row in measured] == [2] + [None] * len(threads)
    assert [row.threads for row in measured[1:]] == threads
    for found in measured:
        assert 0 < found.steps_per_second.low <= found.steps_per_second.high
        assert found.physics_per_control == 1
    assert measured[0].corrupt_share == 0
    assert measured[0].compile_seconds > 0 and measured[0].temporary_bytes > 0
    # Two pendulums: qpos, qvel, ctrl, warm start, four parameters, key, two counters
    # and a flag.
    assert measured[0].state_bytes == 2 * (4 * (4 + 4 + 2 + 2) + 1)
    json.dumps(throughput.record(measured), allow_nan=False)


def test_control_steps_are_those_of_all_environments():
    env = env_cases.make("pendulum-swingup")
    steps = env_cases.DECISIONS * env_cases.ACTION_REPEAT
    host = env_cases.mujoco_rollout(env, threads=1, seconds=0.0)
    assert host.control_steps == 4 * env_cases.HOST_STEPS
    device = env_cases.mjx_rollout(env, 2, seconds=0.0)
    assert device.control_steps == 2 * steps


def test_table_and_picture():
    text = throughput.table(ROWS)
    assert "walker-walk (10 physics steps per control step)" in text
    assert "3,000" in text and "2,700-3,300" in text and "4.0" in text
    figure = throughput.draw(ROWS, "title")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["walker-walk"]
    assert axes.get_xscale() == "log"


def test_one_task_of_each_domain_is_timed_by_default():
    found = throughput.one_of_each_domain()
    assert set(found) < set(envs.TASKS)
    domains = [name.split("-")[0] for name in found]
    assert domains == list(dict.fromkeys(name.split("-")[0] for name in envs.TASKS))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "wlaker-walk"], "--tasks wlaker-walk: .*'walker-walk'"),
        (["--tasks", "toy-target"], "--tasks toy-target: allowed: "),
    ],
)
def test_wrong_tasks_are_answered_in_one_line(words, message, capsys):
    assert throughput.main(["--quick", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "1,x"], "--batch: 1,x: allowed: counts"),
        (["--batch", "0"], "--batch: 0: allowed: counts"),
    ],
)
def test_wrong_batches_are_answered_in_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as raised:
        throughput.main(["--quick", *words])
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_summary_is_of_the_worst_entry_of_each_step():
    difference = np.array([[0.0, -3.0], [1.0, 0.5], [2.0, 0.0]])
    found = parity.summary(difference)
    assert found["median"] == 2 and found["max"] == 3
    assert found["p95"] == pytest.approx(2.9)


@pytest.fixture(scope="module")
def visited():
    env = envs.make("pendulum", action_repeat=1)
    return parity.visit("pendulum-swingup", env, 8)


@pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array")
def test_visited_steps_go_from_one_state_to_the_next(visited):
    assert visited.qpos.shape == (8, 1) and visited.state.shape == (8, 2)
    angle = visited.state[:, 0]
    seen = np.stack([np.cos(angle), np.sin(angle), visited.state[:, 1]], axis=1)
    np.testing.assert_allclose(visited.observation, seen, atol=1e-12)
    turned = (angle - visited.qpos[:, 0]) / 0.02
    np.testing.assert_allclose(turned, visited.state[:, 1], atol=1e-9)


@pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array")
def test_errors_are_those_of_float32():
    found = parity.errors("pendulum-swingup", 8)
    assert set(found) == set(parity.PARTS)
    for part in ("state", "observation"):
        assert 0 < found[part]["median"] <= found[part]["max"] < 1e-5


def test_parity_table_and_picture():
    error = {"median": 1e-14, "p95": 1e-13, "max": 0.0}
    found = {
        "walker-walk": {
            p: dict.fromkeys(parity.PARTS, error) for p in parity.PRECISIONS
        }
    }
    lines = parity.table(found).splitlines()
    assert (
        lines[2].split() == ["walker-walk", "state"] + ["1e-14", "1e-13", "0e+00"] * 2
    )
    assert len(parity.draw(found, "title").axes) == 3


@pytest.mark.slow
def test_parity_in_both_precisions(tmp_path, capsys):
    path = tmp_path / "parity.json"
    words = ["--tasks", "pendulum", "--states", "8", "--quick", "--json", str(path)]
    assert parity.main([*words, "--png", str(tmp_path / "parity.png")]) == 0
    result = json.loads(path.read_text(encoding="utf-8"))
    assert (
        result["what"] == "a quick check, not a measurement" and "provenance" in result
    )
    found = result["tasks"]["pendulum-swingup"]
    assert found["float64"]["state"]["max"] < 1e-12
    assert found["float32"]["state"]["max"] > 1e-12
    assert (tmp_path / "parity.png").stat().st_size > 1000


def test_render_table_and_pictures():
    speed = render.Speed(
        mujoco=Spread(20.0, 18.0, 21.0),
        plain=Spread(150.0, 140.0, 160.0),
        ours={1: Spread(900.0, 890.0, 910.0), 16: Spread(2000.0, 1900.0, 2100.0)},
        ratio={1: Spread(45.0, 44.0, 46.0), 16: Spread(100.0, 90.0, 110.0)},
    )
    picture = np.zeros((8, 8, 3), np.uint8)
    seen = Comparison(np.array([1.0, 0.98]), 1.0, 2.0, 3.0, [(picture, picture)] * 3)
    found = {"walker": (seen, speed), "finger": (seen, speed)}
    last = " ".join(render.table(found).splitlines()[-1].split())
    assert last == "finger 0.990 0.980 1.0000 2.00 3.00 20 150 900 2000"
    (axes,) = render.draw(found, "title").axes
    assert [x.get_text() for x in axes.get_yticklabels()] == ["walker", "finger"]
    # Two rows of three pairs, and the perturbations.
    assert len(render.sheet(found).axes) == 2 * 6 + len(render.CONDITIONS)
    assert [render.calls(batch) for batch in (1, 16, 64, 100)] == [64, 4, 1, 1]


def test_gpu_parts_take_less_than_nine_minutes():
    assert sum(part.seconds for part in gpu_env.PARTS.values()) <= 520
    assert gpu.parts_of("env") is gpu_env.PARTS


def test_gpu_entries_are_made_here_too():
    checked = dict(
        gpu_env.items(
            {"p": lambda: gpu_env._check("pendulum", 1e-4)}, lambda: 60.0, 1.0
        )
    )["p"]
    assert checked["passed"] and checked["arrays"][0]["median"] < 1e-5
    assert not gpu_env._check("pendulum", 0.0)["passed"]
    timed = gpu_env.time_batch("pendulum", 2, rounds=2, seconds=0.0)
    assert timed["steps_per_second"]["median"] > 0
    drawn = gpu_env.time_pictures("pendulum", 2048, rounds=2)
    assert drawn["pictures"] == 2048 and drawn["frames_per_second"]["median"] > 0
    parts = {
        "checks": {"ended": "complete", "seconds": 1.0, "entries": {"p": checked}},
        "walker": {"ended": "complete", "seconds": 1.0, "entries": {"w": timed}},
    }
    json.dumps(parts, allow_nan=False)
    text = gpu.summary(parts)
    assert "checks: p: passed" in text and "control steps/s" in text
    assert gpu_resume.all_passed(parts["checks"])
