"""When updates stay non-finite: which term it was, and what it takes to see it again.

    RUN/diverged.json    step, seed, terms that are not finite, all values, the key
    RUN/diverged.npz     the batch, the latent state before it, and the key

Of a run with several seeds, in the folder of the seed that diverged.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.rssm import State
from core.world_model import Sequence
from train import cluster
from train.chunk import ChunkOutput, redraw
from train.config import Config
from train.state import RunState


class Diverged(Exception):
    """Losses or gradients stayed non-finite; nothing was saved since."""


class Watch:
    """Notices agents that diverged, and stops the run when every one has.

    An agent whose updates are skipped keeps the parameters of its last good one, so
    others that are trained beside it may go on.

    Args:
        run_dir: where the last update is written down, see `dump`.
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
        self, run: RunState, output: ChunkOutput, step: int, saved: list[int]
    ) -> None:
        """Look at what a chunk brought back, before anything of it is saved.

        Raises:
            Diverged: no agent has had a finite update in the last ones.
        """
        stuck = np.atleast_1d(output.skipped_in_row) >= self._limit
        found = {int(agent) for agent in np.flatnonzero(stuck)}
        words = ""
        for agent in sorted(found - self.diverged):
            words = self._tell(run, output, step, agent)
            if not stuck.all():
                self._warn(f"warning: {words}; the other agents go on")
        self.diverged = found
        if stuck.all():
            raise Diverged(f"{words}; last good checkpoint: {saved[-1:] or 'none'}")

    def _tell(self, run: RunState, output: ChunkOutput, step: int, agent: int) -> str:
        several = self._config.seeds > 1
        folder = self._run_dir / f"seed_{agent}" if several else self._run_dir
        who = f" of seed {self._config.seed + agent}" if several else ""
        words = (
            f"{self._limit} updates in a row{who} had a loss or gradient that "
            f"is not finite, before environment step {step:,}"
        )
        try:
            terms = dump(
                self._config, run, output, directory=folder, step=step, agent=agent
            )
        except OSError as error:
            return f"{words}; its batch was not written ({error})"
        return f"{words}: {', '.join(terms)}; its batch and key are in {folder}"


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
    run: RunState,
    output: ChunkOutput,
    *,
    directory: pathlib.Path,
    step: int,
    agent: int,
) -> list[str]:
    """Write down the last update of a chunk, which was skipped.

    A skipped update changes neither the learner nor the replay, so its batch is drawn
    again exactly.

    Args:
        run: the state after the chunk.
        output: what the chunk brought back, as numpy arrays.
        directory: where to; it exists.
        step: environment step.
        agent: which of several agents, counted from 0.

    Returns:
        The terms that were not finite.

    Raises:
        OSError: the files cannot be written.
    """
    one = lambda x: x[agent] if config.seeds > 1 else x  # noqa: E731
    metrics = {k: float(one(x)) for k, x in output.last_metrics.items()}
    key = one(np.asarray(output.last_key))
    initial, batch = jax.tree.map(
        lambda x: one(cluster.fetch(x)), last_batch(config, run, output)
    )
    terms = failing_terms(metrics)
    if not cluster.leads():
        return terms
    arrays = {name: value for name, value in batch._asdict().items()}
    arrays |= {"initial_deter": initial.deter, "initial_stoch": initial.stoch}
    np.savez(directory / "diverged.npz", key=key, allow_pickle=False, **arrays)
    record: dict[str, Any] = {
        "step": step,
        "seed": config.seed + agent,
        "updates": int(one(output.updates)),
        "skipped_in_row": int(one(output.skipped_in_row)),
        "terms": terms,
        # JSON has no NaN: as words.
        "metrics": {k: v if np.isfinite(v) else str(v) for k, v in metrics.items()},
        "key": key.tolist(),
    }
    (directory / "diverged.json").write_text(json.dumps(record, indent=1) + "\n")
    return terms


def last_batch(
    config: Config, run: RunState, output: ChunkOutput
) -> tuple[State, Sequence]:
    """The latent state and the batch of a chunk's last update, which was skipped."""

    def draw(run: RunState, key_data: jax.Array) -> tuple[State, Sequence]:
        initial, batch, _, _ = redraw(
            config,
            run.learner.agent.model.rssm,
            run.replay,
            # Wider than what is stored, so nothing is lost, and numpy can save it.
            dtype=jnp.dtype("float32"),
            key=jax.random.wrap_key_data(key_data),
        )
        return initial, batch

    if config.seeds > 1:
        draw = jax.vmap(draw)
    return jax.jit(draw)(run, jnp.asarray(output.last_key))
