"""What `train.placement.programs` compiles: prefill, and act → replay → updates."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from core.penalty import PenaltyOptions
from core.rssm import RSSM, State
from core.transition import Transition
from envs import VectorEnv
from train.config import Config
from train.config.sweep import with_values
from train.errors import UserError
from train.program import replay
from train.program.collect import Episodes, collect
from train.program.latent import latents
from train.program.state import Learner, RunState
from train.program.update import Metrics, UpdateOptions, update


class Schedule(NamedTuple):
    """How acting and learning alternate, in rows (one step of every environment).

    A cycle is `rows` rows followed by `updates` updates; a chunk is `cycles` of them,
    run as one program.
    """

    rows: int
    updates: int
    cycles: int
    prefill_rows: int

    @classmethod
    def of(cls, config: Config) -> "Schedule":
        """The schedule with the configured ratio of replayed steps to decisions.

        The ratio is met to within 1 %; a chunk covers about `log_every` environment
        steps.

        Raises:
            UserError: the run would end before its first update.
        """
        exact = Fraction(config.train_ratio) * Fraction(
            config.num_envs, config.batch_size * config.batch_length
        )
        row_steps = config.num_envs * config.action_repeat
        for limit in range(1, 101):
            per_row = exact.limit_denominator(limit)
            if abs(per_row - exact) <= exact / 100:
                rows, updates = per_row.denominator, per_row.numerator
                break
        else:  # fewer than one update in a hundred rows
            rows, updates = round(1 / exact), 1
            if rows * row_steps > config.steps:
                least = config.train_ratio * rows * row_steps / config.steps
                raise UserError(
                    f"--train-ratio {config.train_ratio:g}: less than one update in "
                    f"--steps {config.steps}; allowed: at least {least:.2g}"
                )
        cycles = max(1, round(min(config.log_every, config.steps) / rows / row_steps))
        prefill = math.ceil(config.learning_starts / config.num_envs)
        return cls(rows, updates, cycles, prefill)


class ChunkOutput(NamedTuple):
    """What one chunk leaves for the log."""

    metrics: Metrics
    episodes: Episodes
    decisions: Array
    updates: Array
    skipped: Array
    skipped_in_row: Array
    last_key: Array
    """Key data of the last update, for `redraw`."""
    last_metrics: Metrics
    """The last update's own metrics, which the means leave out if not finite."""


def make_prefill(
    config: Config, env: VectorEnv, schedule: Schedule
) -> Callable[[RunState], tuple[RunState, Episodes]]:
    """A function that fills the replay with decisions of the untrained policy, or with
    random ones."""

    def prefill(run: RunState) -> tuple[RunState, Episodes]:
        key, collect_key = jax.random.split(run.key)
        (collector, buffer), episodes = collect(
            config,
            env,
            run.learner.agent,
            (run.collector, run.replay),
            jax.random.split(collect_key, schedule.prefill_rows),
            random=config.prefill_policy == "random",
        )
        return run._replace(collector=collector, replay=buffer, key=key), episodes

    return prefill


def make_learn(
    config: Config, penalty: PenaltyOptions | None, dtype: jnp.dtype
) -> Callable[..., tuple[tuple[Learner, replay.Replay], Metrics]]:
    """A function of (learner, replay) and a key: one update on a batch of its own."""
    context = config.replay_context

    def learn(carry: tuple[Learner, replay.Replay], key: PRNGKeyArray):
        learner, buffer = carry
        initial, batch, window, update_key = redraw(
            config, learner.agent.model.rssm, buffer, dtype=dtype, key=key
        )
        learner, states, metrics = update(
            config,
            learner,
            initial,
            batch,
            key=update_key,
            options=UpdateOptions(penalty, dtype),
        )
        if context:
            window = window._replace(time=window.time[context:])
            learned = learner.skipped_in_row == 0
            with jax.named_scope("replay"):
                latent = replay.pack_latent(states, latents(config))
                buffer = replay.write_latents(buffer, window, latent, learned)
        return (learner, buffer), metrics

    return learn


def make_chunk(
    config: Config,
    env: VectorEnv,
    schedule: Schedule,
    penalty: PenaltyOptions | None,
    dtype: jnp.dtype,
) -> Callable[[RunState], tuple[RunState, ChunkOutput]]:
    """A function that runs `schedule.cycles` cycles of acting and learning."""

    def cycle(run: RunState, _: None):
        learn = make_learn(with_values(config, run.sweep or {}), penalty, dtype)
        key, collect_key, learn_key = jax.random.split(run.key, 3)
        (collector, buffer), episodes = collect(
            config,
            env,
            run.learner.agent,
            (run.collector, run.replay),
            jax.random.split(collect_key, schedule.rows),
        )
        keys = jax.random.split(learn_key, schedule.updates)
        (learner, buffer), metrics = jax.lax.scan(learn, (run.learner, buffer), keys)
        last = jax.random.key_data(keys[-1]), jax.tree.map(lambda x: x[-1], metrics)
        metrics = jax.tree.map(finite_mean, metrics)
        run = RunState(learner, collector, buffer, key, run.sweep)
        return run, (metrics, episodes, last)

    def chunk(run: RunState) -> tuple[RunState, ChunkOutput]:
        run, (metrics, episodes, last) = jax.lax.scan(
            cycle, run, None, length=schedule.cycles
        )
        return run, ChunkOutput(
            jax.tree.map(finite_mean, metrics),
            jax.tree.map(jnp.sum, episodes),
            run.collector.decisions,
            run.learner.updates,
            run.learner.skipped,
            run.learner.skipped_in_row,
            *jax.tree.map(lambda x: x[-1], last),
        )

    return chunk


def redraw(
    config: Config,
    rssm: RSSM,
    buffer: replay.Replay,
    *,
    dtype: jnp.dtype,
    key: PRNGKeyArray,
) -> tuple[State, Transition, replay.Window, PRNGKeyArray]:
    """The batch of the update with this key, as `draw_batch`, and the loss's key.

    After a chunk whose last update was skipped, its `last_key` gives that update's
    batch again: a skipped update changes neither the learner nor the replay.
    """
    sample_key, update_key = jax.random.split(key)
    return *draw_batch(config, rssm, buffer, dtype=dtype, key=sample_key), update_key


@jax.named_scope("replay")
def draw_batch(
    config: Config,
    rssm: RSSM,
    buffer: replay.Replay,
    *,
    dtype: jnp.dtype,
    key: PRNGKeyArray,
) -> tuple[State, Transition, replay.Window]:
    """A batch of trajectories, the latent state before it, and its position.

    With `replay_context` the state is the one stored at the window's first step, which
    is not part of the batch.
    """
    context = config.replay_context
    rows, window = replay.sample(
        buffer,
        batch=config.batch_size,
        length=config.batch_length + context,
        key=key,
    )
    batch = jax.tree.map(lambda x: x[context:], rows)
    batch = batch._replace(is_corrupt=None, deter=None, stoch=None)
    if context:
        assert rows.deter is not None and rows.stoch is not None
        latent = rows.deter[0], rows.stoch[0]
        initial = replay.unpack_latent(*latent, rssm.latents, dtype)
    else:
        initial = rssm.initial(config.batch_size)
        # From zeros, the action before the first row means nothing.
        batch = batch._replace(is_first=batch.is_first.at[0].set(True))
    return initial, batch, window


def finite_mean(x: Float[Array, " updates"]) -> Float[Array, ""]:
    """Mean over the updates that were not skipped; NaN if all were."""
    finite = jnp.isfinite(x)
    return jnp.sum(jnp.where(finite, x, 0.0)) / jnp.sum(finite)
