"""The compiled functions of a run."""

import jax
import jax.numpy as jnp

from envs import VectorEnv
from train.config import Config
from train.placement.placement import Placement
from train.program.chunk import Schedule, make_chunk, make_prefill
from train.program.latent import latent_error
from train.program.penalty import Penalty
from train.program.state import RunState, compute_dtype, init_run
from train.rollout.conditions import with_and_without
from train.rollout.openloop import make_open_loop
from train.rollout.player import make_player
from train.rollout.trust import make_trust


class Programs:
    """The compiled functions of one run; with several seeds each is vmapped.

    `template` is the run's state as shapes, each with where its array belongs.
    `conditions` are those that `evaluate` plays, the one that was asked for first.
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
        wanted = "with error" if config.latent.evaluate else "without error"
        self.conditions = with_and_without(latent_error(config), first=wanted)
        play = make_player(
            env.env,
            config.eval_episodes,
            self.conditions,
            acting=config.eval_policy,
            max_decisions=config.eval_max_decisions,
        )

        def init(key: jax.Array) -> RunState:
            return init_run(config, env, key)

        shapes = place.shapes(init, self.keys(0))
        shapes = shapes._replace(sweep=jax.eval_shape(self.swept))
        self.template = place.template(shapes)
        state = place.shardings(shapes)
        self.init = place.compile(init, out=state._replace(sweep=None), brief=True)
        self.prefill = place.compile(
            make_prefill(config, env, schedule), donate=True, out=(state, None)
        )
        self.chunk = place.compile(
            make_chunk(config, env, schedule, penalty.options, dtype),
            donate=True,
            out=(state, None),
        )
        self.evaluate = place.compile(play)
        self.open_loop = None
        if env.spec.is_image:
            self.open_loop = place.compile(make_open_loop(config, schedule))
        self.trust = None
        if config.trust_every:
            self.trust = place.compile(make_trust(config))

    def keys(self, salt: int) -> jax.Array:
        """A key for each agent, from its seed and `salt` alone."""
        key = lambda seed: jax.random.fold_in(jax.random.key(seed), salt)
        seeds = [self.config.seed + variant.seed for variant in self.config.variants]
        if len(seeds) == 1:
            return self._placement.put(key(seeds[0]))
        keys = jnp.stack([key(seed) for seed in seeds])
        return self._placement.put(keys, divided=True)

    def swept(self) -> dict[str, jax.Array] | None:
        """The agents' own values of swept flags: `[agents]` for each; None without."""
        names = self.config.variants[0].values
        if not names:
            return None
        own = {
            name: jnp.asarray([x.values[name] for x in self.config.variants], float)
            for name in names
        }
        return self._placement.put(own, divided=True)
