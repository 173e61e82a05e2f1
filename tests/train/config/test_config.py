"""Configuration: values, presets, the record on disk, and resuming."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

from core.sizes import SIZES
from train.config import Config, PenaltyConfig, replay_bytes
from train.config.cli import parse
from train.config.fields import Range, flags
from train.config.presets import (
    PRESETS,
    build,
    preset_config,
    preset_values,
    resolve_preset,
)
from train.errors import UserError
from train.run_dir import record

PROMISED = [
    "--env",
    "--obs",
    "--action-repeat",
    "--penalty",
    "--penalty-target",
    "--rho",
    "--lambda0",
    "--lambda0-prior",
    "--lambda-min",
    "--decay-scale",
    "--normalization",
    "--probe-kind",
    "--probes",
    "--size",
    "--preset",
    "--steps",
    "--seed",
    "--seeds",
    "--num-envs",
    "--train-ratio",
    "--batch-size",
    "--batch-length",
    "--imagination-length",
    "--discount-horizon",
    "--replay-size",
    "--replay-context",
    "--eval-every",
    "--eval-episodes",
    "--precision",
    "--logdir",
    "--resume",
]


def test_promised_flags_exist_and_are_flat():
    names = [flag.name for flag in flags(Config)]
    assert set(PROMISED) <= set(names)
    assert len(names) == len(set(names))


def test_importing_the_config_does_not_import_jax():
    modules = "train.config.cli, train.run_dir.record"
    code = f"import {modules}, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_every_preset_is_valid_and_names_real_flags(name, platform):
    config = preset_config(name, platform=platform)
    assert config.preset == name
    assert set(PRESETS[name]) <= {flag.name for flag in flags(Config)}
    assert record.from_dict(record.to_dict(config)) == config


def test_gpld_preset_is_table_2():
    config = preset_config("gpld", platform="gpu")
    assert (config.size, config.imagination_length, config.action_repeat) == (
        "12m",
        25,
        2,
    )
    assert (config.train_ratio, config.num_envs, config.steps) == (512.0, 16, 10**6)
    assert (config.batch_size, config.batch_length) == (16, 64)
    assert (config.replay_size, config.eval_every, config.eval_episodes) == (
        5_000_000,
        5000,
        3,
    )
    assert config.discount_horizon == 333
    assert dataclasses.astuple(config.optimizer) == (
        4e-5,
        1000,
        0.3,
        1e-3,
        0.9,
        0.999,
        1e-20,
        None,
        None,
    )
    penalty = config.penalty
    assert (penalty.lambda0, penalty.rho, penalty.lambda_min) == (0.5, 0.5, 0.001)
    assert (penalty.decay_scale, penalty.target) == (1000.0, "posterior")
    assert penalty.probe_kind == "rademacher"


def test_normalization_is_batch_for_the_gpld_presets_only():
    found = {n: preset_config(n, platform="cpu").penalty.normalization for n in PRESETS}
    assert found.pop("gpld") == found.pop("gpld-released") == "batch"
    assert set(found.values()) == {"sampled"}


def test_jacreg_is_the_papers_constant_core_penalty():
    config = preset_config("jacreg", platform="gpu")
    assert config.penalty.target == "core" and config.obs == "pixels"
    assert config.penalty.lambda0 == config.penalty.lambda_min == 0.01
    assert config.model.cnn_depth == 48 and config.model.deter == 200


def test_jacreg_is_table_6_in_dreamerv2s_units():
    config = preset_config("jacreg", platform="gpu")
    assert config.eval_every == 10_000 * config.action_repeat  # counted in decisions
    assert config.prefill == 1000 and config.prefill_policy == "random"
    assert config.optimizer.learning_rate == 3e-4
    assert config.optimizer.actor_learning_rate == 8e-5
    assert config.loss.clip_rewards == "tanh" and config.discount == 0.99
    assert config.replay_size == 2_000_000 and config.batch_size == 16
    # One update every five decisions.
    assert config.train_ratio * 5 == config.batch_size * config.batch_length
    assert config.loss.dynamics_scale + config.loss.representation_scale == 1.0


@pytest.mark.parametrize(
    ("platform", "preset", "penalty"),
    [("cpu", "laptop", "xla"), ("gpu", "gpld", "xla"), ("tpu", "gpld", "xla")],
)
def test_auto_suits_the_device(platform, preset, penalty):
    choice = resolve_preset("auto", platform=platform)
    assert choice.name == preset and platform.upper() in choice.reason
    config = preset_config("auto", platform=platform)
    assert config.preset == preset and config.penalty.implementation == penalty


@pytest.mark.parametrize("size", SIZES)
def test_blocks_divide_the_recurrent_state(size):
    model = SIZES[size]
    assert model.deter % model.blocks == 0 and model.stoch == 32


def test_replay_never_exceeds_the_run():
    config = Config(steps=100_000, action_repeat=2, replay_size=80_000)
    assert config.decisions == 50_000
    assert config.replay_capacity == 50_000
    assert dataclasses.replace(config, steps=400_000).replay_capacity == 80_000


def test_replay_bytes_by_hand():
    config = Config(size="1m", steps=20_000, num_envs=4, batch_length=8, seeds=3)
    # 24 observations, 6 actions, reward: float32; 4 flags; h in bfloat16, 32 classes.
    row = 24 * 4 + 6 * 4 + 4 + 4 + 512 * 2 + 32
    assert replay_bytes(config, obs_shape=(24,), action_dim=6) == 3 * 10_000 * row
    gaussian = build({"--latent": "gaussian", "--penalty": "none"}).latent
    penalty = PenaltyConfig(implementation="none")
    numbers = dataclasses.replace(config, latent=gaussian, penalty=penalty)
    # 32 more bytes: each latent variable is a number in bfloat16.
    found = replay_bytes(numbers, obs_shape=(24,), action_dim=6)
    assert found == 3 * 10_000 * (row + 32)
    pixels = dataclasses.replace(config, obs="pixels", replay_context=0, seeds=1)
    row = 64 * 64 * 3 + 6 * 4 + 4 + 4
    assert replay_bytes(pixels, obs_shape=(64, 64, 3), action_dim=6) == 10_000 * row


def test_learning_starts_with_one_sequence_per_environment():
    config = Config(num_envs=16, batch_length=64, prefill=0, replay_context=1)
    assert config.learning_starts == 16 * 65
    assert dataclasses.replace(config, replay_context=0).learning_starts == 16 * 64
    assert dataclasses.replace(config, prefill=5000).learning_starts == 5000


def test_lambda0_prior_defaults_to_lambda0():
    penalty = PenaltyConfig(target="both", lambda0=0.3)
    assert penalty.resolved_lambda0_prior == 0.3
    penalty = PenaltyConfig(target="both", lambda0=0.3, lambda0_prior=0.1)
    assert penalty.resolved_lambda0_prior == 0.1


def test_build_checks_only_the_final_combination():
    # Either change alone would be refused.
    config = build({"--lambda0": 1e-4, "--lambda-min": 1e-5})
    assert config.penalty.lambda0 == 1e-4
    with pytest.raises(UserError, match=r"--lambda-min 0\.001: exceeds --lambda0"):
        build({"--lambda0": 1e-4})


@pytest.mark.parametrize(
    ("interval", "inside", "outside", "words"),
    [
        (Range(0, 1), [0, 0.5, 1], [-0.1, 1.1], "in [0, 1]"),
        (Range(0, 1, open_low=True), [1], [0], "in (0, 1]"),
        (Range(0, 1, open_high=True), [0], [1], "in [0, 1)"),
        (Range(2), [2, 10**9], [1, float("inf"), float("nan")], ">= 2"),
        (Range(0, open_low=True), [1e-9], [0], "> 0"),
    ],
)
def test_range(interval, inside, outside, words):
    assert all(value in interval for value in inside)
    assert not any(value in interval for value in outside)
    assert str(interval) == words


def test_record_round_trip(tmp_path):
    config = build({"--probes": 3, "--probe-kind": "hadamard", "--steps": 12_345})
    record.write(config, tmp_path / "config.json")
    assert record.read(tmp_path / "config.json") == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_record_fills_in_what_an_older_version_did_not_know():
    old = record.to_dict(Config())
    del old["loss"]["unimix"], old["seed"]
    assert record.from_dict(old) == Config()


def test_record_takes_whole_numbers_for_floats():
    config = record.from_dict({"train_ratio": 512, "penalty": {"rho": 1}})
    assert type(config.train_ratio) is float and type(config.penalty.rho) is float


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"stps": 5}, "unknown key stps; nearest valid: steps"),
        ({"penalty": {"rh": 1}}, "unknown key penalty.rh; nearest valid: rho"),
        ({"steps": "many"}, "--steps many: expected int, got str"),
        ({"steps": 1.5}, "--steps 1.5: expected int, got float"),
        ({"require_gpu": 1}, "--require-gpu 1: expected bool, got int"),
        ({"steps": True}, "--steps True: expected int, got bool"),
        ({"penalty": {"rho": 2.0}}, "--rho 2.0: out of range"),
        ({"penalty": 3}, "penalty 3: expected an object"),
        ({"size": "13m"}, "--size 13m: unknown"),
        ([1], "expected a JSON object"),
    ],
)
def test_bad_records_are_refused(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        record.read(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_missing_and_garbled_records(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        record.read(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"steps": 5')
    with pytest.raises(UserError, match="not valid JSON"):
        record.read(tmp_path / "config.json")


def test_diff_tells_what_may_change():
    old = Config(steps=200_000, replay_size=50_000)
    new = dataclasses.replace(
        old, steps=400_000, eval_every=1, penalty=PenaltyConfig(rho=0.25), seed=7
    )
    found = record.diff(old, new)
    assert found.allowed == ["--steps: 200000 -> 400000", "--eval-every: 5000 -> 1"]
    assert found.refused == ["--seed: 0 -> 7", "--rho: 0.5 -> 0.25"]
    assert record.diff(old, old) == ([], [])


def test_diff_keeps_the_replay_its_size():
    old = Config(steps=200_000)
    longer = dataclasses.replace(old, steps=400_000)
    assert "add --replay-size 100000" in record.diff(old, longer).refused[0]
    kept = dataclasses.replace(longer, replay_size=100_000)
    assert record.diff(old, kept).refused == []


def test_run_dir_follows_what_is_trained():
    base = Config()
    assert record.run_dir(base) == record.run_dir(Config())
    assert record.run_dir(base).parent.name == "runs"
    longer = dataclasses.replace(base, steps=2_000_000, eval_every=7, resume="must")
    assert record.run_dir(longer) == record.run_dir(base)
    for other in (
        dataclasses.replace(base, seed=1),
        dataclasses.replace(base, penalty=PenaltyConfig(rho=0.25)),
    ):
        assert record.run_dir(other) != record.run_dir(base)
    named = dataclasses.replace(base, logdir="some/where")
    assert str(record.run_dir(named)) == "some/where"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("", "walker-walk-laptop-s0"),
        ("--preset gpld --steps 2e6 --replay-size 1e5", "walker-walk-gpld-s0"),
        ("--preset gpld --size 12m --rho .5", "walker-walk-gpld-s0"),
        ("--env walker --penalty pallas", "walker-walk-laptop-s0"),
        ("--rho 1 --seed 3", "walker-walk-laptop-s3-rho1"),
        ("--penalty none", "walker-walk-laptop-s0-no-penalty"),
        ("--penalty reference", "walker-walk-laptop-s0-reference"),
        ("--penalty-target core", "walker-walk-laptop-s0-penalty-target_core"),
        (
            "--penalty-target core --lambda0 .1 --no-core-carry",
            "walker-walk-laptop-s0-penalty-target_core-lambda0_0.1-lambda-min0.1"
            "-no-core-carry",
        ),
        (
            "--env cartpole --obs pixels --augment noise:0.35 --learning-rate 1e-4",
            "cartpole-swingup-laptop-s0-pixels-noise-0.35-learning-rate0.0001",
        ),
        ("--agc 0", "walker-walk-laptop-s0-agc0"),
        ("--seeds 4 --num-envs 8", "walker-walk-laptop-s0-seeds4-num-envs8"),
    ],
)
def test_a_run_is_named_by_what_differs_from_its_preset(words, name):
    config = parse(words.split(), "cpu")
    assert record.run_dir(config) == pathlib.Path("runs", name)


def test_a_name_too_long_for_a_directory_ends_in_a_digest():
    words = "--batch-size 3 --batch-length 7 --num-envs 2 --unimix .02 --eps 1e-7"
    words += " --entropy .1 --beta1 .8 --beta2 .9 --free-nats 2 --size 12m"
    one, other = (
        record.run_dir(parse(f"{words} --slow-rate {rate}".split(), "cpu")).name
        for rate in (0.1, 0.2)
    )
    assert len(one) < 120 and one != other and one[:100] == other[:100]


def test_pallas_and_xla_are_one_run():
    pallas, xla, reference = (
        Config(penalty=PenaltyConfig(implementation=name))
        for name in ("pallas", "xla", "reference")
    )
    assert record.run_dir(pallas) == record.run_dir(xla) != record.run_dir(reference)
    assert record.diff(pallas, xla) == record.diff(xla, pallas) == ([], [])
    assert record.diff(xla, reference).refused == ["--penalty: xla -> reference"]


def test_the_released_protocol_differs_from_the_papers_in_five_values():
    paper, released = (preset_values(name) for name in ("gpld", "gpld-released"))
    changed = {flag: x for flag, x in released.items() if paper.get(flag) != x}
    assert changed == {
        "--preset": "gpld-released",
        "--steps": 2 * paper["--steps"],  # they count decisions
        "--eval-every": 2 * paper["--eval-every"],
        "--eval-episodes": 4,
        "--prefill": 2048,
        "--lambda-min": 0.1,
    }
    config = preset_config("gpld-released", platform="cpu")
    assert config.learning_starts == 2048
