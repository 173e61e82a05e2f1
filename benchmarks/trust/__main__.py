"""How far a trained world model may be believed, against the simulator it learned.

    python -m benchmarks.trust --run RUN_DIR [--compare RUN_DIR ...]
    python -m benchmarks.trust --calibrate 50

From states that the agent visits it imagines, and the simulator is branched off there
and given the same actions: errors of observations, rewards and returns by horizon, and
which states carry them. The return error of the policy is decomposed exactly into
reward, dynamics, continuation and value. The error of the value estimate by imagination
length says which lengths serve. The last line says whether anything speaks against the
model. Other agents are also measured at the states of the first one.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cli import QUICK as NO_MEASUREMENT
from benchmarks.cli import Parser, command, count, publish
from benchmarks.measure.page import page, provenance_section
from benchmarks.trust.budget.split import COUNTS, EFFORT, split_budget
from benchmarks.trust.budget.students import Effort
from benchmarks.trust.draw import draw
from benchmarks.trust.known import calibrate
from benchmarks.trust.measure import Measure, Plan
from benchmarks.trust.report import sections, text
from benchmarks.trust.statistics import Clusters
from benchmarks.trust.summary import by_horizon, summarize
from benchmarks.trust.verdict import (
    choose_length,
    fork_command,
    reasons,
    verdict,
)
from core.agent import Agent
from envs import Env
from train.checkpoint.checkpointer import Checkpointer
from train.config import Config
from train.errors import UserError
from train.evaluate import choose_agents
from train.preflight import setup
from train.rollout.scores import load_agents
from train.run_dir.provenance import provenance
from train.run_dir.record import read_run

HORIZON = 50
QUICK_COUNTS, QUICK_EFFORT = (32, 64, 128), Effort(seeds=2, rounds=2, updates=5)
QUICK = {"copies": 2, "decisions": 60, "starts": 16, "horizon": 10}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 for a user error."""
    return command(_parser(), _run, argv)


def _parser() -> Parser:
    parser = Parser("trust", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", type=Path, metavar="RUN_DIR", help="a trained run")
    what.add_argument(
        "--calibrate",
        type=count,
        metavar="DRAWS",
        help="instead: how often each reason speaks against models of random systems "
        "whose truth is known, right ones and such with planted errors",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN_DIR",
        help="further runs of the same task and observations",
    )
    parser.add_argument(
        "--agent", type=int, help="index; default: all of a run with several seeds"
    )
    parser.add_argument(
        "--copies", type=count, default=16, help="environments (default: 16)"
    )
    parser.add_argument(
        "--decisions", type=count, help="of each (default: one episode, at most 1,000)"
    )
    parser.add_argument(
        "--starts", type=count, default=512, help="states to branch (default: 512)"
    )
    parser.add_argument(
        "--horizon",
        type=count,
        help=f"imagined steps (default: {HORIZON}, or half an episode if shorter)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn")
    parser.add_argument(
        "--html", type=Path, metavar="OUT", help="write a page to this file"
    )
    parser.add_outputs(quick="2 environments, 60 decisions, 16 states, 10 steps")
    return parser


def _run(options: argparse.Namespace) -> None:
    setup.enable_compilation_cache()
    if options.calibrate is not None:
        draws, sizes = options.calibrate, calibrate.SIZES
        if options.quick:
            draws, sizes = 2, calibrate.SIZES[-1:]
        result = calibrate.calibrate(draws, sizes=sizes)
        draw_rates = lambda: calibrate.draw(result)
        publish(options, result, calibrate.table(result), draw_rates)
        return
    config = read_run(options.run)
    env = setup.make_env(config)
    plan = make_plan(options, config, env)
    measure = Measure(env, plan)
    agents: list[dict[str, Any]] = []
    advice: list[str] = []
    first = None
    for run_dir in (options.run, *options.compare):
        for about, agent in _agents(run_dir, config, env, options.agent):
            print(f"measuring {about['run']}", flush=True)
            trained = about["imagination length"]
            found, first = _measure(measure, agent, first, trained)
            found["budget"] = split_budget(
                run_dir,
                read_run(run_dir),
                env,
                agent,
                index=about["agent"] or 0,
                counts=QUICK_COUNTS if options.quick else COUNTS,
                effort=QUICK_EFFORT if options.quick else EFFORT,
            )
            agents.append(about | found)
            chosen = found["chosen length"]
            if chosen not in (None, trained) and Checkpointer(run_dir).steps():
                advice.append(fork_command(run_dir, chosen, step=about["step"]))
    result = {
        "task": env.spec.name,
        "obs": config.obs,
        "plan": plan._asdict(),
        "agents": agents,
    }

    def made() -> str:
        title = f"Trust report: {result['task']}"
        notice = f"--quick: {NO_MEASUREMENT}" if options.quick else ""
        body = sections(result, notice)
        return page(title, [*body, provenance_section(provenance())])

    publish(options, result, text(result), lambda: draw(result), page=made)
    if advice:
        print("To train on with the recommended imagination length:")
        print(*advice, sep="\n")


def make_plan(options: argparse.Namespace, config: Config, env: Env) -> Plan:
    """How much is measured: flags, else by the task and the run's settings."""
    episode = min(env.spec.episode_decisions, 1000)
    given = {name: getattr(options, name) for name in QUICK}
    if options.quick:
        given |= QUICK
    decisions = given["decisions"] or episode + 1
    horizon = given["horizon"] or max(1, min(HORIZON, decisions // 2))
    return Plan(
        copies=given["copies"],
        decisions=decisions,
        starts=given["starts"],
        horizon=horizon,
        steps=min(config.imagination_length, horizon),
        discount=config.discount,
        seed=options.seed,
    )


def _agents(
    run_dir: Path, first: Config, env: Env, which: int | None
) -> list[tuple[dict[str, Any], Agent]]:
    """Agents of a run, with what is said of each.

    Raises:
        UserError: the run is of another task or discount.
    """
    config = read_run(run_dir)
    task = lambda c: (c.env, c.obs, c.action_repeat)
    if task(config) != task(first):
        raise UserError(
            f"--compare {run_dir}: trained on {config.env} ({config.obs}, action "
            f"repeat {config.action_repeat}); allowed: runs of {first.env} "
            f"({first.obs}, {first.action_repeat})"
        )
    if config.discount != first.discount:
        raise UserError(
            f"--compare {run_dir}: trained with --discount-horizon "
            f"{config.discount_horizon}; allowed: {first.discount_horizon}, as returns "
            "of several discounts are not comparable"
        )
    step, agents = load_agents(run_dir, config, env)
    return [
        (
            {
                "run": "/".join(run_dir.resolve().parts[-2:]),
                "step": step,
                "agent": index if config.agents > 1 else None,
                "seed": config.seed + index,
                "imagination length": config.imagination_length,
            },
            agents[index],
        )
        for index in choose_agents(which, config.agents)
    ]


def _measure(
    measure: Measure, agent: Agent, first: Any, trained: int
) -> tuple[dict[str, Any], tuple[Any, Any]]:
    """An agent at its own states, and at those of the first agent."""
    plan = measure.plan
    episodes = measure.record(agent)
    starts = measure.choose(episodes)
    summary = summarize(measure(agent, episodes, starts), plan)
    paired = summary["horizons"]
    if first is None:
        first = episodes, starts
    else:
        shared, starts = first
        at = measure(agent, measure.follow(agent, shared), starts, own=False)
        paired = by_horizon(at.branches, Clusters(starts.copy))
    found = reasons(summary, plan.steps)
    return {
        "summary": summary,
        "paired": paired,
        "reasons": [reason._asdict() for reason in found],
        "verdict": verdict(found),
        "chosen length": choose_length(summary["value"], trained),
    }, first


if __name__ == "__main__":
    sys.exit(main())
