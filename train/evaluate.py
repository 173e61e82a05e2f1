"""Score a trained agent: `python -m train.evaluate --run DIR --episodes 20`."""

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from train.config import MAX_COUNT, Config, Count, cli
from train.config.fields import Range
from train.errors import UserError, guarded, one_line, tell
from train.rollout.report import Report
from train.rollout.report import say as say
from train.run_dir.record import read_run

if TYPE_CHECKING:  # a mistyped flag is answered before JAX and MuJoCo load
    from envs import EnvSpec

PROGRAM = "python -m train.evaluate"
# Flags that take several values.
LISTS = ("--perturb", "--gravity", "--latent-error")
DESCRIPTION = f"""Play episodes with the agent of a run.

  {PROGRAM} --run runs/my-run --episodes 20 --random
  {PROGRAM} --run runs/my-run --video out.gif
  {PROGRAM} --run runs/my-run --perturb none noise:0.5,0.35 rotate:20 --gravity 4
  {PROGRAM} --run runs/my-run --episodes 5 --perturb paper-walker

Actions are chosen as in the evaluations of the run, or as --eval-policy says. A return
is the sum of the rewards of all control steps of an episode; the standard deviation is
over the episodes."""
# What the table says of --eval-policy.
ACTIONS = {"sample": "sampled from the policy", "mode": "the mode of the policy"}


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this program."""

    run: str
    """Run directory, as train.main printed it."""
    episodes: Count = 20
    """Episodes to play, each from its own start."""
    seed: Annotated[int, Range(0, MAX_COUNT)] = 0
    """Seed of the episodes; has nothing to do with the seed of the training."""
    at: Annotated[int, Range(0, MAX_COUNT)] | None = None
    """Environment step of the agent. Default: the newest. train.main --keep-every keeps
    more of them."""
    agent: Annotated[int, Range(0, MAX_COUNT)] | None = None
    """Which agent of a run with --seeds, counted from 0. Default: all of them."""
    eval_policy: Literal["sample", "mode"] | None = None
    """Actions are samples of the policy or its mode. Default: what the run's own
    evaluations take."""
    eval_max_decisions: Count | None = None
    """Cut an episode off after so many decisions. Default: as in the run."""
    random: bool = False
    """Play the same starts, and under each gravity, with uniform random actions."""
    perturb: str = ""
    """Perturb what the agent sees: noise:VARIANCE, rotate:DEGREES, mask:PERCENT, none,
    or several of them, each a row of the table; paper-walker, paper-quadruped: all
    those of the Jacobian-regularization paper (docs/pixels.md)."""
    gravity: str = ""
    """Play under other gravity, in m/s²; several make a row each."""
    latent_error: str = ""
    """Add an error to every latent state: a variance, drift, none, run (that of the
    run's training); several make a row each. Default, of a run that was trained with an
    error: first what its evaluations have, then the other (docs/robustness.md)."""
    video: str | None = None
    """Write the first episode (of the first agent, under the first condition, seen from
    outside) to this GIF file."""
    video_size: Annotated[int, Range(64, 240)] = 160
    """Width and height of the video in pixels."""
    json: str | None = None
    """Write all returns and their summary to this file."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0 done, 2 a mistake in the command, 1 out of device memory or a film that could not
    be made, 130 after Ctrl-C.
    """
    words = sys.argv[1:] if argv is None else argv
    return guarded(lambda: run(words))


def run(argv: Sequence[str]) -> int:
    """Parse, load the agents, play, report; returns 0."""
    from train.preflight.shadowing import check_origin

    check_origin()
    options = read_options(argv)
    run_dir = Path(options.run).expanduser()
    config = read_run(run_dir)
    chosen = choose_agents(options.agent, config.agents)
    check_output("--video", options.video, suffix=".gif")
    check_output("--json", options.json)

    # Imported only now: a mistyped flag is answered before JAX and MuJoCo load.
    from train.preflight import setup
    from train.program.latent import latent_error
    from train.rollout.conditions import read_conditions, read_errors
    from train.rollout.scores import Episodes, load_agents, make_scorer
    from train.rollout.video import Film
    from train.run_dir.provenance import provenance

    setup.enable_compilation_cache()
    env = setup.make_env(config)
    own = latent_error(config)
    plain = not (options.perturb or options.gravity or options.latent_error)
    errors = read_errors(options.latent_error, own)
    if own is not None and not options.latent_error:
        # As the run's own evaluations; perturbed, under the first of the two alone.
        words = ("run", "none") if config.latent.evaluate else ("none", "run")
        errors = read_errors(" ".join(words if plain else words[:1]), own)
    conditions = read_conditions(env, options.perturb, options.gravity, errors)
    film = Film(env, options.video_size) if options.video else None
    step, agents = load_agents(run_dir, config, env, options.at)
    policy = options.eval_policy or config.eval_policy
    cap = options.eval_max_decisions or config.eval_max_decisions
    episodes = Episodes(options.episodes, options.seed, policy, cap)
    introduce(run_dir, env.spec, step, policy)
    head = {"provenance": provenance(), "run": run_dir.name, "env": env.spec.name}
    head |= {"step": step, "episodes": options.episodes, "seed": options.seed}
    head |= {"eval_policy": policy, "eval_max_decisions": cap}
    report = Report(options.json, head)
    score = make_scorer(env, episodes, conditions, poses=film is not None)
    poses = None
    for index in chosen:
        name, scores = label(index, config), score(agents[index])
        if plain:
            report.add(name, scores[:1], agent=index)
            if others := scores[1:]:
                report.add_table(name, others, conditions.after(1))
        else:
            report.add_table(name, scores, conditions)
        poses = scores[0].poses if poses is None else poses
    if options.random:
        # What the agent sees is nothing to random actions.
        conditions = read_conditions(env, "", options.gravity)
        score = make_scorer(env, episodes._replace(acting="random"), conditions)
        scores = score(agents[chosen[0]])
        if options.gravity:
            report.add_table("random", scores, conditions)
        else:
            report.add("random", scores)
    report.end()
    if film is not None and options.video:
        return make_film(film, poses, Path(options.video))
    return 0


def introduce(run_dir: Path, spec: "EnvSpec", step: int, policy: str) -> None:
    """Say which agent plays what, and how."""
    for line in (
        f"run          {run_dir}",
        f"environment  {spec.name}, action repeat {spec.action_repeat}",
        f"checkpoint   environment step {step:,}",
        f"actions      {ACTIONS[policy]}",
    ):
        tell(line, sys.stdout)


def make_film(film: Any, poses: Any, path: Path) -> int:
    """Write the film; the exit code. The scores are printed and saved already."""
    try:
        with contextlib.closing(film):
            line = film.write(poses, path)
    except Exception as error:  # a driver of graphics fails in its own ways
        reason = one_line(error)[:400] or type(error).__name__
        tell(f"error: no film was made ({reason}); the scores stand", sys.stderr)
        return 1
    tell(f"video        {line}", sys.stdout)
    return 0


def label(index: int, config: Config) -> str:
    """What an agent is called in the table."""
    if config.agents == 1:
        return "policy"
    swept = config.variants[index].label
    return f"agent {index}" + (f" ({swept})" if swept else "")


def read_options(argv: Sequence[str]) -> Options:
    """The options that a command line asks for.

    Raises:
        UserError: the command line is not understood or not allowed.
        SystemExit: with code 0, after printing the help that was asked for.
    """
    return cli.read_options(
        join_lists(argv),
        Options,
        program=PROGRAM,
        description=DESCRIPTION,
        required={"--run": "the directory of a run"},
    )


def join_lists(argv: Sequence[str]) -> list[str]:
    """The words with all values of `--perturb` and of `--gravity` in one."""
    joined: list[str] = []
    collecting = False
    for word in argv:
        if word.startswith("--"):
            collecting = word in LISTS
        elif collecting and joined[-1] not in LISTS:
            joined[-1] += f" {word}"
            continue
        joined.append(word)
    return joined


def choose_agents(asked: int | None, count: int) -> list[int]:
    """Indices of the agents to report, of `count` that were trained side by side.

    Raises:
        UserError: there is no such agent.
    """
    if asked is not None and asked >= count:
        raise UserError(
            f"--agent {asked}: the run has {count} of them; allowed: an integer in "
            f"[0, {count - 1}]; nearest valid: {count - 1}"
        )
    return list(range(count)) if asked is None else [asked]


def check_output(flag: str, path: str | None, suffix: str = "") -> None:
    """Refuse a file that could not be written, before any episode is played.

    Raises:
        UserError: its folder is missing, it is a folder itself, or its name ends in
            something else than `suffix`.
    """
    if path is None:
        return
    if not path.lower().endswith(suffix):
        raise UserError(
            f"{flag} {path}: allowed: a name that ends in {suffix}; nearest valid: "
            f"{Path(path).with_suffix(suffix)}"
        )
    if Path(path).is_dir() or not Path(path).parent.is_dir():
        raise UserError(
            f"{flag} {path}: cannot be written; allowed: a file in a folder that exists"
        )


if __name__ == "__main__":
    sys.exit(main())
