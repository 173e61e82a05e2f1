"""Any command line is accepted, or answered in one line with exit code 2."""

import contextlib
import functools
import io
import pathlib
import random
import signal
import string
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from train import loop
from train.config import Config
from train.config.fields import Flag, flags
from train.main import main
from train.preflight import setup

# Light enough to be run, and mostly valid.
LIGHT = {
    "--env": ["toy-target", "toy-constant", "pendulum-swingup"],
    "--action-repeat": [1, 2, 4],
    "--size": ["1m"],
    "--preset": ["smoke"],
    "--steps": [400, 1000, "1e3"],
    "--seeds": [1, 2],
    "--num-envs": [1, 2, 3],
    "--train-ratio": [0.5, 1, 4, 8.5],
    "--batch-size": [1, 2, 3],
    "--batch-length": [2, 5, 8],
    "--imagination-length": [1, 2, 7],
    "--imagination-starts": [0, 2, 9],
    "--discount-horizon": [2, 333],
    "--replay-size": [64, 100, 5000],
    "--prefill": [0, 1, 64],
    "--eval-every": [1, 50, 1000],
    "--eval-episodes": [1, 2],
    "--log-every": [1, 40, 90],
    "--save-every": [1, 60, 1000],
    "--probes": [1, 3, "none"],
    "--lambda0": [0, 0.5, 10],
    "--lambda0-prior": [0.3, "none"],
    "--lambda-min": [0, 1e-3],
    "--straightening": [0, 0.1],
    "--learning-rate": [1e-5, 1e-3, 1],
    "--seed": [0, 7, 2**31 - 1],
    "--warmup": [0, 5],
    "--devices": [1],
}
WILD = [
    *("0", "-1", "1", "1.5", "1e9", "1e400", "nan", "-inf", "none", "", " ", "true"),
    *("2147483647", "2147483648", "0x10", "1_000", "١٢", "½", "[red]", "\x1b[2J"),
    *("--", "-", "a\nb", "\udcff", "💥", "x" * 300),
]
PATHS = ["plain", "[red]x", "\x1b[31m", "é ", "\udcff", "x" * 300, "d/" * 50]
PATHS += ["in-the-way/run", "~no-such-user/run", ".", "a\nb"]


def words() -> st.SearchStrategy[str]:
    """A word that names nothing outside of the working directory."""
    letters = st.characters(exclude_characters="\0/~.", codec=None)
    return st.sampled_from(WILD) | st.text(letters, max_size=8)


def value_of(flag: Flag, light: bool) -> st.SearchStrategy[str]:
    """A value for a flag, mostly a valid one."""
    if flag.name == "--logdir":
        return st.sampled_from(PATHS)
    if flag.name in LIGHT:
        good = [str(value) for value in LIGHT[flag.name]]
    elif flag.choices:
        good = list(flag.choices)
    else:
        good = ["0.5", "0.05", "1"] if flag.kind is float else ["1", "2"]
    if light:
        return st.sampled_from(good)
    other = ["walker", "Walker_Run", "dog:x", "json:dumps", ":", "a:b:c", "os:path"]
    return st.sampled_from(good * 2 + (other if flag.name == "--env" else []))


@st.composite
def command_lines(draw: st.DrawFn, *, light: bool = False) -> list[str]:
    """Flags with values, and where not `light`, what a hand may type besides."""
    argv = ["--preset", "smoke", "--env", "toy-target"]
    few = {"--logdir", "--preset", "--resume", "--require-gpu", "--allow-changes"}
    few |= {"--coordinator", "--num-processes", "--process-id"}  # need one another
    known = [flag for flag in flags(Config) if not light or flag.name not in few]
    for flag in draw(st.lists(st.sampled_from(known), max_size=5)):
        if flag.kind is bool:
            argv.append(draw(st.sampled_from([flag.name, "--no-" + flag.name[2:]])))
            continue
        name = flag.name
        if not light:
            mangled = [
                "--" + name[2:].replace("-", "_"),
                name[1:],
                name[:-1],
                name.upper(),
            ]
            name = draw(st.sampled_from([name] * 60 + mangled))
        # Not `one_of`, which would take either as often.
        usual = light or draw(st.integers(0, 9))
        value = draw(value_of(flag, light) if usual else words())
        form = draw(st.sampled_from(["two"] * 12 + ["equals"] * 3 + ["none"]))
        if form == "two" or light:
            argv += [name, value]
        else:
            argv.append(f"{name}={value}" if form == "equals" else name)
    if not light and draw(st.integers(0, 9)) == 0:
        argv.insert(draw(st.integers(0, len(argv))), draw(words()))
    return argv


def answer(argv: list[str]) -> tuple[int, str, str]:
    """Exit code, output and error output of a command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(argv)
        except SystemExit as leaving:  # --help
            code = leaving.code
    assert isinstance(code, int)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def desk(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory; environments made once, and nothing trained."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in-the-way").touch()
    made = functools.cache(
        lambda env, obs, repeat: make_env(
            Config(env=env, obs=obs, action_repeat=repeat)
        )
    )
    make_env = setup.make_env

    def cached(config: Config) -> Any:
        return made(config.env, config.obs, config.action_repeat)

    monkeypatch.setattr(setup, "make_env", cached)


def settings(examples: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[
            hypothesis.HealthCheck.function_scoped_fixture,
            hypothesis.HealthCheck.too_slow,
            hypothesis.HealthCheck.filter_too_much,
        ],
    )


@settings(500)
@hypothesis.given(argv=command_lines())
def test_accepted_or_one_line(desk, tries, argv):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train", lambda *args, **options: (None, 0))
        code, out, err = answer(argv)
    tries["accepted" if code == 0 else "refused"] += 1
    assert "Traceback" not in out + err
    assert "\x1b" not in out + err or "--help" in argv
    if code == 0:
        assert err == ""
    else:
        assert code == 2 and out == ""
        assert err.startswith("error: ") and err.index("\n") == len(err) - 1


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(5))
def test_accepted_command_lines_run(desk, tries, monkeypatch, batch):
    """With its five batches: 25 command lines, each two chunks of a real run."""
    ran = 0
    intact = loop.Programs.__init__

    def stopping(self: loop.Programs, *args: Any) -> None:
        intact(self, *args)
        chunk, calls = self.chunk, iter(range(2))

        def counted(run: Any) -> Any:
            if next(calls) == 1:
                signal.raise_signal(signal.SIGTERM)
            return chunk(run)

        vars(self)["chunk"] = counted

    @hypothesis.seed(batch)
    @hypothesis.settings(
        settings(60), derandomize=False, phases=[hypothesis.Phase.generate]
    )
    @hypothesis.given(argv=command_lines(light=True))
    def run(argv: list[str]) -> None:
        nonlocal ran
        if ran == 5:
            return
        name = "".join(random.Random(repr(argv)).choices(string.ascii_letters, k=9))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "train", lambda *args, **options: (None, 0))
            if answer([*argv, "--logdir", f"try-{name}"])[0] != 0:
                return
        ran += 1
        code, out, err = answer([*argv, "--logdir", f"run-{name}"])
        hypothesis.note(out + err)
        assert code in (0, 143) and "Traceback" not in out + err, (argv, out, err)
        assert "stopped by SIGTERM" in out or "finished at" in out
        tries["stopped" if code else "finished"] += 1

    monkeypatch.setattr(loop.Programs, "__init__", stopping)
    run()
    assert ran == 5
