"""`python -m train.main` as a user meets it: what it refuses, and what it leaves."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import assert_same_bits

from core.transition import Transition
from envs import VectorEnv
from train import loop
from train.checkpoint.checkpointer import Checkpointer
from train.config import Config
from train.config.cli import parse
from train.errors import UserError
from train.main import main
from train.preflight import memory
from train.preflight.resume import check_resume
from train.preflight.setup import make_env
from train.program.chunk import Schedule
from train.program.penalty import choose_penalty, with_taken
from train.program.state import init_learner
from train.program.update import UpdateOptions, update
from train.run_dir import record
from train.run_dir.lock import RunLock
from train.run_dir.metrics import jsonl

SMOKE = "--preset smoke --env toy-target"
ROOT = pathlib.Path(__file__).parents[3]


def configured(words: str = "") -> Config:
    return parse(f"{SMOKE} {words}".split(), "cpu")


def vector_env(config: Config) -> VectorEnv:
    return VectorEnv(make_env(config), config.num_envs)


pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run directory with a configuration and a checkpoint of that shape."""
    config = configured()
    programs = loop.Programs(config, vector_env(config), choose_penalty(config, "cpu"))
    shapes = programs.template

    def fill(leaf: jax.ShapeDtypeStruct) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0), leaf.shape)
        return jnp.zeros(leaf.shape, leaf.dtype)

    run_dir = tmp_path_factory.mktemp("held")
    record.write(config, run_dir / "config.json")
    assert Checkpointer(run_dir).save(200, jax.tree.map(fill, shapes), {"updates": 0})
    return run_dir


def refusal(capsys: pytest.CaptureFixture[str], words: str) -> str:
    """The one line that answers these words."""
    assert main(words.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    return err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--env wlaker", ["--env wlaker", "walker-stand", "nearest valid: walker"]),
        ("--stpes 100", ["--stpes", "unknown flag", "nearest valid: --steps"]),
        ("--rho 1.5", ["--rho 1.5", "in [0, 1]", "nearest valid: 1"]),
        ("--rho 0 --penalty xla", ["--rho 0", "(0, 1]", "--penalty none"]),
        ("--batch-length 1", ["--batch-length 1", "nearest valid: 2"]),
        ("--steps 0", ["--steps 0", "nearest valid: 1"]),
        ("--lambda0 -0.5", ["--lambda0 -0.5", ">= 0", "nearest valid: 0"]),
        ("--lambda-min -1", ["--lambda-min -1", ">= 0", "nearest valid: 0"]),
        ("--action-repeat 3", ["--env toy-target", "action_repeat=3", "divisor"]),
        ("--obs pixels", ["--env toy-target", "pixels", "state"]),
        ("--train-ratio 0.001", ["--train-ratio 0.001", "at least 0.08"]),
        ("--logdir {file}/run", ["{file}/run", "cannot be written"]),
        ("--logdir {file}/deep/run", ["{file}/deep/run", "cannot be written"]),
        ("--resume must", ["--resume must", "{new} holds no checkpoint"]),
    ],
)
def test_bad_input_gets_one_line(tmp_path, capsys, words, parts):
    places = {"file": tmp_path / "file", "new": tmp_path / "new"}
    places["file"].touch()
    command = words.format(**places)
    if "--logdir" not in command:
        command += f" --logdir {places['new']}"
    message = refusal(capsys, f"{SMOKE} {command}")
    for part in parts:
        assert part.format(**places) in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write in every directory")
def test_a_directory_that_may_not_be_written(tmp_path, capsys):
    tmp_path.chmod(0o500)
    message = refusal(capsys, f"{SMOKE} --logdir {tmp_path}/run")
    assert "cannot be written (Permission denied)" in message


def test_a_million_steps_may_be_written_as_a_power(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1)
    refusal(capsys, f"{SMOKE} --steps 1e6 --logdir {tmp_path}")
    assert configured("--steps 1e6").steps == 1_000_000


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--batch-size 4", ["another configuration", "--batch-size: 2 -> 4"]),
        ("--env toy-constant", ["--env: toy-target -> toy-constant"]),
        ("--seed 1 --rho 0.25", ["--seed: 0 -> 1; --rho: 0.5 -> 0.25"]),
        (
            "--steps 800 --replay-size 400",
            ["replay: 200 -> 400", "add --replay-size 200"],
        ),
        ("--resume never", ["--resume never", "checkpoints up to step 200"]),
        ("--size 12m", ["--size: 1m -> 12m", "--allow-changes"]),
        (
            "--size 12m --allow-changes",
            ["000000000200: does not fit this run: leaf .learner.agent.", "float32["],
        ),
    ],
)
def test_a_directory_that_holds_another_run(held, capsys, words, parts):
    before = (held / "config.json").read_bytes()
    message = refusal(capsys, f"{SMOKE} --logdir {held} {words}")
    for part in parts:
        assert part in message
    assert (held / "config.json").read_bytes() == before
    assert Checkpointer(held).steps() == [200]


def test_resuming_is_the_users_choice(held, tmp_path):
    def check(words: str, run_dir: pathlib.Path) -> list[str]:
        return check_resume(configured(words), run_dir)

    assert check("--resume auto", held) == check("--resume auto", tmp_path) == []
    assert check("--resume never", tmp_path) == []
    assert check("--resume must", held) == ["--resume: auto -> must"]
    with pytest.raises(UserError, match="--resume must"):
        check("--resume must", tmp_path)
    with pytest.raises(UserError, match="--resume never"):
        check("--resume never", held)
    changed = "--batch-size 4 --allow-changes --eval-every 100"
    assert "--batch-size: 2 -> 4" in check(changed, held)
    longer = check("--steps 800 --replay-size 200", held)
    assert longer[0] == "--steps: 400 -> 800"


def test_two_runs_in_one_directory(tmp_path, capsys):
    with RunLock(tmp_path):
        message = refusal(capsys, f"{SMOKE} --logdir {tmp_path}")
    assert f"in use by process {os.getpid()} on host" in message
    assert not (tmp_path / "config.json").exists()


def test_a_replay_that_does_not_fit(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 20 << 20)
    words = f"--steps 1e6 --logdir {tmp_path}"
    message = refusal(capsys, f"{SMOKE} {words}")
    assert "of 20 MiB free memory" in message
    found = re.search(r"nearest valid: (\d+)$", message.strip())
    assert found is not None
    largest = int(found[1])
    spec = make_env(configured()).spec
    fits = memory.check_memory(configured(f"{words} --replay-size {largest}"), spec)
    assert fits == f"{largest:,} decisions, 10 MiB"
    with pytest.raises(UserError, match="nearest valid"):
        too_large = f"{words} --replay-size {largest + largest // 1000}"
        memory.check_memory(configured(too_large), spec)
    monkeypatch.setattr(memory, "available_memory", lambda: None)  # cannot be told
    assert memory.check_memory(configured(words), spec).startswith("500,000 decisions")


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU here")
def test_a_gpu_that_is_asked_for_and_a_kernel_that_cannot_run(tmp_path, capsys):
    message = refusal(capsys, f"{SMOKE} --require-gpu --logdir {tmp_path}")
    assert "--require-gpu: JAX sees no GPU here" in message
    penalty = choose_penalty(configured("--penalty pallas"), "cpu")
    assert penalty.options is not None and penalty.options.implementation == "xla"
    assert "the Pallas kernel needs a GPU; xla is the same" in penalty.reason
    taken = with_taken(configured("--penalty pallas"), penalty)
    assert taken == configured("--penalty xla")  # what config.json records


def test_a_replay_that_cannot_fit_suggests_nothing_impossible(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 60_000)
    spec = make_env(configured()).spec
    with pytest.raises(UserError) as caught:
        memory.check_memory(configured(), spec)
    message = str(caught.value)
    assert "nearest valid" not in message
    assert "less than the 32 decisions learning starts with" in message


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    ["--batch-size 2e9", "--num-envs 1e6", "--seeds 1e6", "--eval-episodes 1e9"],
)
def test_what_certainly_does_not_fit_is_refused(tmp_path, capsys, monkeypatch, words):
    monkeypatch.setattr(memory, "available_memory", lambda: 8 << 30)
    sizes = "--steps 2e9 --prefill 1 --replay-size 2e9 --action-repeat 1"
    sizes = sizes if "num-envs" in words else ""
    message = refusal(capsys, f"{SMOKE} {sizes} --logdir {tmp_path} {words}")
    assert "free memory" in message and list(tmp_path.iterdir()) == []


def test_the_least_memory_by_hand():
    config = configured("--seeds 2 --num-envs 3 --eval-episodes 5")
    # Batch 2 x 8, imagination 4; h of 512 and 32 x 4 classes in two bytes each.
    states, latent = 16 + 3 + 5, 2 * (512 + 32 * 4)
    assert memory.least_bytes(config, 100) == 2 * (1600 + states * latent + 8 * 16 * 4)


@pytest.mark.parametrize("fault", ["RESOURCE_EXHAUSTED: 5 GiB", "INTERNAL: a bug"])
def test_device_memory_that_runs_out_is_said_in_one_line(
    tmp_path, capsys, monkeypatch, fault
):
    def train(*args: Any, **options: Any) -> None:
        raise jax.errors.JaxRuntimeError(fault)

    monkeypatch.setattr(loop, "train", train)
    words = f"{SMOKE} --logdir {tmp_path}".split()
    if fault.startswith("INTERNAL"):
        with pytest.raises(jax.errors.JaxRuntimeError):
            main(words)
    else:
        assert main(words) == 1
        assert capsys.readouterr().err == f"out of memory: {fault}\n"


@pytest.mark.long
def test_several_seeds_are_several_runs(tmp_path, capsys):
    words = f"--penalty none --steps 200 --log-every 40 --logdir {tmp_path}"
    assert main(f"{SMOKE} {words} --seeds 2".split()) == 0
    assert "for each of 2 seeds" in capsys.readouterr().out
    first, second = (jsonl.read(tmp_path / f"seed_{i}/metrics.jsonl") for i in (0, 1))
    assert not (tmp_path / "metrics.jsonl").exists()
    config = configured(words)
    schedule = Schedule.of(config)
    per_chunk = schedule.cycles * schedule.updates
    assert len(first) == len(second) >= 3
    # The first line of each is the evaluation of the untrained agent.
    untrained = first[0]["eval/return_mean"], second[0]["eval/return_mean"]
    assert first[0].keys() == second[0].keys() and untrained[0] != untrained[1]
    for index, (a, b) in enumerate(zip(first[1:], second[1:], strict=True)):
        assert a.keys() == b.keys()
        assert (a["step"], a["decisions"]) == (b["step"], b["decisions"])
        assert a["train/updates"] == b["train/updates"] == per_chunk * (index + 1)
        assert a["train/loss/total"] != b["train/loss/total"]
    assert first[-1]["eval/return_mean"] != second[-1]["eval/return_mean"]

    # Each agent is what a run of its own seed begins as.
    pair = loop.Programs(configured(words + " --seeds 2"), vector_env(config), NONE)
    keys = pair.keys(0)
    for seed in (0, 1):
        alone = loop.Programs(configured(f"{words} --seed {seed}"), ENV, NONE).keys(0)
        np.testing.assert_array_equal(
            jax.random.key_data(keys[seed]), jax.random.key_data(alone)
        )


CONFIG = configured()
ENV = vector_env(CONFIG)
NONE = choose_penalty(configured("--penalty none"), "cpu")
UPDATES = 3


def updates_with(words: str) -> list[dict[str, float]]:
    """Metrics of a few updates from the same learner on the same batches."""
    config = configured(words)
    length, batch = config.batch_length, config.batch_size
    keys = jax.random.split(jax.random.key(0), 4)
    learner = jax.jit(lambda key: init_learner(CONFIG, ENV, key))(keys[0])
    initial = learner.agent.model.rssm.initial(batch)
    no = jnp.zeros((length, batch), bool)
    step = jax.jit(
        lambda learner, batch, key: update(
            config,
            learner,
            initial,
            batch,
            key=key,
            options=UpdateOptions(
                choose_penalty(config, "cpu").options, jnp.dtype("float32")
            ),
        )
    )
    found = []
    for index in range(UPDATES):
        obs, action, reward = (
            jax.random.normal(jax.random.fold_in(key, index), shape)
            for key, shape in zip(
                keys[1:],
                [(length, batch, 1), (length, batch, 1), (length, batch)],
                strict=True,
            )
        )
        sequence = Transition(obs, jnp.tanh(action), reward, no.at[0].set(True), no, no)
        learner, _, metrics = step(learner, sequence, jax.random.key(index))
        found.append({name: float(x) for name, x in metrics.items()})
    assert learner.updates == UPDATES and learner.skipped == 0
    return found


@pytest.mark.long
def test_the_penalty_is_added_with_its_coefficient():
    # A large step size: the later updates see what the first one did.
    fast = "--learning-rate 1e-3 --warmup 0"
    plain = updates_with(f"{fast} --penalty none")
    penalized = updates_with(f"{fast} --penalty xla")
    assert not [name for name in plain[0] if "penalty" in name or "lambda" in name]
    # At first both learners are the same, so the penalty is all that differs.
    first = penalized[0]
    assert first["penalty/posterior"] > 0.1
    expected = plain[0]["loss/total"] + 0.5 * first["penalty/posterior"]
    assert first["loss/total"] == pytest.approx(expected, rel=1e-5)
    assert penalized[1]["loss/dyn"] != pytest.approx(plain[1]["loss/dyn"], rel=1e-4)
    # Algorithm 2 after T updates.
    for updates, metrics in enumerate(penalized):
        coefficient = 0.5 / (1 + updates / 1000) ** 0.5
        assert metrics["lambda/posterior"] == pytest.approx(coefficient, rel=1e-6)


def command(run_dir: pathlib.Path) -> list[str]:
    words = f"{SMOKE} --penalty none --steps 6000 --save-every 2000 --logdir {run_dir}"
    return [sys.executable, "-m", "train.main", *words.split()]


@pytest.mark.slow
def test_sigterm_and_the_same_command_again(tmp_path):
    """A real signal to a real process, and bitwise the unbroken run afterwards."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(whole), cwd=ROOT, check=True, capture_output=True)

    process = subprocess.Popen(
        command(broken), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    metrics = broken / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 7:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 143, out.decode()
    assert b"stopped by SIGTERM at environment step" in out
    stopped = Checkpointer(broken).steps()[-1]
    assert stopped == jsonl.read(metrics)[-1]["step"] and stopped < 6000

    done = subprocess.run(command(broken), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"resuming at environment step {stopped:,}" in done.stdout
    assert metrics.read_bytes() == (whole / "metrics.jsonl").read_bytes()
    config = record.read(whole / "config.json")
    programs = loop.Programs(config, ENV, NONE)
    template = programs.template
    runs = [Checkpointer(path).restore(template) for path in (whole, broken)]
    assert runs[0] is not None and runs[1] is not None
    assert runs[0].step == runs[1].step and runs[0].metadata == runs[1].metadata
    assert_same_bits(runs[0].tree, runs[1].tree)
