"""When all updates diverge: the cause in words, and a dump of the last batch.

    RUN/diverged.json    step, seed, cause, terms that are not finite, all values, key
    RUN/diverged.npz     the batch, the latent state before it, and the key

With several seeds the files are in the folder of the seed that diverged.

There are two causes. The learning diverged: a loss or a gradient is NaN or Inf on sound
data. Or the simulation did: the replay buffer never gives out *corrupt steps* (the
environment returned NaN or Inf), and holds so many that no sequence without one is left
to learn from; `train.program.replay.sample` then makes the update skip itself.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from core.rssm import State
from core.transition import Transition
from train.config import Config
from train.errors import counted
from train.processes import coordination
from train.program.chunk import ChunkOutput, redraw
from train.program.state import RunState


class Diverged(Exception):
    """No agent makes updates any more; nothing was saved since they stopped."""


class LastBatch(NamedTuple):
    """What the last update of a chunk was given, drawn again (see `last_batch`)."""

    initial: State
    batch: Transition
    sound: Bool[Array, "*seeds"]
    """Whether any sequence without a corrupt step was drawn."""
    corrupt: Int[Array, "*seeds"]
    """Corrupt steps in the replay buffer."""
    stored: Int[Array, "*seeds"]
    """All steps in the replay buffer."""


class Watch:
    """Notices agents that diverged, and stops the run when every one has.

    An agent whose updates are skipped keeps the parameters of its last good one, so
    others that are trained beside it may go on.

    Args:
        run_dir: directory of the files that `dump` writes.
        warn: takes a line for the user.
        limit: skipped updates in a row that mean divergence.
    """

    def __init__(
        self,
        config: Config,
        run_dir: pathlib.Path,
        warn: Callable[[str], None],
        *,
        limit: int,
    ) -> None:
        self.diverged: set[int] = set()
        """Agents that are not learning now."""
        self._config, self._run_dir, self._warn = config, run_dir, warn
        self._limit = limit

    def look(
        self,
        run: RunState,
        output: ChunkOutput,
        step: int,
        saved: list[int],
        *,
        final: bool = False,
    ) -> None:
        """Look at what a chunk brought back, before anything of it is saved.

        Args:
            step: environment steps taken by one agent.
            saved: steps of the checkpoints that exist.
            final: this was the run's last chunk. A run without a single update has
                then diverged, however few were tried.

        Raises:
            Diverged: no agent has had a finite update in the last ones.
        """
        in_row = np.atleast_1d(output.skipped_in_row)
        stuck = in_row >= self._limit
        if final:
            stuck |= (np.atleast_1d(output.updates) == 0) & (in_row > 0)
        found = {int(agent) for agent in np.flatnonzero(stuck)}
        words = ""
        for agent in sorted(found - self.diverged):
            words = self._tell(run, output, step, agent)
            if not stuck.all():
                self._warn(f"warning: {words}; the other agents go on")
        self.diverged = found
        if stuck.all():
            last = f"of step {saved[-1]:,}" if saved else "none"
            raise Diverged(f"{words}; last good checkpoint: {last}")

    def _tell(self, run: RunState, output: ChunkOutput, step: int, agent: int) -> str:
        several, own = self._config.agents > 1, self._config.variants[agent]
        folder = self._run_dir / own.folder if several else self._run_dir
        who = f" of seed {self._config.seed + own.seed}" if several else ""
        who += f" with {own.label}" if own.label else ""
        in_row = int(np.atleast_1d(output.skipped_in_row)[agent])
        updates = f"{counted(min(in_row, self._limit), 'update')} in a row{who}"
        drawn = jax.tree.map(coordination.fetch, last_batch(self._config, run, output))
        if several:
            drawn = jax.tree.map(lambda x: x[agent], drawn)
        where = f"their last batch and key are in {folder}"
        try:
            terms = dump(
                self._config, output, drawn, directory=folder, step=step, agent=agent
            )
        except OSError as error:
            terms = failing_terms(_metrics(output, agent))
            where = f"their last batch was not written ({error})"
        corrupt = (
            f"the simulation diverged (NaN or Inf) in {drawn.corrupt:,} of "
            f"{drawn.stored:,} steps in the replay buffer"
        )
        if not drawn.sound:
            length = self._config.batch_length + self._config.replay_context
            return (
                f"{updates} before environment step {step:,} were skipped because of "
                f"corrupt steps: {corrupt}, and no sequence of {length} sound steps "
                "was left to learn from; check the environment's dynamics, "
                f"observation and reward; {where}"
            )
        words = (
            f"{updates} had a loss or gradient that is not finite (NaN or Inf), before "
            f"environment step {step:,}: {', '.join(terms)}; {where}"
        )
        return (
            f"{words}; {corrupt}, which batches leave out" if drawn.corrupt else words
        )


def failing_terms(metrics: Mapping[str, float]) -> list[str]:
    """The terms of an update that are not finite, the sum only where no other is.

    Losses come first, then what else is not finite; the gradient's norm alone means
    that every loss is finite and a derivative is not.
    """
    bad = sorted(name for name, value in metrics.items() if not np.isfinite(value))
    losses = [n for n in bad if n.startswith("loss/") and n != "loss/total"]
    others = [n for n in bad if n not in losses and n != "loss/total"]
    if losses or others != ["gradient_norm"]:
        others = [n for n in others if n != "gradient_norm"]
    return losses + others or bad


def dump(
    config: Config,
    output: ChunkOutput,
    drawn: LastBatch,
    *,
    directory: pathlib.Path,
    step: int,
    agent: int,
) -> list[str]:
    """Write down the last update of a chunk, which was skipped.

    Args:
        output: what the chunk brought back, as numpy arrays.
        drawn: the batch of that update, of this agent alone, as numpy arrays.
        directory: where to; it exists.
        step: environment step.
        agent: which of several agents, counted from 0.

    Returns:
        The terms that were not finite.

    Raises:
        OSError: the files cannot be written.
    """
    several, own = config.agents > 1, config.variants[agent]
    one = lambda x: np.asarray(x)[agent] if several else np.asarray(x)
    metrics = _metrics(output, agent)
    terms = failing_terms(metrics)
    if not coordination.leads():
        return terms
    key, initial = one(output.last_key), drawn.initial
    batch = drawn.batch._asdict()
    arrays = {name: value for name, value in batch.items() if value is not None}
    arrays |= {"initial_deter": initial.deter, "initial_stoch": initial.stoch}
    np.savez(directory / "diverged.npz", key=key, allow_pickle=False, **arrays)
    record: dict[str, Any] = {
        "step": step,
        "seed": config.seed + own.seed,
        "sweep": own.values,
        "updates": int(one(output.updates)),
        "skipped_in_row": int(one(output.skipped_in_row)),
        "cause": "learning" if drawn.sound else "corrupt steps",
        "corrupt_steps": int(drawn.corrupt),
        "stored_steps": int(drawn.stored),
        "terms": terms,
        # JSON has no NaN: as words.
        "metrics": {k: v if np.isfinite(v) else str(v) for k, v in metrics.items()},
        "key": key.tolist(),
    }
    (directory / "diverged.json").write_text(json.dumps(record, indent=1) + "\n")
    return terms


def _metrics(output: ChunkOutput, agent: int) -> dict[str, float]:
    """The last update's metrics, of one agent."""
    return {
        name: float(np.atleast_1d(value)[agent])
        for name, value in output.last_metrics.items()
    }


def last_batch(config: Config, run: RunState, output: ChunkOutput) -> LastBatch:
    """What the last update of a chunk was given, if that update was skipped.

    A skipped update changes neither the learner nor the replay buffer, so its batch is
    drawn again exactly. With several seeds every array has a leading axis of agents.
    """

    def draw(run: RunState, key_data: jax.Array) -> LastBatch:
        buffer = run.replay
        initial, batch, window, _ = redraw(
            config,
            run.learner.agent.model.rssm,
            buffer,
            # Wider than what is stored, so nothing is lost, and numpy can save it.
            dtype=jnp.dtype("float32"),
            key=jax.random.wrap_key_data(key_data),
        )
        assert buffer.rows.is_corrupt is not None
        corrupt = jnp.sum(buffer.rows.is_corrupt, dtype=jnp.int32)
        stored = buffer.filled * buffer.rows.is_corrupt.shape[1]
        return LastBatch(initial, batch, jnp.any(window.usable), corrupt, stored)

    if config.agents > 1:
        draw = jax.vmap(draw)
    return jax.jit(draw)(run, jnp.asarray(output.last_key))
