"""Show a trained agent: `python -m train.play --run DIR`, in a window or as a film."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from train.config import MAX_COUNT, Count, cli
from train.config.fields import Range
from train.errors import UserError, guarded, tell
from train.evaluate import check_output, choose_agents, introduce, make_film
from train.run_dir.record import read_run

PROGRAM = "python -m train.play"
DESCRIPTION = f"""Show a trained agent.

  {PROGRAM} --run runs/my-run                    (in MuJoCo's viewer)
  {PROGRAM} --run runs/my-run --video out.gif    (as a film)

The viewer shows one episode after another, in real time, until its window is closed.
Escape frees the camera, which the mouse then moves. Both show what train.evaluate
--seed plays; that has perturbations, other gravity and many episodes."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this program."""

    run: str
    """Run directory, as train.main printed it."""
    video: str | None = None
    """Write one episode to this GIF file, instead of opening a window."""
    video_size: Annotated[int, Range(64, 240)] = 160
    """Width and height of the video in pixels."""
    seed: Annotated[int, Range(0, MAX_COUNT - 1)] = 0
    """Seed of the first episode; the next one has the next seed."""
    at: Annotated[int, Range(0, MAX_COUNT)] | None = None
    """Environment step of the agent. Default: the newest."""
    agent: Annotated[int, Range(0, MAX_COUNT)] = 0
    """Which agent of a run with --seeds, counted from 0."""
    eval_policy: Literal["sample", "mode"] | None = None
    """Actions are samples of the policy or its mode. Default: what the run's own
    evaluations take."""
    eval_max_decisions: Count | None = None
    """Cut an episode off after so many decisions. Default: as in the run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0 done, 2 a mistake in the command, no display or no window, 1 out of device memory
    or a film that could not be made, 130 after Ctrl-C.
    """
    words = sys.argv[1:] if argv is None else argv
    return guarded(lambda: run(words))


def run(argv: Sequence[str]) -> int:
    """Parse, load the agent, play, show; returns the exit code."""
    from train.preflight.shadowing import check_origin

    check_origin()
    options = read_options(argv)
    run_dir = Path(options.run).expanduser()
    config = read_run(run_dir)
    choose_agents(options.agent, config.agents)
    check_output("--video", options.video, suffix=".gif")
    if not options.video:
        check_display()

    # Imported only now: a mistyped flag is answered before JAX and MuJoCo load.
    from train.preflight import setup
    from train.program.latent import latent_error
    from train.rollout.conditions import read_conditions, read_errors
    from train.rollout.scores import Episodes, load_agents, make_scorer
    from train.rollout.video import Film
    from train.rollout.viewer import Viewer

    setup.enable_compilation_cache()
    env, own = setup.make_env(config), latent_error(config)
    error = "run" if own is not None and config.latent.evaluate else ""
    conditions = read_conditions(env, "", "", read_errors(error, own))
    film = Film(env, options.video_size) if options.video else None
    step, agents = load_agents(run_dir, config, env, options.at)
    policy = options.eval_policy or config.eval_policy
    cap = options.eval_max_decisions or config.eval_max_decisions
    viewer = None if film else Viewer(env, f"--run {run_dir}")
    introduce(run_dir, env.spec, step, policy)
    play = make_scorer(
        env, Episodes(1, options.seed, policy, cap), conditions, poses=True
    )
    with contextlib.closing(viewer) if viewer else contextlib.nullcontext():
        for seed in range(options.seed, MAX_COUNT):
            score = play(agents[options.agent], seed)[0]
            earned = f"return {score.returns[0]:.1f}, {score.decisions[0]:,} decisions"
            tell(f"seed {seed:<7,} {earned}", sys.stdout)
            assert score.poses is not None
            if film and options.video:
                return make_film(film, score.poses, Path(options.video))
            if viewer and not viewer.show(score.poses):
                break
    return 0


def check_display() -> None:
    """Say before anything loads that a window has nowhere to be shown.

    Raises:
        UserError: there is no display.
    """
    displays = "DISPLAY", "WAYLAND_DISPLAY"
    if sys.platform == "linux" and not any(map(os.environ.get, displays)):
        raise UserError(
            "MuJoCo's viewer needs a display, and neither DISPLAY nor WAYLAND_DISPLAY "
            "is set; --video out.gif makes a film instead"
        )


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
        required={"--run": "the directory of a run"},
    )


if __name__ == "__main__":
    sys.exit(main())
