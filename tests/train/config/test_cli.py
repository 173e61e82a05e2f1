"""The command line: what it understands, and the one line it answers otherwise."""

import subprocess
import sys
from typing import Any

import pytest

import envs
from train.config import Config
from train.config.cli import parse, read_command
from train.config.fields import Flag, flags
from train.config.presets import preset_config
from train.errors import UserError, one_line_errors


def parsed(words: str, platform: str = "cpu") -> Config:
    return parse(words.split(), platform)


def refusal(words: str) -> str:
    with pytest.raises(UserError) as caught:
        parsed(words)
    return str(caught.value)


def test_nothing_given_is_the_preset_of_the_device():
    assert parse([], "cpu") == preset_config("laptop", platform="cpu")
    assert parse([], "gpu") == preset_config("gpld", platform="gpu")


def test_flags_override_the_preset():
    config = parsed(
        "--preset gpld --penalty none --size 1m --learning-rate .001", "gpu"
    )
    assert config.penalty.implementation == "none" and config.size == "1m"
    assert config.optimizer.learning_rate == 1e-3
    assert config.imagination_length == 25 and config.penalty.normalization == "batch"


def test_pallas_is_kept_on_a_cpu():
    config = parsed("--env walker --penalty pallas")
    assert config.penalty.implementation == "pallas" and config.env == "walker-walk"


def test_the_core_does_not_inherit_the_kernel_from_the_preset():
    config = parsed("--preset gpld --penalty-target core", "gpu")
    assert config.penalty.implementation == "xla"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e6", 1_000_000),
        ("2.5e5", 250_000),
        ("200_000", 200_000),
        ("2000000001", 2_000_000_001),
        ("+30000", 30_000),
        ("30000.0", 30_000),
    ],
)
def test_integers_may_be_written_in_many_ways(text, value):
    assert parse(["--steps", text], "cpu").steps == value
    assert parse([f"--steps={text}"], "cpu").steps == value


@pytest.mark.parametrize(
    "name", ["walker-run", "walker_run", "dmc_walker_run", "Walker-Run"]
)
def test_names_of_a_task(name):
    assert parse(["--env", name], "cpu").env == "walker-run"


def test_spellings_of_a_flag():
    config = parsed("--batch_size=4 --require_gpu --no-allow-changes")
    assert config.batch_size == 4 and config.require_gpu and not config.allow_changes
    assert parsed("--probes none").penalty.probes is None
    assert parsed("--steps 5e4 --steps 6e4").steps == 60_000


def value_of(config: Config, flag: Flag) -> Any:
    value: Any = config
    for name in flag.path:
        value = getattr(value, name)
    return value


# A value that halving or choosing another would not make valid by itself.
OTHER = {
    "--env": "walker-run",
    "--preset": "laptop",
    "--augment": "noise:0.1",
    "--penalty-target": "prior",
    "--lambda0-prior": 0.3,
    "--lambda-min": 0.25,
    "--probe-kind": "hadamard",
    "--probes": 2,
    "--devices": 2,
    "--coordinator": "auto",
    "--num-processes": 2,
    "--process-id": 1,
    "--logdir": "here",
    "--wandb": "project",
    "--sweep": "lambda0=0.1,0.2",
    "--seed": 3,
    "--seeds": 2,
    "--steps": 401,
    "--num-envs": 1,
    "--eval-episodes": 2,
    "--replay-context": 0,
    "--keep": 1,
    "--keep-every": 40,
    "--keep-at": "100,200",
    "--penalty-start": 5,
    "--penalty-error": 0.5,
    "--straightening": 0.1,
    "--trust-every": 100,
    "--fork": "parent",
    "--at": 400,
    "--init-from": "parent",
    "--init-parts": "encoder,decoder",
    "--actor-learning-rate": 1e-4,
    "--critic-learning-rate": 1e-4,
    "--drift-mean-low": 1.0,
    "--drift-variance-low": 1.0,
    "--imagination-starts": 3,
}
# What has an effect together with other flags only.
TOGETHER = {
    "--lambda0-prior": "--penalty-target both",
    "--fork": "--logdir child",
    "--at": "--init-from parent",
    "--init-parts": "--init-from parent",
    "--latent": "--penalty none",
    "--latent-std-floor": "--latent gaussian --penalty-target core",
}


@pytest.mark.parametrize("flag", flags(Config), ids=lambda flag: flag.name)
def test_every_flag_reaches_its_field(flag):
    before = value_of(preset_config("smoke", platform="cpu"), flag)
    if flag.name in OTHER:
        value = OTHER[flag.name]
    elif flag.choices:
        value = next(choice for choice in flag.choices if choice != before)
    elif flag.kind is bool:
        value = not before
    else:
        value = flag.kind(before / 2)
    assert value != before
    words = ["--preset", "smoke", flag.name]
    if flag.kind is not bool:
        words.append(str(value))
    elif not value:
        words[-1] = "--no-" + flag.name.removeprefix("--")
    words += TOGETHER.get(flag.name, "").split()
    assert value_of(parse(words, "cpu"), flag) == value


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--env wlaker", ["--env wlaker", "walker-stand", "nearest valid: walker"]),
        ("--stpes 5", ["--stpes", "unknown flag", "nearest valid: --steps"]),
        ("--lr 1", ["--lr", "nearest valid: --learning-rate"]),
        ("-steps 5", ["-steps", "nearest valid: --steps"]),
        ("--imagination 5", ["nearest valid: --imagination-length"]),
        ("--zzz 5", ["--zzz: unknown flag; --help lists all flags"]),
        ("--seedz 5", ["--seedz", "nearest valid: --seed"]),
        ("steps 5", ["steps: belongs to no flag", "--steps"]),
        ("--rho 1.5", ["--rho 1.5", "in [0, 1]", "nearest valid: 1"]),
        ("--rho 0", ["--rho 0", "(0, 1]", "--penalty none"]),
        ("--rho 0 --penalty xla", ["--rho 0 with --penalty xla"]),
        ("--rho half", ["--rho half", "not a number"]),
        ("--batch-length 1", ["--batch-length 1", "an integer in [2, 2147483647]"]),
        (
            "--batch-length 2 --straightening 1",
            ["--batch-length 2: two successive steps", "nearest valid: 3"],
        ),
        (
            "--straightening -1",
            ["--straightening -1: out of range", "nearest valid: 0"],
        ),
        ("--steps 0", ["--steps 0", "an integer", "nearest valid: 1"]),
        (
            "--latent gaussian",
            [
                "--penalty-target posterior with --latent gaussian",
                "no class probabilities",
                "nearest valid: --penalty-target core",
            ],
        ),
        (
            "--latent gaussian --penalty-target both",
            ["--penalty-target both with --latent gaussian", "or --penalty none"],
        ),
        (
            "--latent gaussian --penalty none --unimix 0.05",
            ["--unimix 0.05: has no effect with --latent gaussian"],
        ),
        (
            "--latent-std-floor 0.2",
            ["--latent-std-floor 0.2: has no effect with --latent categorical"],
        ),
        (
            "--latent gaussian --penalty none --latent-std-floor 0",
            ["--latent-std-floor 0: out of range", "> 0"],
        ),
        ("--latent gauss", ["--latent gauss: unknown", "nearest valid: gaussian"]),
        ("--steps -5", ["--steps -5", "nearest valid: 1"]),
        ("--steps 1.5", ["--steps 1.5", "not an integer", "1 or 2"]),
        ("--steps abc", ["--steps abc", "not an integer"]),
        ("--steps nan", ["--steps nan", "out of range"]),
        ("--steps inf", ["--steps inf", "out of range"]),
        ("--steps 1e12", ["--steps 1e12", "2147483647"]),
        ("--steps", ["--steps: no value given", "an integer"]),
        ("--steps --seed 1", ["--steps: no value given"]),
        ("--steps 100", ["--steps 100", "ends before learning starts", "2048"]),
        ("--seed -1", ["--seed -1", "nearest valid: 0"]),
        ("--lambda0 -1", ["--lambda0 -1", ">= 0", "nearest valid: 0"]),
        ("--lambda0 nan", ["--lambda0 nan", "finite"]),
        ("--lambda0 inf", ["--lambda0 inf", "finite"]),
        ("--lambda0 0", ["--lambda-min 0.001: exceeds --lambda0 0", "--lambda-min 0"]),
        ("--lambda-min 1", ["--lambda-min 1: exceeds --lambda0 0.5"]),
        ("--lambda0-prior 0.1", ["--lambda0-prior 0.1", "posterior", "prior, both"]),
        ("--decay-scale 0", ["--decay-scale 0", "> 0"]),
        ("--probe-kind exact --probes 2", ["--probes 2 with --probe-kind exact"]),
        ("--probe-kind hadamard --probes 4", ["--probes 4", "4 classes", "[1, 3]"]),
        ("--probes 0", ["--probes 0", "nearest valid: 1"]),
        ("--penalty palas", ["--penalty palas", "nearest valid: pallas"]),
        ("--penalty pallas --penalty-target core", ["--penalty pallas", "core", "xla"]),
        ("--penalty-target core --probe-kind exact", ["--probe-kind exact", "core"]),
        ("--preset dreamerv3 --rho 0.2", ["--rho 0.2", "dreamerv3", "add --penalty"]),
        ("--replay-size 10", ["--replay-size 10", "too small", "1024"]),
        ("--replay-context 2", ["--replay-context 2", "in [0, 1]"]),
        ("--imagination-starts 1", ["--imagination-starts 1", "or 0 for all"]),
        (
            "--imagination-starts 65",
            ["--imagination-starts 65", "16 states", "2 to 16"],
        ),
        ("--batch-size 0", ["--batch-size 0", "nearest valid: 1"]),
        ("--num-envs 0", ["--num-envs 0", "nearest valid: 1"]),
        ("--action-repeat 0", ["--action-repeat 0", "nearest valid: 1"]),
        ("--train-ratio 0", ["--train-ratio 0", "in (0, 1000000]"]),
        ("--train-ratio 1e9", ["--train-ratio 1", "nearest valid: 1000000"]),
        ("--train-ratio -1", ["--train-ratio -1", "in (0, 1000000]"]),
        ("--eval-episodes 0", ["--eval-episodes 0", "nearest valid: 1"]),
        ("--discount-horizon 1", ["--discount-horizon 1", "nearest valid: 2"]),
        ("--learning-rate 0", ["--learning-rate 0", "> 0"]),
        ("--beta1 1", ["--beta1 1", "in [0, 1)"]),
        ("--size 13m", ["--size 13m", "200m", "nearest valid: 12m"]),
        ("--obs pixel", ["--obs pixel", "nearest valid: pixels"]),
        ("--precision float16", ["--precision float16", "nearest valid: bfloat16"]),
        ("--resume yes", ["--resume yes", "auto, never, must"]),
        ("--preset gdlp", ["--preset gdlp", "laptop", "nearest valid: gpld"]),
        ("--require-gpu=1", ["--require-gpu 1", "takes no value"]),
        ("--require-gpu true", ["--require-gpu true", "takes no value"]),
    ],
)
def test_bad_input_gets_one_line(words, parts):
    message = refusal(words)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_unknown_env_lists_all_tasks():
    message = refusal("--env nowhere")
    assert all(task in message for task in envs.TASKS)


def test_the_platform_is_asked_for_only_when_the_flags_are_in_order():
    def platform() -> str:
        raise AssertionError("asked too early")

    with pytest.raises(UserError):
        parse(["--rho", "1.5"], platform)
    assert parse([], lambda: "gpu").preset == "gpld"


def test_a_command_says_why_its_preset_was_taken():
    def start(given):
        assert given == {"--seeds": 2}
        return "cpu"

    command = read_command(["--seeds", "2"], start)
    assert command.preset == ("laptop", "auto: the device is a CPU")
    assert command.config == parsed("--seeds 2")
    asked = read_command(["--preset", "gpld"], lambda _: "cpu")
    assert asked.preset == ("gpld", "asked for by --preset")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("--total-timesteps 100000", "--steps"),
        ("--total_timesteps=100000", "--steps"),
        ("--run.steps 1e6", "--steps"),
        ("--run.train_ratio 64", "--train-ratio"),
        ("--agent.opt.lr 1e-4", "--learning-rate"),
        ("--env.dmc.repeat 2", "--action-repeat"),
        ("--task dmc_walker_walk", "--env"),
        ("--env-id x", "--env"),
        ("--configs dmc_proprio size12m", "--preset"),
        ("--gamma 0.997", "--discount-horizon 333"),
        ("--gamma=0.99", "--discount-horizon 100"),
        ("--discount .5", "--discount-horizon 2"),
        ("--gamma 1", r"--discount-horizon (1 / (1 - discount))"),
        ("--gamma", r"--discount-horizon (1 / (1 - discount))"),
        ("--gae-lambda .95", "--return-lambda"),
        ("--buffer-size 1e6", "--replay-size"),
        ("--num-steps 128", "--steps (environment steps of the run) or --batch-len"),
        ("--horizon 15", "--imagination-length (decisions imagined) or --discount-"),
        ("--log-dir x", "--logdir"),
        ("--exp-name x", "--logdir"),
        ("--ent-coef 0", "--entropy"),
        ("--obs image", "pixels"),
        ("--obs proprio", "state"),
        ("--penalty=True", "xla"),
        ("--penalty false", "none"),
        ("--precision bf16", "bfloat16"),
        ("--env dm_control/walker-run-v0", "walker-run"),
        ("task=walker", "--env"),
    ],
)
def test_the_words_of_other_projects(words, hint):
    assert f"nearest valid: {hint}" in refusal(words)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("--track", "--wandb PROJECT"),
        ("--wandb-project-name x", "--wandb PROJECT"),
        ("--capture-video", "train.evaluate --run RUN --video"),
        ("--jax.platform cpu", "JAX_PLATFORMS=cpu"),
    ],
)
def test_advice_on_what_is_not_a_flag_here(words, advice):
    assert advice in refusal(words)


@pytest.mark.parametrize(
    ("name", "source", "hint"),
    [
        ("my_env", "def helper(): ...\ndef make(**_): ...", "my_env:make"),
        ("my_env.py", "def make_hopper(): ...", "my_env:make_hopper"),
        ("./my_env", "class HopperEnv: ...", "my_env:HopperEnv"),
        ("my_env", "not python", "my_env:make"),
        ("my_env.build", "def build(): ...", "my_env:build"),
    ],
)
def test_a_module_of_ones_own(tmp_path, monkeypatch, name, source, hint):
    (tmp_path / "my_env.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    assert f"nearest valid: {hint}" in refusal(f"--env {name}")


def test_coefficients_by_the_penaltys_target():
    """.5 decaying to .001 for GPLD's targets, .01 throughout for the recurrent map."""

    def coefficients(words):
        penalty = parsed(words).penalty
        return penalty.lambda0, penalty.lambda_min

    core = "--penalty-target core"
    for preset in ("laptop", "gpld", "smoke"):
        assert coefficients(f"--preset {preset}") == (0.5, 0.001)
        assert coefficients(f"--preset {preset} {core}") == (0.01, 0.01)
    assert coefficients(f"{core} --lambda0 .1") == (0.1, 0.1)
    assert coefficients(f"{core} --lambda-min .002") == (0.01, 0.002)
    assert coefficients(f"{core} --lambda0 .1 --lambda-min .001") == (0.1, 0.001)
    assert coefficients("--preset jacreg") == (0.01, 0.01)
    assert coefficients("--preset jacreg --lambda0 .05") == (0.05, 0.05)
    prior = "--preset jacreg --penalty-target prior"
    assert coefficients(prior) == (0.5, 0.001)


def test_one_line_errors(capsys):
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise UserError("two\n  lines")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: two lines\n"


def test_a_real_process_answers_in_one_line():
    code = (
        "import sys\n"
        "from train.config.cli import parse\n"
        "from train.errors import one_line_errors\n"
        "with one_line_errors():\n"
        "    parse(sys.argv[1:], 'cpu')\n"
        "assert False\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--rho", "1.5"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: --rho 1.5")
