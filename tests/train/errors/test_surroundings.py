"""What the shell, the terminal and the machine around a program may lack."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from train.errors import ending
from train.errors.streams import encodable
from train.preflight import resume, setup
from train.run_dir import provenance

ROOT = pathlib.Path(__file__).resolve().parents[3]


def ran(command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = command.replace("python", sys.executable, 1)
    environment = os.environ | variables
    return subprocess.run(
        command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("program", ["train.main --steps x", "train.evaluate --run /x"])
def test_closed_streams_do_not_change_the_exit_code(program, closed):
    done = ran(f"python -m {program} {closed}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == (0 if "2>&-" in closed else 1)
    assert "Traceback" not in done.stderr


def test_a_closed_standard_output_is_not_the_next_file_opened(tmp_path):
    path = tmp_path / "result.json"
    code = (
        "import sys, os\n"
        "from train.errors import guarded\n"
        "def run():\n"
        f"    with open({str(path)!r}, 'w') as file:\n"
        "        print('for the terminal', flush=True)\n"
        "        os.write(1, b'from a library')\n"
        "        file.write('result')\n"
        "    return 3\n"
        "sys.exit(guarded(run))"
    )
    assert ran(f'python -c "{code}" >&-').returncode == 3
    assert path.read_text() == "result"


@pytest.mark.parametrize(
    "encoding, shown",
    [
        ("ascii", "1 +/- 2 lambda rho l\\xe4ufe"),
        ("latin-1", "1 ± 2 lambda rho läufe"),
        ("utf-8", "1 ± 2 λ ρ läufe"),
    ],
)
def test_letters_that_a_terminal_does_not_know(encoding, shown):
    assert encodable("1 ± 2 λ ρ läufe", encoding) == shown
    code = (
        "import sys\n"
        "from train.run_dir.metrics.progress import Display\n"
        "from train.errors import guarded, tell\n"
        "text = '1 \\u00b1 2 \\u03bb \\u03c1 l\\u00e4ufe'\n"
        "def run():\n"
        "    print(text)\n"
        "    tell(text, sys.stdout)\n"
        "    Display(9).say(text)\n"
        "    return 0\n"
        "sys.exit(guarded(run))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    assert done.stderr == b"" and done.returncode == 0
    assert done.stdout.decode(encoding).splitlines() == [shown] * 3


def test_tell_outside_of_a_program():
    """As somebody calls it from Python, on a stream that nobody prepared."""
    code = "import sys; from train.errors import tell; tell('\\u00b1', sys.stdout)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "+/-\n", "")


def test_no_home_and_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    set_to = {}
    monkeypatch.setattr(setup.jax.config, "update", set_to.__setitem__)
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", nobody)
    assert setup.enable_compilation_cache().startswith("none (no home directory")
    assert set_to["jax_compilation_cache_dir"] is None

    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    said = setup.enable_compilation_cache()
    assert said.startswith(
        f"none ({tmp_path}/file/smooth-dreamer/jax cannot be written"
    )
    assert set_to["jax_compilation_cache_dir"] is None

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = str(tmp_path / "smooth-dreamer" / "jax")
    limit = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
    for given, expected in ((None, 0.5), ("0", None)):
        set_to.clear()
        monkeypatch.delenv(limit, raising=False)
        if given:
            monkeypatch.setenv(limit, given)
        assert setup.enable_compilation_cache() == folder
        assert set_to["jax_compilation_cache_dir"] == folder
        assert set_to.get(limit.lower()) == expected


@pytest.mark.long
@pytest.mark.parametrize(
    "variable, program",
    [
        ("JAX_PLATFORMS=cuda", "train.main --preset smoke --require-gpu"),
        ("JAX_PLATFORMS=nonsense", "benchmarks.overhead.op --quick"),
        ("MUJOCO_GL=nonsense", "train.main --preset smoke --env cartpole"),
        ("MUJOCO_GL=nonsense", "benchmarks.environments.render --quick"),
        ("JAX_ENABLE_X64=maybe", "train.main --preset smoke"),
    ],
)
def test_a_variable_that_this_machine_cannot_serve(variable, program):
    if variable == "JAX_PLATFORMS=cuda" and setup.jax.default_backend() == "gpu":
        pytest.skip("there is a GPU")
    name, _, value = variable.partition("=")
    done = ran(f"python -m {program}", **{name: value})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(f"error: {variable}")


def test_a_fault_of_the_program_keeps_its_traceback():
    assert ending(ValueError("a bug")) is None
    assert ending(RuntimeError("RESOURCE_EXHAUSTED: 9 GiB")) == (
        "out of memory: RESOURCE_EXHAUSTED: 9 GiB",
        1,
    )
    done = ran("python -c 'from train.errors import *; guard_process(); 1 / 0'")
    assert done.returncode == 1 and "Traceback" in done.stderr
    code = "from train.errors import *; guard_process(); raise KeyboardInterrupt"
    done = ran(f"python -c '{code}'")
    assert (done.returncode, done.stderr) == (130, "stopped\n")


def test_settings_of_jax_are_recorded_and_compared(tmp_path, monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_dump_to=/scratch/dump --xla_x=1")
    found = provenance.provenance()
    assert found["settings"]["JAX_ENABLE_X64"] is False
    assert found["settings"]["JAX_DEFAULT_PRNG_IMPL"] == "threefry2x32"
    assert found["settings"]["JAX_DEFAULT_MATMUL_PRECISION"] is None
    assert found["compiler"] == {"LIBTPU_INIT_ARGS": "--xla_dump_to=dump --xla_x=1"}

    starts = tmp_path / "starts.jsonl"
    assert resume.changed_settings(tmp_path) == ([], [])
    starts.write_text("{}\n" + json.dumps(found) + "\n")
    assert resume.changed_settings(tmp_path) == ([], [])
    monkeypatch.delenv("LIBTPU_INIT_ARGS")
    found["settings"]["JAX_ENABLE_X64"] = True
    starts.write_text(json.dumps(found) + "\n")
    assert resume.changed_settings(tmp_path) == (
        ["LIBTPU_INIT_ARGS: --xla_dump_to=dump --xla_x=1 -> None"],
        ["JAX_ENABLE_X64: True -> False"],
    )


@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_another_version_of_python_is_told_which_one_works(version):
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'requires-python = ">=3.12,<3.13"' in text
    major, minor = version.split(".")
    other = f"import sys; sys.version_info = ({major}, {minor}, 0); "
    done = ran(f'python -c "{other} import train"')
    line = f"smooth-dreamer needs Python 3.12, and this is {version}: try `uv run`"
    assert done.stderr.splitlines()[-1] == f"ImportError: {line}"
    done = ran(f"python -c \"{other} sys.argv[0] = '-m'; import train\"")
    assert (done.returncode, done.stderr) == (2, f"error: {line}\n")
