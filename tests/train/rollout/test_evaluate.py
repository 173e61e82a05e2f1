"""Scoring a run from its checkpoint."""

import json
import pathlib
import shutil
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_run import configured, python, random_state, save_run

from core.agent import Agent
from train.checkpoint.saved_agents import AgentSaver, SavedLearner, SavedRun
from train.errors import UserError
from train.evaluate import main
from train.preflight.setup import make_env
from train.rollout import scores
from train.rollout.report import Report
from train.rollout.scores import (
    Episodes,
    Score,
    load_agents,
    make_scorer,
)
from train.run_dir import record

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run on toy-target, with two checkpoints."""
    config = configured("--env toy-target")
    run_dir = tmp_path_factory.mktemp("runs") / "single"
    return save_run(run_dir, config, random_state(config), (200, 400))


class Pair(NamedTuple):
    """Two agents side by side on toy-constant, where every return is 20."""

    run_dir: pathlib.Path
    agents: Agent


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    config = configured("--env toy-constant --seeds 2")
    run_dir = tmp_path_factory.mktemp("runs") / "pair"
    state = random_state(config)
    return Pair(save_run(run_dir, config, state), state.learner.agent)


def refusal(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The one line that answers these words."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert out == ""
    return err


def test_report(single, tmp_path, capsys):
    path = tmp_path / "scores.json"
    words = ["--run", str(single), "--episodes", "7", "--random", "--json", str(path)]
    assert main(words) == 0
    out = capsys.readouterr().out
    lines = {line[:12].strip(): line[13:] for line in out.splitlines()}
    assert lines["run"] == str(single)
    assert lines["environment"] == "toy-target, action repeat 2"
    assert lines["checkpoint"] == "environment step 400"

    report = json.loads(path.read_text())
    assert report["step"] == 400 and report["episodes"] == 7 and report["seed"] == 0
    assert report["eval_policy"] == "mode"
    assert lines["actions"] == "the mode of the policy"
    (agent,) = report["agents"]
    for name, score in (("policy", agent), ("random", report["random"])):
        returns = np.array(score["returns"])
        assert returns.shape == (7,) and len(set(returns)) == 7
        assert score["mean"] == pytest.approx(returns.mean())
        assert score["std"] == pytest.approx(returns.std())
        assert (score["min"], score["max"]) == (returns.min(), returns.max())
        assert lines[name] == (
            f"return {returns.mean():.1f} ± {returns.std():.1f}, "
            f"min {returns.min():.1f}, max {returns.max():.1f} (7 episodes)"
        )
    assert agent["returns"] != report["random"]["returns"]


def test_actions_are_those_of_the_runs_own_evaluations(single, tmp_path, capsys):
    """Of a run from before there was a choice that is the mode."""
    run_dir = shutil.copytree(single, tmp_path / "run")
    path, config = tmp_path / "scores.json", run_dir / "config.json"
    settings = json.loads(config.read_text())

    def returns(policy: str, *words: str) -> list[float]:
        words = ("--run", str(run_dir), "--episodes", "3", "--json", str(path), *words)
        assert main(words) == 0
        shown = {"mode": "the mode of the", "sample": "sampled from the"}[policy]
        assert f"actions      {shown} policy\n" in capsys.readouterr().out
        report = json.loads(path.read_text())
        assert report["eval_policy"] == policy
        return report["agents"][0]["returns"]

    del settings["eval_policy"], settings["eval_max_decisions"]
    config.write_text(json.dumps(settings))
    mode, asked = returns("mode"), returns("sample", "--eval-policy", "sample")
    settings["eval_policy"] = "sample"
    config.write_text(json.dumps(settings))
    assert returns("sample") == asked
    assert returns("mode", "--eval-policy", "mode") == mode
    assert not set(mode) & set(asked)


def test_a_score_is_in_the_file_before_it_is_printed(tmp_path, monkeypatch):
    """And a file that cannot be written costs no line."""
    path, said = tmp_path / "scores.json", []
    score = Score(np.array([1.5]), np.array([5]), np.zeros(1, bool))

    def tell(line: str, _: Any) -> None:
        said.append((line, json.loads(path.read_text())["agents"]))

    monkeypatch.setattr("train.rollout.report.tell", tell)
    report = Report(str(path), {"run": "x"})
    report.add("policy", [score], agent=0)
    report.end()
    ((line, (entry,)),) = said
    assert line.startswith("policy       return 1.5") and entry["returns"] == [1.5]
    lines = []
    monkeypatch.setattr("train.rollout.report.tell", lambda line, _: lines.append(line))
    report = Report(str(tmp_path / "no" / "scores.json"), {})
    report.add("random", [score])
    assert len(lines) == 1
    with pytest.raises(UserError, match=r"--json .* cannot be written \(No such file"):
        report.end()


@pytest.mark.long
def test_every_agent_of_several_seeds(pair, tmp_path, capsys):
    def report(*words: str) -> list[dict[str, Any]]:
        path = tmp_path / "scores.json"
        assert main(["--run", str(pair.run_dir), "--json", str(path), *words]) == 0
        return json.loads(path.read_text())["agents"]

    both = report("--episodes", "3")
    assert [agent["agent"] for agent in both] == [0, 1]
    assert all(agent["returns"] == [20.0] * 3 for agent in both)
    out = capsys.readouterr().out
    assert "agent 0      return 20.0 ± 0.0, min 20.0, max 20.0 (3 episodes)" in out
    assert "agent 1      return 20.0" in out
    assert [agent["agent"] for agent in report("--agent", "1")] == [1]


def test_the_agents_are_the_saved_ones(pair):
    config = record.read(pair.run_dir / "config.json")
    step, agents = load_agents(pair.run_dir, config, make_env(config))
    assert step == 400 and len(agents) == 2
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *agents)
    chex.assert_trees_all_equal(stacked, pair.agents)


def test_nothing_but_the_agent_is_needed(single, tmp_path):
    config = record.read(single / "config.json")
    env = make_env(config)
    _, (agent,) = load_agents(single, config, env)
    bare = save_run(tmp_path / "bare", config, SavedRun(SavedLearner(agent)))
    _, (again,) = load_agents(bare, config, env)
    chex.assert_trees_all_equal(again, agent)


@pytest.mark.long
def test_an_agent_alone_is_enough(single, tmp_path, capsys):
    """`config.json` and `agents/`, copied elsewhere; no step more than the newest."""
    config = record.read(single / "config.json")
    state = random_state(config)
    run_dir = save_run(tmp_path / "run", config, None, ())
    saver = AgentSaver(run_dir)
    for step, forever in ((100, True), (200, False), (300, True), (400, False)):
        learner = jax.tree.map(lambda x, step=step: x + step, state.learner)
        saver.save(step, state._replace(learner=learner), forever=forever)
    kept = sorted(int(path.name) for path in (run_dir / "agents").iterdir())
    assert kept == [100, 300, 400]
    size = sum(p.stat().st_size for p in (run_dir / "agents").rglob("*"))
    parameters = sum(x.size for x in jax.tree.leaves(state.learner.agent))
    assert size < 3 * 1.2 * 4 * parameters
    env = make_env(config)
    for at, step in ((None, 400), (100, 100), (300, 300)):
        found, (agent,) = load_agents(run_dir, config, env, at)
        assert found == step
        expected = jax.tree.map(lambda x, step=step: x + step, state.learner.agent)
        chex.assert_trees_all_equal(agent, expected)
    words = ["--run", str(run_dir), "--episodes", "1"]
    assert main([*words, "--at", "300"]) == 0
    assert "environment step 300\n" in capsys.readouterr().out
    message = refusal(capsys, [*words, "--at", "290"])
    assert "--at 290" in message and "nearest valid: 300" in message
    assert "allowed: 100, 300, 400" in message


def test_a_step_is_read_from_a_checkpoint_where_there_is_no_agent_alone(single, capsys):
    words = ["--run", str(single), "--episodes", "1"]
    assert main([*words, "--at", "200"]) == 0
    assert "environment step 200\n" in capsys.readouterr().out
    assert "allowed: 200, 400; nearest" in refusal(capsys, [*words, "--at", "0"])


@pytest.mark.long
def test_a_damaged_agent_gives_way_to_the_checkpoint_of_its_step(
    single, tmp_path, capfd
):
    config = record.read(single / "config.json")
    run_dir = shutil.copytree(single, tmp_path / "run")
    AgentSaver(run_dir).save(400, random_state(config), forever=False)
    (run_dir / "agents" / "000000000400" / "metadata.json").write_text("{}")
    assert main(["--run", str(run_dir), "--episodes", "1"]) == 0
    out, err = capfd.readouterr()
    assert "environment step 400\n" in out and "agent 400 is unusable" in err


def test_a_damaged_checkpoint_gives_way_to_the_one_before(single, tmp_path, capfd):
    copied = shutil.copytree(single, tmp_path / "run")
    files = (copied / "checkpoints" / "000000000400" / "arrays").rglob("*")
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    assert main(["--run", str(copied), "--episodes", "2"]) == 0
    out, err = capfd.readouterr()
    assert "checkpoint   environment step 200\n" in out
    assert "checkpoint 400 is unusable" in err


def random_returns(rng: np.random.Generator, episodes: int) -> np.ndarray:
    """What toy-target pays a uniform random policy: 20 decisions of 2 steps each."""
    position = rng.uniform(-1, 1, episodes)
    total = np.zeros(episodes)
    for _ in range(20):
        action = rng.uniform(-1, 1, episodes)
        for _ in range(2):
            position = position + 0.1 * action
            total += 1 - np.abs(position)
    return total


def test_the_random_policy_is_uniform(single):
    config = record.read(single / "config.json")
    env = make_env(config)
    _, (agent,) = load_agents(single, config, env)
    (score,) = make_scorer(env, Episodes(400, 0, "random"))(agent)
    returns = score.returns
    expected = random_returns(np.random.default_rng(0), 100_000)
    error = expected.std() / 400**0.5
    assert abs(returns.mean() - expected.mean()) < 4 * error
    assert returns.std() == pytest.approx(expected.std(), rel=0.2)


@pytest.mark.long
def test_many_episodes_are_played_in_batches(single, monkeypatch):
    config = record.read(single / "config.json")
    env = make_env(config)
    _, (agent,) = load_agents(single, config, env)
    monkeypatch.setattr(scores, "BATCH", 2)
    play = make_scorer(env, Episodes(5, 0))
    returns = play(agent)[0].returns
    assert returns.shape == (5,) and len(set(returns.tolist())) == 5
    np.testing.assert_array_equal(play(agent)[0].returns, returns)
    assert not set(make_scorer(env, Episodes(5, 1))(agent)[0].returns) & set(returns)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("", ["--run: not given"]),
        ("--run", ["--run: no value given"]),
        ("--rnu {run}", ["--rnu", "unknown flag", "nearest valid: --run"]),
        ("--env walker", ["--env: unknown flag"]),
        ("--run {run} --episodes 0", ["--episodes 0", "nearest valid: 1"]),
        ("--run {run} --episodes 1.5", ["--episodes 1.5", "not an integer"]),
        ("--run {run} --seed -1", ["--seed -1", "nearest valid: 0"]),
        ("--run {run} --agent 1", ["--agent 1", "has 1 of them", "[0, 0]"]),
        ("--run {run}x", ["singlex: no such directory", "nearest valid: {run}"]),
        ("--run {tmp}", ["holds no config.json"]),
        ("--run {run} --video a.mp4", ["--video a.mp4", "nearest valid: a.gif"]),
        ("--run {run} --video {tmp}/no/a.gif", ["--video", "folder that exists"]),
        ("--run {run} --json {tmp}", ["--json", "cannot be written"]),
        ("--run {run} --video-size 9", ["--video-size 9", "nearest valid: 64"]),
        ("--run {run} --video {tmp}/a.gif", ["--video", "toy-target has no body"]),
    ],
)
def test_bad_input_gets_one_line(single, tmp_path, capsys, words, parts):
    places = {"run": single, "tmp": tmp_path}
    message = refusal(capsys, [word.format(**places) for word in words.split()])
    for part in parts:
        assert part.format(**places) in message


def test_a_run_without_a_checkpoint(tmp_path, capsys):
    record.write(configured("--env toy-target"), tmp_path / "config.json")
    message = refusal(capsys, ["--run", str(tmp_path)])
    assert "holds no checkpoint" in message and "every 200 environment" in message


def test_a_checkpoint_of_another_size(single, tmp_path, capsys):
    config = configured("--env toy-target --size 12m")
    record.write(config, tmp_path / "config.json")
    (tmp_path / "checkpoints").symlink_to(single / "checkpoints")
    message = refusal(capsys, ["--run", str(tmp_path)])
    assert "does not fit this run: leaf .learner.agent" in message


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "python -m train.evaluate --run" in capsys.readouterr().out


def test_a_typing_error_is_answered_before_jax_loads():
    done = python(
        "import sys\n"
        "from train.evaluate import main\n"
        "assert main(['--rnu', 'x']) == 2\n"
        "assert not {'jax', 'mujoco', 'numpy'} & set(sys.modules)\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("error: --rnu")
