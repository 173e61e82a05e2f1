"""The training loop: chunks, evaluations, checkpoints, and stopping in good order."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs import VectorEnv
from train import cluster, record
from train.checkpoint import Checkpointer, check_disk, kept
from train.chunk import ChunkOutput, Schedule, make_chunk, make_prefill
from train.config import Config
from train.divergence import Diverged as Diverged
from train.divergence import Watch
from train.errors import logdir_errors
from train.evaluation import make_evaluate
from train.leaves import tree_bytes
from train.log import Logger, Silent
from train.openloop import encode, make_open_loop
from train.placement import Placement
from train.provenance import provenance
from train.start import Penalty
from train.state import RunState, compute_dtype, init_run
from train.stop import StopRequest

# After so many updates in a row without a finite loss and gradient, a run has diverged.
MAX_SKIPPED_IN_ROW = 50


class Programs:
    """The compiled functions of one run; with several seeds each is vmapped.

    `template` is the run's state as shapes, each with where its array belongs.
    """

    def __init__(
        self,
        config: Config,
        env: VectorEnv,
        penalty: Penalty,
        placement: Placement | None = None,
    ) -> None:
        self.config = config
        self._placement = place = placement or Placement.of(config)
        schedule = Schedule.of(config)
        dtype = compute_dtype(config, jax.default_backend())
        evaluation = VectorEnv(env.env, config.eval_episodes)
        init = lambda key: init_run(config, env, key)  # noqa: E731
        shapes = place.shapes(init, self.keys(0))
        self.template = place.template(shapes)
        state = place.shardings(shapes)
        self.init = place.compile(init, out=state)
        self.prefill = place.compile(
            make_prefill(config, env, schedule), donate=True, out=(state, None)
        )
        self.chunk = place.compile(
            make_chunk(config, env, schedule, penalty.options, dtype),
            donate=True,
            out=(state, None),
        )
        self.evaluate = place.compile(make_evaluate(evaluation))
        self.open_loop = None
        if config.obs == "pixels":
            self.open_loop = place.compile(make_open_loop(config, schedule))

    def keys(self, salt: int) -> jax.Array:
        """A key for each seed, from the seed and `salt` alone."""
        key = lambda seed: jax.random.fold_in(jax.random.key(seed), salt)  # noqa: E731
        first, count = self.config.seed, self.config.seeds
        if count == 1:
            return self._placement.put(key(first))
        keys = jnp.stack([key(seed) for seed in range(first, first + count)])
        return self._placement.put(keys, divided=True)


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
    keep = kept(template)
    with cluster.leader_first():
        check_disk(run_dir, template, keep)
    warn = None if cluster.leads() else lambda _: None
    checkpoints = Checkpointer(run_dir, keep, warn=warn)
    restored = checkpoints.restore(template) if config.resume != "never" else None
    with cluster.leader_first():
        open_logger = _open_log(config, run_dir, restored.step if restored else None)
    with StopRequest() as stop, open_logger as logger:
        stop.say = logger.say
        logger.say(
            f"checkpoints  {tree_bytes(template) / 2**20:,.0f} MiB each, replay "
            f"included; the newest {keep} are kept"
        )
        if restored:
            logger.say(f"resuming at environment step {restored.step:,}")
            run = restored.tree
        else:
            logger.say("filling the replay")
            run, _ = programs.prefill(programs.init(programs.keys(0)))
        # Restored arrays are committed to a device, new ones are not, and each kind
        # would compile a chunk of its own: a resumed run could not use the cache.
        if jax.process_count() == 1:
            run = jax.device_put(run, jax.tree.map(lambda x: x.sharding, template))
        logger.progress(
            env_steps(config, run), restored.metadata["updates"] if restored else 0
        )
        watch = Watch(config, run_dir, logger.say, limit=MAX_SKIPPED_IN_ROW)
        run, saved = _loop(
            config, programs, run, checkpoints, logger, stop, began, watch
        )
        step = env_steps(config, run)
        if not saved:
            last = checkpoints.steps()
            logger.say(
                f"NOT SAVED: what was trained after environment step "
                f"{last[-1] if last else 0:,} is lost; make room, and give the same "
                "command again"
            )
        if stop.number is not None:
            name = signal.Signals(stop.number).name
            logger.say(
                f"stopped by {name} at environment step {step:,}; "
                "the same command resumes"
            )
        else:
            logger.say(f"finished at environment step {step:,}; run {run_dir}")
    bad = watch.diverged or not saved
    return run, stop.exit_code or int(bool(bad))


def _open_log(config: Config, run_dir: Path, restored_step: int | None) -> Logger:
    """The log, and beside it the configuration and a line on this start."""
    if not cluster.leads():
        return Silent()
    with logdir_errors(run_dir):
        record.write(config, run_dir / "config.json")
        with (run_dir / "starts.jsonl").open("a") as file:
            file.write(json.dumps(provenance()) + "\n")
        return Logger(
            run_dir,
            total_steps=config.steps,
            seeds=config.seeds,
            restored_step=restored_step,
        )


def _loop(
    config: Config,
    programs: Programs,
    run: RunState,
    checkpoints: Checkpointer,
    logger: Logger,
    stop: StopRequest,
    began: float,
    watch: Watch,
) -> tuple[RunState, bool]:
    """The final state, and whether it is saved."""
    step = env_steps(config, run)
    first = saved = True
    stopping = stop.agreed()
    while step < config.steps and not stopping:
        run, output = programs.chunk(run)
        output = jax.tree.map(cluster.fetch, output)
        if first:
            logger.say(
                f"first updates done {time.monotonic() - began:.0f} s after the start"
            )
            first = False
        before, step = step, env_steps(config, run)
        updates = int(np.max(output.updates))
        final = step >= config.steps
        watch.look(run, output, step, checkpoints.steps(), final=final)
        metrics = log_metrics(config, output)
        if crossed(before, step, config.eval_every) or final:
            metrics |= evaluate(programs, run, step)
            metrics |= show_open_loop(programs, run, step, logger)
        logger.write(step, metrics)
        logger.progress(step, updates)
        due = crossed(before, step, config.save_every)
        # Asked for once, so that no signal ends the loop without a checkpoint.
        stopping = stop.agreed()
        if due or final or stopping:
            saved = checkpoints.save(step, run, {"updates": updates})
            if not (saved or final or stopping):
                logger.say("training goes on, and the next save will try again")
    return run, saved


def evaluate(programs: Programs, run: RunState, step: int) -> dict[str, Any]:
    """Returns of separate episodes played with the mode of the policy."""
    # The key depends on the step alone, so that a resumed run repeats it.
    returns = programs.evaluate(run.learner.agent, programs.keys(1 + step))
    returns = cluster.fetch(returns)
    return {
        "eval/return_mean": returns.mean(-1),
        "eval/return_std": returns.std(-1),
        "eval/return_min": returns.min(-1),
    }


def show_open_loop(
    programs: Programs, run: RunState, step: int, logger: Logger
) -> dict[str, Any]:
    """Where the agent sees images: a film of what it expected to see, and its error."""
    if programs.open_loop is None:
        return {}
    films, error = programs.open_loop(
        run.learner.agent, run.replay, programs.keys(1 + step)
    )
    films = cluster.fetch(films)
    each = films if programs.config.seeds > 1 else films[None]
    logger.write_gifs(step, "openloop", [encode(film) for film in each])
    return {"eval/openloop_error": cluster.fetch(error)}


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
    return int(np.max(cluster.fetch(run.collector.decisions))) * config.action_repeat


def crossed(before: int, after: int, interval: int) -> bool:
    """Whether a multiple of `interval` lies in (before, after]."""
    return after // interval > before // interval
