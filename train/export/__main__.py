"""Write a trained policy as files: `python -m train.export --run DIR --to FOLDER`."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from train.config import MAX_COUNT, cli
from train.config.fields import Range
from train.errors import UserError, guarded, tell
from train.evaluate import choose_agents
from train.run_dir.record import read_run

PROGRAM = "python -m train.export"
DESCRIPTION = f"""Write a trained policy as files that need nothing of this project.

  {PROGRAM} --run runs/my-run --to policy

FOLDER/policy.npz and numpy_policy.py act with numpy alone; policy.jaxexport is the same
as a program for JAX (jax.export) on a CPU or CUDA; policy.json says the sizes."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this program."""

    run: str
    """Run directory, as train.main printed it."""
    to: str
    """Folder for the files; it is made if it is missing."""
    at: Annotated[int, Range(0, MAX_COUNT)] | None = None
    """Environment step of the agent. Default: the newest."""
    agent: Annotated[int, Range(0, MAX_COUNT)] = 0
    """Which agent of a run with --seeds, counted from 0."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 a mistake in it."""
    words = sys.argv[1:] if argv is None else argv
    return guarded(lambda: run(words))


def run(argv: Sequence[str]) -> int:
    """Parse, load the agent, write the files; returns 0."""
    from train.preflight.shadowing import check_origin

    check_origin()
    options = read_options(argv)
    run_dir, folder = Path(options.run).expanduser(), Path(options.to).expanduser()
    config = read_run(run_dir)
    choose_agents(options.agent, config.agents)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--to {folder}: is a file; allowed: a folder")

    # Imported only now: a mistyped flag is answered before JAX and MuJoCo load.
    from train.export import files
    from train.preflight import setup
    from train.rollout.scores import load_agents
    from train.run_dir.provenance import provenance

    env = setup.make_env(config)
    step, agents = load_agents(run_dir, config, env, options.at)
    about = {"env": env.spec.name, "step": step, "run": run_dir.name}
    about |= {"action_repeat": env.spec.action_repeat, "provenance": provenance()}
    try:
        paths = files.write(folder, agents[options.agent], env.spec.obs_shape, about)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--to {folder}: cannot be written ({reason})") from error
    tell(f"{env.spec.name}, environment step {step:,}", sys.stdout)
    for path in paths:
        tell(f"  {path.stat().st_size / 1e6:8.2f} MB  {path}", sys.stdout)
    return 0


def read_options(argv: Sequence[str]) -> Options:
    """The options that a command line asks for.

    Raises:
        UserError: the command line is not understood or not allowed.
        SystemExit: with code 0, after printing the help that was asked for.
    """
    return cli.read_options(
        argv,
        Options,
        program=PROGRAM,
        description=DESCRIPTION,
        required={"--run": "the directory of a run", "--to": "a folder for the files"},
    )


if __name__ == "__main__":
    sys.exit(main())
