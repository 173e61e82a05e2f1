"""The programs of the throughput benchmark: an update, its parts, the loop."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

import envs
from benchmarks.measure.program import Program, build, donated, repeat, repeated
from benchmarks.overhead.steps import Bench
from core.behavior.imagination import ActorCritic, imagine
from core.networks.layers import cast
from core.penalty import PenaltyOptions
from core.world_model import world_model_loss
from train.config import Config
from train.placement.placement import Placement
from train.preflight.setup import make_env
from train.program import replay
from train.program.chunk import Schedule, draw_batch, make_chunk
from train.program.collect import collect
from train.program.penalty import choose_penalty
from train.program.state import Learner, compute_dtype, init_run
from train.program.update import (
    UpdateOptions,
    total_loss,
    update,
)


class Update:
    """One configuration's update and its parts, each as a program of `times` repeats.

    Repeats run in one program, as in training, to amortize its setup. Each repeat has
    its own key, so that XLA cannot hoist it out of the loop.
    """

    def __init__(self, config: Config, times: int) -> None:
        self.config, self.times = config, times
        self.bench = Bench(config)
        self.penalty = choose_penalty(config, jax.default_backend()).options

    def whole(
        self,
        penalty: PenaltyOptions | None,
        flags: Mapping[str, Any] | None = None,
        *,
        heads_at_once: bool | None = None,
    ) -> Program:
        """Loss, gradient and optimizer step, compiled with XLA's `flags`."""
        step = self._update(penalty, heads_at_once)
        return repeat(step, self.bench.learner, self.times, flags)

    def seeds(self, count: int) -> Program:
        """`whole` for `count` agents, placed and mapped as in training."""
        if count == 1:
            return self.whole(self.penalty)
        place = Placement.of(dataclasses.replace(self.config, seeds=count))
        learners = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (count, *x.shape)), self.bench.learner
        )
        keys = jax.random.split(jax.random.key(2), count)
        learners, keys = place.put((learners, keys), divided=True)
        all_agents = place.mapped(repeated(self._update(self.penalty), self.times))
        with place.active():
            return build(all_agents, learners, keys, self.times)

    def gradient(self) -> Program:
        """Gradient of all losses without penalty; no optimizer step."""
        bench = self.bench

        def step(learner, key):
            def loss(agent):
                return total_loss(
                    self.config,
                    learner._replace(agent=agent),
                    bench.initial,
                    bench.batch,
                    key=key,
                    options=UpdateOptions(None, bench.dtype),
                )[0]

            return jax.grad(loss)(learner.agent)

        return self._part(step)

    def world_model(self) -> Program:
        """Gradient of the world model's losses."""
        bench = self.bench

        def step(learner, key):
            def loss(model):
                model, initial = cast((model, bench.initial), bench.dtype)
                form = UpdateOptions(None, bench.dtype).form
                found = world_model_loss(
                    model,
                    initial,
                    bench.batch,
                    key=key,
                    few_kernels=form.few_kernels,
                )
                return sum(jnp.mean(x) for x in found.losses.values())

            return jax.grad(loss)(learner.agent.model)

        return self._part(step)

    def imagination(self) -> Program:
        """The imagined rollouts with all heads' predictions; no gradient."""
        total = self.config.batch_size * self.config.starts_of_sequence

        def step(learner, key):
            agent, slow = cast((learner.agent, learner.slow_value), self.bench.dtype)
            starts = cast(agent.model.rssm.initial(total), self.bench.dtype)
            found = imagine(
                agent.model,
                ActorCritic(agent.policy, agent.value, slow),
                starts,
                self.config.imagination_length,
                key=key,
                form=UpdateOptions(None, self.bench.dtype).form,
            )
            return found.reward, found.cont, found.estimate, found.slow

        return self._part(step)

    def _part(self, step: Callable[[Learner, Any], Any]) -> Program:
        """A function of the learner, repeated without changing the learner.

        The learner is an argument, not a constant that XLA could fold.
        """
        learner = self.bench.learner
        shapes = jax.eval_shape(step, learner, jax.random.key(0))
        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        both = lambda carry, key: (carry[0], step(carry[0], key))
        return self._repeat(both, (learner, empty))

    def _update(
        self, penalty: PenaltyOptions | None, heads_at_once: bool | None = None
    ):
        bench = self.bench

        def step(learner, key):
            return update(
                self.config,
                learner,
                bench.initial,
                bench.batch,
                key=key,
                options=UpdateOptions(penalty, bench.dtype, heads_at_once),
            )[0]

        return step

    def _repeat(self, step, carry) -> Program:
        return repeat(step, carry, self.times)


class Loop:
    """The training loop of one configuration, and its parts other than updates."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.schedule = Schedule.of(config)
        self.env = envs.VectorEnv(make_env(config), config.num_envs)
        self.penalty = choose_penalty(config, jax.default_backend()).options
        self.dtype = compute_dtype(config, jax.default_backend())

        def filled(key):
            run = init_run(config, self.env, key)
            rows = self.schedule.prefill_rows
            (collector, buffer), _ = collect(
                config,
                self.env,
                run.learner.agent,
                (run.collector, run.replay),
                jax.random.split(key, rows),
            )
            return run._replace(collector=collector, replay=buffer)

        self.run = jax.jit(filled)(jax.random.key(config.seed))

    @staticmethod
    def updates_of(config: Config) -> int:
        """Updates per chunk of this configuration."""
        schedule = Schedule.of(config)
        return schedule.cycles * schedule.updates

    @property
    def updates(self) -> int:
        """Updates per chunk."""
        return self.updates_of(self.config)

    @property
    def decisions(self) -> int:
        """Decisions per chunk, summed over environments."""
        return self.schedule.cycles * self.schedule.rows * self.config.num_envs

    def chunk(self) -> Program:
        """One chunk: the program that training runs between two log records."""
        chunk = make_chunk(
            self.config, self.env, self.schedule, self.penalty, self.dtype
        )
        return donated(lambda run, _: chunk(run), self.run, times=self.updates)

    def collect(self) -> Program:
        """Only the decisions of a chunk, in the same scan over cycles."""
        agent = self.run.learner.agent

        def cycle(carry, key):
            keys = jax.random.split(key, self.schedule.rows)
            carry, _ = collect(self.config, self.env, agent, carry, keys)
            return carry, None

        def program(carry, key):
            keys = jax.random.split(key, self.schedule.cycles)
            return jax.lax.scan(cycle, carry, keys)

        carry = (self.run.collector, self.run.replay)
        return donated(program, carry, times=self.updates)

    def sample(self) -> Program:
        """Sampling the batches of a chunk, and writing latent states back."""
        rssm = self.run.learner.agent.model.rssm

        def one(buffer, key):
            initial, batch, window = draw_batch(
                self.config, rssm, buffer, dtype=self.dtype, key=key
            )
            context = self.config.replay_context
            if context:
                window = window._replace(time=window.time[context:])
                states = jax.tree.map(
                    lambda x: jnp.broadcast_to(x, (*window.time.shape, *x.shape[1:])),
                    initial,
                )
                latent = replay.pack_latent(states, rssm.latents)
                buffer = replay.write_latents(buffer, window, latent, jnp.asarray(True))
            return buffer, (initial, batch)

        def program(buffer, key):
            keys = jax.random.split(key, self.updates)
            _, batch = jax.eval_shape(one, buffer, key)
            empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
            # The batch is carried, so that XLA cannot eliminate any of it.
            step = lambda carry, key: (one(carry[0], key), None)
            return jax.lax.scan(step, (buffer, empty), keys)[0]

        return donated(program, self.run.replay, times=self.updates)
