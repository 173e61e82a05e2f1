"""Score a trained agent: `python -m train.evaluate --run DIR --episodes 20`."""

import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from train import record
from train.config import MAX_COUNT, Config, Count
from train.config.cli import read_words
from train.config.fields import Range, did_you_mean
from train.errors import UserError, guarded, printable, tell

PROGRAM = "python -m train.evaluate"
# Flags that take several values.
LISTS = ("--perturb", "--gravity")
DESCRIPTION = f"""Play episodes with the newest checkpoint of a run.

  {PROGRAM} --run runs/my-run --episodes 20 --random
  {PROGRAM} --run runs/my-run --video out.gif
  {PROGRAM} --run runs/my-run --perturb none noise:0.35 rotate:20 mask:50 --gravity 4

Actions are the mode of the policy. A return is the sum of the rewards of all control
steps of an episode; the standard deviation is over the episodes."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this program."""

    run: str
    """Run directory, as train.main printed it."""
    episodes: Count = 20
    """Episodes to play, each from its own start."""
    seed: Annotated[int, Range(0, MAX_COUNT)] = 0
    """Seed of the episodes; has nothing to do with the seed of the training."""
    agent: Annotated[int, Range(0, MAX_COUNT)] | None = None
    """Which agent of a run with --seeds, counted from 0; none is all of them."""
    random: bool = False
    """Play the same starts, and under each gravity, with uniform random actions."""
    perturb: str = ""
    """Perturb what the agent sees: noise:VARIANCE, rotate:DEGREES, mask:PERCENT, none,
    or several of them, each a row of the table (docs/pixels.md)."""
    gravity: str = ""
    """Play under other gravity, in m/s²; several make a row each."""
    video: str | None = None
    """Write the first episode (of the first agent, under the first condition, seen from
    outside) to this GIF file."""
    video_size: Annotated[int, Range(64, 240)] = 160
    """Width and height of the video in pixels."""
    json: str | None = None
    """Write all returns and their summary to this file."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0 done, 2 a mistake in the command, 1 out of device memory, 130 after Ctrl-C.
    """
    words = sys.argv[1:] if argv is None else argv
    return guarded(lambda: run(words))


def run(argv: Sequence[str]) -> int:
    """Parse, load the agents, play, report; returns 0."""
    from train.origin import check_origin

    check_origin()
    options = read_options(argv)
    run_dir = Path(options.run).expanduser()
    config = read_config(run_dir)
    chosen = choose_agents(options.agent, config.seeds)
    check_output("--video", options.video, suffix=".gif")
    check_output("--json", options.json)

    # Imported only now: a mistyped flag is answered before JAX and MuJoCo load.
    load_mujoco()
    from train import scoring, start
    from train.conditions import read_conditions
    from train.provenance import provenance
    from train.video import Film

    start.enable_compilation_cache()
    env = start.make_env(config)
    conditions = None
    if options.perturb or options.gravity:
        conditions = read_conditions(env, options.perturb, options.gravity)
    step, agents = scoring.load_agents(run_dir, config, env)
    film = Film(env, options.video_size) if options.video else None
    print(f"run          {printable(str(run_dir))}")
    print(f"environment  {env.spec.name}, action repeat {env.spec.action_repeat}")
    print(f"checkpoint   environment step {step:,}", flush=True)

    report: dict[str, Any] = {"run": run_dir.name, "env": env.spec.name, "step": step}
    report |= {"episodes": options.episodes, "seed": options.seed}
    count, seed, poses = options.episodes, options.seed, None
    if conditions is None:
        play = scoring.make_player(env, count, seed, poses=film is not None)
        report["agents"] = []
        for index in chosen:
            score = play(agents[index])
            say(label(index, config), "", score)
            report["agents"].append({"agent": index, **score.record()})
            poses = score.poses if poses is None else poses
    else:
        test = scoring.make_condition_scorer(
            env, count, seed, conditions, poses=film is not None
        )
        report["conditions"] = []
        for index in chosen:
            scores = test(agents[index])
            report["conditions"] += table(label(index, config), conditions, scores)
            poses = scores[0].poses if poses is None else poses
    if options.random and options.gravity:
        # What the agent sees is nothing to random actions.
        heavy = read_conditions(env, "", options.gravity)
        test = scoring.make_condition_scorer(
            env, count, seed, heavy, random_actions=True
        )
        report["conditions"] += table("random", heavy, test(agents[chosen[0]]))
    elif options.random:
        play = scoring.make_player(env, count, seed, random_actions=True)
        score = play(agents[chosen[0]])
        say("random", "", score)
        report["random"] = score.record()
    if options.json:
        report = {"provenance": provenance(), **report}
        write_text("--json", options.json, json.dumps(report, indent=1) + "\n")
    if film is not None and options.video:
        assert poses is not None
        line = film.write(poses, Path(options.video))
        print(f"video        {printable(line)}")
        film.close()
    return 0


def say(name: str, condition: str, score: Any) -> None:
    """Print one line of the table."""
    tell(" ".join(filter(None, (f"{name:<12}", condition, str(score)))), sys.stdout)


def table(name: str, conditions: Any, scores: Sequence[Any]) -> list[dict[str, Any]]:
    """Print one player's scores under all conditions; return them for JSON."""
    width = max(len(text) for text in conditions.labels)
    rows = []
    for index, score in enumerate(scores):
        text = conditions.labels[index]
        say(name, f"{text:<{width}} ", score)
        gravity = None
        if conditions.gravity is not None:
            gravity = float(conditions.gravity[index])
        row = {"player": name, "condition": text, "gravity": gravity}
        rows.append(row | {"perturb": conditions.perturbs[index], **score.record()})
    return rows


def label(index: int, config: Config) -> str:
    """What an agent is called in the table."""
    return f"agent {index}" if config.seeds > 1 else "policy"


def read_options(argv: Sequence[str]) -> Options:
    """The options that a command line asks for.

    Raises:
        UserError: the command line is not understood or not allowed.
        SystemExit: with code 0, after printing the help that was asked for.
    """
    words = read_words(join_lists(argv), Options)
    if words.help:
        tyro.cli(Options, prog=PROGRAM, description=DESCRIPTION, args=["--help"])
    if "--run" not in words.values:
        raise UserError("--run: not given; allowed: the directory of a run")
    values = {name[2:].replace("-", "_"): x for name, x in words.values.items()}
    return Options(**values)


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


def read_config(run_dir: Path) -> Config:
    """The configuration that a run was trained with.

    Raises:
        UserError: the directory does not exist or is not one of a run.
    """
    path = run_dir / "config.json"
    try:
        if path.exists():
            return record.read(path)
        beside = run_dir.absolute().parent
        known = [
            str(run_dir.parent / p.parent.name) for p in beside.glob("*/config.json")
        ]
        near = did_you_mean(str(run_dir), known)
        reason = "holds no config.json" if run_dir.is_dir() else "no such directory"
    except OSError as error:
        near, reason = "", f"cannot be read ({error.strerror})"
    raise UserError(f"--run {run_dir}: {reason}; allowed: the directory of a run{near}")


def load_mujoco() -> None:
    """Import MuJoCo, which fails where MUJOCO_GL names what is not installed.

    Raises:
        UserError: it does.
    """
    try:
        importlib.import_module("envs._mjx")
    except Exception as error:
        library = os.environ.get("MUJOCO_GL")
        if not library:
            raise
        raise UserError(
            f"MUJOCO_GL={library}: MuJoCo cannot use it here ({error}); allowed: egl "
            "or osmesa where their libraries are installed (libegl1, libosmesa6), or "
            "nothing at all without --video"
        ) from None


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


def write_text(flag: str, path: str, text: str) -> None:
    """Write a file that a flag named.

    Raises:
        UserError: it cannot be written.
    """
    try:
        Path(path).write_text(text)
    except OSError as error:
        raise UserError(
            f"{flag} {path}: cannot be written ({error.strerror})"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
