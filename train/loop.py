"""The training loop: phases of the start, chunks, evaluations, checkpoints, the end."""

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from core.agent import Agent
from envs import VectorEnv
from train.checkpoint.checkpointer import Checkpointer, Restored
from train.checkpoint.disk import (
    agent_bytes,
    check_disk,
    describe_checkpoints,
    kept,
    kept_agents,
)
from train.checkpoint.saved_agents import AgentSaver
from train.checkpoint.warm_start import WarmStart, apply_warm_start, read_warm_start
from train.config import Config
from train.errors import logdir_errors
from train.placement.compiling import Compiling
from train.placement.measurements import evaluate, measure_trust, show_open_loop
from train.placement.placement import Placement
from train.placement.programs import Programs
from train.processes import coordination
from train.processes.signals import StopRequest
from train.program.chunk import ChunkOutput
from train.program.divergence import Diverged as Diverged
from train.program.divergence import Watch
from train.program.penalty import Penalty
from train.program.state import RunState
from train.run_dir import record
from train.run_dir.metrics.logger import Logger, Silent, SinkFactory, TensorBoard
from train.run_dir.metrics.wandb import WandB
from train.run_dir.provenance import provenance

# After so many updates in a row without a finite loss and gradient, a run has diverged.
MAX_SKIPPED_IN_ROW = 50


def train(
    config: Config,
    env: VectorEnv,
    run_dir: Path,
    penalty: Penalty,
    placement: Placement | None = None,
    *,
    began: float | None = None,
) -> tuple[RunState, int]:
    """Train to `config.steps` environment steps, or until a stop signal.

    The caller holds the run directory's lock.

    Args:
        placement: the devices; those that the configuration asks for by default.
        began: when the program was started, by `time.monotonic()`; now by default.

    Returns:
        The final state and the exit code: 0; 1 where one of several agents diverged,
        or the end could not be saved; 130 after Ctrl-C, 143 after another stop signal.

    Raises:
        Diverged: too many updates in a row were not finite, of every agent.
        UserError: the directory's checkpoints do not fit this configuration.
    """
    began = time.monotonic() if began is None else began
    programs = Programs(config, env, penalty, placement)
    template = programs.template
    keep = kept(config, template)
    with coordination.leader_first():
        # One agent more than is kept is there while it is written.
        agents = (kept_agents(config) + 1) * agent_bytes(template)
        check_disk(run_dir, template, keep + len(config.kept_steps), agents)
    warn = None if coordination.leads() else lambda _: None
    checkpoints = Checkpointer(run_dir, keep, warn=warn)
    agents = AgentSaver(run_dir, warn=warn)
    restored = checkpoints.restore(template) if config.resume != "never" else None
    warm = None if restored else read_warm_start(config, template)
    with coordination.leader_first():
        open_logger = _open_log(config, run_dir, _logged_until(restored))
    with StopRequest() as stop, open_logger as logger:
        stop.say = logger.say
        stop.left = lambda: _newest(checkpoints)
        if restored is None and coordination.leads() and (line := agents.set_aside()):
            logger.say(line)
        for line in describe_checkpoints(config, template):
            logger.say(line)
        watch = Watch(config, run_dir, logger.say, limit=MAX_SKIPPED_IN_ROW)
        session = _Session(config, programs, checkpoints, agents, logger, stop)
        try:
            run = session.begin(restored, warm)
            if session.goes_on(run):
                session.warm_up(run)
            run = session.learn(run, watch, began)
        finally:
            session.end()
        logger.say(session.last_words(run, run_dir))
    bad = watch.diverged or session.unsaved
    return run, stop.exit_code or int(bool(bad))


def _logged_until(restored: Restored | None) -> int | None:
    """The last step whose lines of the log stand; None for a new run.

    A checkpoint from before the first update was saved while the run was stopped, and
    the evaluation of the untrained agent, which has the same step, is repeated.
    """
    if restored is None:
        return None
    return restored.step - untrained(restored.tree)


def _newest(checkpoints: Checkpointer) -> str:
    saved = checkpoints.steps()
    if not saved:
        return "there was no checkpoint yet, and nothing is saved"
    return f"the newest checkpoint is that of environment step {saved[-1]:,}"


def _open_log(config: Config, run_dir: Path, restored_step: int | None) -> Logger:
    """The log, and beside it the configuration and a line on this start."""
    if not coordination.leads():
        return Silent()
    with logdir_errors(run_dir):
        record.write(config, run_dir / "config.json")
        with (run_dir / "starts.jsonl").open("a") as file:
            file.write(json.dumps(provenance()) + "\n")
        sinks: list[SinkFactory] = [TensorBoard]
        if config.wandb:
            settings = record.to_dict(config)
            sinks.append(partial(WandB, project=config.wandb, config=settings))
        return Logger(
            run_dir,
            total_steps=config.steps,
            agents=[variant.folder for variant in config.variants],
            restored_step=restored_step,
            sinks=sinks,
        )


class _Untrained(NamedTuple):
    """An agent before its first update, at `step`, and how smooth its maps are."""

    step: int
    agent: Agent
    trust: dict[str, Any]


class _Session:
    """One start of a run, from the first decision or a checkpoint to its end or a stop.

    Attributes:
        unsaved: the run's state holds something that no checkpoint does.
    """

    def __init__(
        self,
        config: Config,
        programs: Programs,
        checkpoints: Checkpointer,
        agents: AgentSaver,
        logger: Logger,
        stop: StopRequest,
    ) -> None:
        self._config, self._programs = config, programs
        self._checkpoints, self._agents = checkpoints, agents
        self._logger, self._stop = logger, stop
        self.unsaved = False
        self._compiling = Compiling()
        self._untrained: _Untrained | None = None

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Tell the user what goes on, and that a stop signal waits for its end."""
        usual, self._stop.doing = self._stop.doing, name
        with self._logger.phase(name):
            yield
        self._stop.doing = usual

    def begin(self, restored: Restored | None, warm: WarmStart | None) -> RunState:
        """The restored state, or a new one with the replay buffer filled.

        Args:
            warm: initial parameters of another run, for a new state.

        A stop signal while acting is compiled leaves the replay buffer empty.
        """
        # What takes longest to compile, beside all that comes before it is called; then
        # what no update waits for.
        programs, template = self._programs, self._programs.template
        self._compiling.begin(programs.chunk, template)
        agent, keys = template.learner.agent, programs.keys(1)
        self._compiling.begin(programs.evaluate, agent, keys)
        if restored:
            self._logger.say(f"resuming at environment step {restored.step:,}")
            run = restored.tree
        else:
            run = self._fill(warm)
        # Restored arrays are committed to a device, new ones are not, and each kind
        # would compile a chunk of its own: a resumed run could not use the cache.
        if jax.process_count() == 1:
            template = self._programs.template
            run = jax.device_put(run, jax.tree.map(lambda x: x.sharding, template))
        return run

    def _fill(self, warm: WarmStart | None) -> RunState:
        programs = self._programs
        with self._phase("compiling acting"):
            keys = programs.keys(0)
            programs.init.prepare(keys)
            run = programs.init(keys)._replace(sweep=programs.swept())
            if warm:
                self._logger.say(warm.line)
                run = apply_warm_start(run, warm)
            programs.prefill.prepare(run)
        if self._stop.agreed():
            return run
        with self._phase("filling the replay buffer"):
            run, episodes = jax.block_until_ready(programs.prefill(run))
        self.unsaved = True
        corrupt = int(np.sum(coordination.fetch(episodes.corrupt)))
        if corrupt:
            self._logger.say(
                f"warning: the simulation diverged (NaN or Inf) in {corrupt:,} of the "
                "first steps; such corrupt steps are never learned from"
            )
        return run

    def warm_up(self, run: RunState) -> None:
        """Compile the update; keep an agent that is untrained until it is evaluated."""
        programs, step = self._programs, env_steps(self._config, run)
        if programs.trust is not None and not self._stop.agreed():
            with self._phase("compiling the measure of smoothness"):
                programs.trust.prepare(
                    run.learner.agent, run.replay, programs.keys(1 + step)
                )
        if untrained(run) and not self._stop.agreed():
            # A copy: the update takes the memory of the state it is given.
            copied = lambda x: jax.device_put(x, x.sharding, may_alias=False)
            agent = jax.tree.map(copied, run.learner.agent)
            trust = measure_trust(programs, run, step)
            self._untrained = _Untrained(step, agent, trust)
        if not self._stop.agreed():
            with self._phase("compiling the update"):
                self._compiling.finish(programs.chunk, run)

    def _evaluate_untrained(self, agent: Agent) -> None:
        """Compile the evaluation, and log that of the agent before its first update.

        It comes after the first updates, which need not wait for its compilation, and
        before anything else is logged.

        Args:
            agent: any; for the shapes.
        """
        programs = self._programs
        with self._phase("compiling the evaluation"):
            self._compiling.finish(programs.evaluate, agent, programs.keys(1))
        if self._untrained is None:
            return
        step, agent, trust = self._untrained
        with self._phase("evaluating the untrained agent"):
            metrics = evaluate(programs, agent, step, self._logger)
        self._logger.write(step, metrics | trust)
        self._untrained = None

    def goes_on(self, run: RunState) -> bool:
        """Whether there are steps left, and nobody asked to stop."""
        left = env_steps(self._config, run) < self._config.steps
        return not self._stop.agreed() and left

    def learn(self, run: RunState, watch: Watch, began: float) -> RunState:
        """Chunks until the end or a stop, and the checkpoint after the last."""
        config, logger = self._config, self._logger
        every = config.keep_every or 0
        step, updates = env_steps(config, run), count(run.learner.updates)
        goes_on, first, keep = self.goes_on(run), True, False
        if goes_on:
            logger.progress(step, updates)
        while goes_on:
            with self._phase("first updates") if first else contextlib.nullcontext():
                run, output = self._programs.chunk(run)
                output = jax.tree.map(coordination.fetch, output)
            if first:
                seconds = time.monotonic() - began
                logger.say(f"first updates done {seconds:.0f} s after the start")
                self._evaluate_untrained(run.learner.agent)
            first, self.unsaved = False, True
            before, step = step, env_steps(config, run)
            updates = int(np.max(output.updates))
            final = step >= config.steps
            watch.look(run, output, step, self._checkpoints.steps(), final=final)
            metrics = log_metrics(config, output)
            if crossed(before, step, config.eval_every) or final:
                agent = run.learner.agent
                metrics |= evaluate(self._programs, agent, step, logger)
                metrics |= show_open_loop(self._programs, run, step, logger)
            if config.trust_every and (
                crossed(before, step, config.trust_every) or final
            ):
                metrics |= measure_trust(self._programs, run, step)
            logger.write(step, metrics)
            logger.progress(step, updates)
            # Asked for once, so that no signal ends the loop without a checkpoint.
            goes_on = self.goes_on(run)
            keep = any(before < at <= step for at in config.kept_steps)
            due = keep or crossed(before, step, config.save_every)
            forever = bool(every) and crossed(before, step, every)
            if due or forever or not goes_on:
                # Before the checkpoint: what resumes from it has the agents up to it.
                self._agents.save(step, run, forever=forever)
            if goes_on and due:
                self._save(run, step, updates, forever=keep)
                if self.unsaved:
                    logger.say("training goes on, and the next save will try again")
        if self.unsaved:
            self._save(run, step, updates, forever=keep)
        return run

    def _save(
        self, run: RunState, step: int, updates: int, *, forever: bool = False
    ) -> None:
        facts = {"updates": updates} | ({"forever": True} if forever else {})
        saved = self._checkpoints.save(step, run, facts)
        self.unsaved = not saved

    def end(self) -> None:
        """Wait for a compiler that is still at work."""
        if self._compiling.stop():
            with self._phase("waiting for the compiler to end"):
                self._compiling.wait()

    def last_words(self, run: RunState, run_dir: Path) -> str:
        """How the run ended, for the user."""
        step, number = env_steps(self._config, run), self._stop.number
        if self.unsaved:
            last = self._checkpoints.steps()
            self._logger.say(
                f"NOT SAVED: what was trained after environment step "
                f"{last[-1] if last else 0:,} is lost; make room, and give the same "
                "command again"
            )
        if number is None:
            return f"finished at environment step {step:,}; run {run_dir}"
        stopped = f"stopped by {signal.Signals(number).name}"
        if count(run.replay.filled) == 0:
            return (
                f"{stopped} before the first decision: there was nothing to save, and "
                "the same command begins anew"
            )
        stopped += f" at environment step {step:,}"
        if untrained(run):
            stopped += ", before the first update, with the replay buffer filled"
        return f"{stopped}; the same command resumes"


def log_metrics(config: Config, output: ChunkOutput) -> dict[str, Any]:
    """The log's names for what a chunk brought back."""
    metrics: dict[str, Any] = {
        f"train/{name}": value for name, value in output.metrics.items()
    }
    episodes = output.episodes
    if np.all(episodes.count > 0):
        metrics["episode/return"] = episodes.return_sum / episodes.count
    metrics["episode/count"] = episodes.count
    metrics["episode/corrupt_rows"] = episodes.corrupt
    metrics["train/updates"] = output.updates
    metrics["train/skipped_updates"] = output.skipped
    metrics["decisions"] = output.decisions
    return metrics


def env_steps(config: Config, run: RunState) -> int:
    """Environment (control) steps taken by one agent, all its environments together."""
    return count(run.collector.decisions) * config.action_repeat


def count(counter: jax.Array) -> int:
    """A counter of one agent; of several, the largest."""
    return int(np.max(coordination.fetch(counter)))


def untrained(run: RunState) -> bool:
    """Whether no update was tried yet."""
    return count(run.learner.updates) + count(run.learner.skipped) == 0


def crossed(before: int, after: int, interval: int) -> bool:
    """Whether a multiple of `interval` lies in (before, after]."""
    return after // interval > before // interval
