"""`--sweep` on the command line: what is accepted, refused, and who the agents are."""

import json

import pytest

from train.config.cli import parse
from train.config.schema import Config, replay_bytes
from train.config.sweep import SWEPT, canonical, of_folder, read, with_values
from train.errors import UserError
from train.run_dir import record


def configured(words: str) -> Config:
    return parse(f"--preset smoke {words}".split(), "cpu")


def refusal(words: str) -> str:
    with pytest.raises(UserError) as error:
        configured(words)
    return str(error.value)


def test_agents_are_the_product_of_values_and_seeds():
    words = "--seeds 2 --sweep lambda0=0.1,0.5 --sweep learning_rate=1e-4,4e-5"
    config = configured(words)
    assert config.sweep == "lambda0=0.1,0.5 learning-rate=0.0001,4e-05"
    assert config.agents == 8 and len(config.variants) == 8
    first, second, third = config.variants[:3]
    assert (first.seed, second.seed, third.seed) == (0, 1, 0)
    assert first.values == {"--lambda0": 0.1, "--learning-rate": 1e-4}
    assert third.values == {"--lambda0": 0.1, "--learning-rate": 4e-5}
    assert second.folder == "seed_1,lambda0=0.1,learning-rate=0.0001"
    assert len({variant.folder for variant in config.variants}) == 8


def test_without_a_sweep_the_agents_are_the_seeds():
    config = configured("--seeds 3")
    assert config.agents == 3
    assert [x.folder for x in config.variants] == ["seed_0", "seed_1", "seed_2"]
    assert [x.values for x in config.variants] == [{}, {}, {}]


def test_memory_is_that_of_all_agents():
    one, six = configured(""), configured("--seeds 2 --sweep entropy=0,1,2")
    sizes = [replay_bytes(c, obs_shape=(3,), action_dim=1) for c in (one, six)]
    assert sizes[1] == 6 * sizes[0]


def test_with_the_core_as_target_the_coefficient_stays_constant():
    words = "--penalty-target core --sweep lambda0=0.01,0.1"
    for variant in configured(words).variants:
        assert variant.values["--lambda-min"] == variant.values["--lambda0"]
    decaying = configured(f"{words} --lambda0-prior none --lambda-min 0.001")
    assert all(set(x.values) == {"--lambda0"} for x in decaying.variants)


def test_an_agent_whose_coefficient_is_zero_has_no_penalty():
    lambda_min = lambda words: [
        x.values["--lambda-min"]
        for x in configured(f"--sweep lambda0={words}").variants
    ]
    assert lambda_min("0,0.1,0.5") == [0, 0.001, 0.001]
    assert lambda_min("0,0.5 --penalty-target both --lambda-min 0.01") == [0, 0.01]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("lambda0", ["--sweep lambda0: no values", "NAME=VALUE,VALUE"]),
        ("lambda0=", ["no values"]),
        ("lamda0=1,2", ["--sweep lamda0: unknown flag", "nearest valid: lambda0"]),
        ("rho=0.5,1", ["--sweep rho", "benchmarks.suite"]),
        ("size=1m,12m", ["--sweep size", "benchmarks.suite"]),
        ("unimix=0.1,0.2", ["--sweep unimix", "benchmarks.suite"]),
        ("lambda0=0.1,-1", ["--lambda0 -1: out of range"]),
        ("lambda0=0.1,x", ["--lambda0 x: not a number"]),
        ("lambda0=0.1,0.1", ["a value stands there twice"]),
        ("lambda0=0.1", ["one setting", "--lambda0 0.1"]),
        ("lambda0=0.1,0.2 --sweep lambda0=1,2", ["--lambda0 is swept twice"]),
        ("lambda0=0.1,0.2 --lambda0 1", ["--lambda0 1.0: is swept as well"]),
        ("lambda0=0.0005,0.5", ["--lambda-min 0.001: exceeds --lambda0 0.0005"]),
        (
            "lambda0=0,0.5 --penalty-target both --lambda0-prior 0.5",
            ["--lambda-min 0.001: exceeds --lambda0 0"],
        ),
        ("lambda-min=0.1,9", ["--lambda-min 9: exceeds --lambda0 0.5"]),
        ("entropy=0,1 --fork x --logdir y", ["--sweep", "without --fork"]),
    ],
)
def test_what_is_refused(words, parts):
    said = refusal(f"--sweep {words}")
    assert all(part in said for part in parts), said
    assert "\n" not in said


def test_every_swept_flag_takes_two_values():
    defaults = configured("")
    for name in SWEPT:
        if name == "--lambda0-prior":
            continue  # with its target only
        values = (0.002, 0.004) if name == "--lambda-min" else (0.7, 0.25)
        if name == "--discount-horizon":
            values = (100, 200)
        config = configured(f"--sweep {name[2:]}={values[0]},{values[1]}")
        found = [with_values(defaults, x.values) for x in config.variants]
        assert found[0] != found[1] and found[0] != defaults


def test_values_that_are_set_unchecked_change_nothing_else():
    config = configured("")
    changed = with_values(config, {"--lambda0": 7.0, "--entropy": 0.5})
    assert (changed.penalty.lambda0, changed.loss.entropy) == (7.0, 0.5)
    assert config.penalty.lambda0 == 0.5  # as it was
    assert changed.optimizer == config.optimizer and changed.steps == config.steps
    assert with_values(config, {}) is config


def test_a_sweep_is_recorded_compared_and_named(tmp_path):
    config = configured("--sweep entropy=0,3e-4")
    record.write(config, tmp_path / "config.json")
    assert record.read(tmp_path / "config.json") == config
    assert json.loads((tmp_path / "config.json").read_text())["sweep"] == config.sweep
    other = configured("--sweep entropy=0,3e-3")
    assert record.diff(config, other).refused == [
        "--sweep: entropy=0,0.0003 -> entropy=0,0.003"
    ]
    same = configured("--sweep entropy=0.0,0.0003")
    assert not any(record.diff(config, same))
    assert "sweep_entropy-0-0.0003" in str(record.run_dir(config))


def test_names_of_folders_are_read_back():
    for variant in configured("--seeds 2 --sweep eps=1e-20,1e-8").variants:
        assert of_folder(variant.folder) == (variant.seed, variant.values)
    for name in ("tensorboard", "seed_", "seed_x", "seed_0,eps=x", "agents"):
        assert of_folder(name) is None


def test_reading_and_writing():
    assert read(Config, "") == {}
    assert canonical(Config, "lambda0=.5,1e-1") == "lambda0=0.5,0.1"
