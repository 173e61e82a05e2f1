"""How smooth the agent's maps are where it has been: cheap numbers during training."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from core.agent import Agent
from core.loops import block_gru
from core.smoothness import NormOptions, agent_norms
from core.states import ObserveInputs
from train.config import Config
from train.program import replay
from train.program.chunk import draw_batch

STATES = 32
OPTIONS = NormOptions(maps=("posterior", "prior", "closed_loop"), horizon=15)


def make_trust(config: Config):
    """A function `(agent, replay, key) ↦ metrics by name` of one agent.

    The states are the last ones of replayed sequences, as the model filters them,
    without a latent error: one of each sequence, since states of one are similar.
    """
    drawn = dataclasses.replace(config, batch_size=STATES)

    def trust(
        agent: Agent, buffer: replay.Replay, key: PRNGKeyArray
    ) -> dict[str, Float[Array, ""]]:
        rssm = agent.model.rssm
        # The evaluation and the film use the same key.
        keys = jax.random.split(jax.random.fold_in(key, 2), 3)
        initial, batch, _ = draw_batch(
            drawn, rssm, buffer, dtype=jnp.dtype(jnp.float32), key=keys[0]
        )
        embeds = agent.model.encoder(batch.obs)
        given = ObserveInputs(embeds, batch.action, batch.is_first)
        latents, _ = block_gru.observe(rssm, initial, given, key=keys[1])
        found = agent_norms(agent, latents, embeds[-1], key=keys[2], options=OPTIONS)
        spread = {f"spectral_{name}": x.spectral for name, x in found.maps.items()}
        spread |= {f"rows_{name}": x for name, x in found.rows.items()}
        at_horizon = jax.tree.map(lambda x: x[-1], found.largest_growth)
        spread["growth"] = at_horizon
        metrics = {
            f"{name}_{which}": getattr(quantiles, which)
            for name, quantiles in spread.items()
            for which in ("median", "largest")
        }
        metrics |= {f"converged_{name}": x.converged for name, x in found.maps.items()}
        curvature = found.curvature
        return metrics | {
            "curvature_mean": curvature.mean,
            "curvature_largest": curvature.largest,
            "curvature_moving": curvature.moving,
        }

    return trust
