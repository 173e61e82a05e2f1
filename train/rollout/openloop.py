"""What the world model expects to see: open-loop prediction of replayed sequences.

The model watches a few images of a sequence, the context, and imagines the rest from
the actions alone. A film shows truth, model, and their difference one below another,
for several sequences side by side: while the model watches, in a green frame; while it
imagines, in a red one.
"""

import dataclasses
import io
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from core.agent import Agent
from core.latent_error import LatentError
from core.loops import block_gru
from core.networks.decoder import ImageDecoder
from core.states import ObserveInputs, State
from core.transition import Transition
from train.config import Config
from train.program import replay
from train.program.chunk import Schedule, draw_batch
from train.program.latent import latent_error
from train.rollout.video import save_gif

CONTEXT = 5  # images the model watches, as DreamerV3 has it
LENGTH = 50  # images of a film, where the replay holds as long sequences from the start
SEQUENCES = 4
# Sequences drawn, of which those without the start of an episode are shown first.
CANDIDATES = 16

GREEN, RED = (60, 180, 75), (220, 50, 47)
MILLISECONDS = 100


class Prediction(NamedTuple):
    """Images from 0 to 1, time first; the first `context` of the model were watched."""

    truth: Float[Array, "time batch height width 3"]
    model: Float[Array, "time batch height width 3"]
    context: int


def predict(
    agent: Agent,
    initial: State,
    rows: Transition,
    context: int,
    *,
    key: PRNGKeyArray,
    error: LatentError | None = None,
) -> Prediction:
    """Watch `context` rows of replayed sequences of images, and imagine the others.

    Args:
        initial: the latent states before the sequences.
        error: of every z, the initial, observed and imagined ones; the pictures are of
            the noisy states.
    """
    rssm, decoder = agent.model.rssm, agent.model.decoder
    assert isinstance(decoder, ImageDecoder)
    seen = jax.tree.map(lambda x: x[:context], rows)
    observe_key, imagine_key = jax.random.split(key)
    embeds = agent.model.encoder(seen.obs)
    errors = None
    if error is not None:
        initial, errors = error.of_sequence(initial, len(rows.action), key=key)
    first_errors = None if errors is None else errors[:context]
    given = ObserveInputs(embeds, seen.action, seen.is_first, first_errors)
    last, observed = block_gru.observe(rssm, initial, given, key=observe_key)

    actions = rows.action[context:]
    uniforms = jax.random.uniform(imagine_key, (*actions.shape[:2], rssm.categoricals))
    if errors is None:
        end, imagined = block_gru.imagine(
            rssm,
            last,
            lambda state, action: (action, state),
            actions,
            uniforms=uniforms,
        )
        # The first of the imagined states is the last observed one.
        imagined = jax.tree.map(
            lambda b, c: jnp.concatenate([b[1:], c[None]]), imagined, end
        )
    else:

        def step(state: State, row: tuple[Array, ...]) -> tuple[State, State]:
            action, uniform, error = row
            h = block_gru.recurrent(rssm, state, action)
            z = rssm.sample(rssm.prior_logits(h), uniform)
            state = State(h, z).plus(error)
            return state, state

        inputs = actions, uniforms, errors[context:]
        _, imagined = jax.lax.scan(step, last, inputs)
    states = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b]), observed.states, imagined
    )
    truth = rows.obs.astype(jnp.float32) / 255
    return Prediction(truth, decoder(states.features), context)


def make_open_loop(config: Config, schedule: Schedule):
    """A function `(agent, replay, key) ↦ (film, error)`.

    Returns:
        `film` is `[time, 3 · (height + 4), sequences · (width + 4), 3]` uint8, and
        `error` the mean squared error of all imagined images, from 0 to 1.
    """
    # What the replay holds when learning starts.
    rows = min(schedule.prefill_rows, config.replay_capacity // config.num_envs)
    length = min(LENGTH, rows - config.replay_context)
    context = min(CONTEXT, length // 2)
    drawn = dataclasses.replace(config, batch_size=CANDIDATES, batch_length=length)

    def open_loop(agent: Agent, buffer: replay.Replay, key: PRNGKeyArray):
        # The evaluation splits the same key.
        sample_key, predict_key = jax.random.split(jax.random.fold_in(key, 1))
        # As in training: from the latent states that the replay keeps, if it does.
        initial, batch, _ = draw_batch(
            drawn,
            agent.model.rssm,
            buffer,
            dtype=jnp.dtype(jnp.float32),
            key=sample_key,
        )
        # Stable, so that sequences without a start stay in the order drawn.
        order = jnp.argsort(jnp.any(batch.is_first[1:], axis=0), stable=True)
        chosen = order[:SEQUENCES]
        initial = jax.tree.map(lambda x: x[chosen], initial)
        batch = jax.tree.map(lambda x: x[:, chosen], batch)
        prediction = predict(
            agent,
            initial,
            batch,
            context,
            key=predict_key,
            error=latent_error(config),
        )
        # After an episode's end, nobody could know how the next one begins.
        known = ~jnp.cumsum(batch.is_first[context:], axis=0, dtype=bool)
        difference = (prediction.model - prediction.truth)[context:]
        squares = jnp.mean(jnp.square(difference), axis=(-3, -2, -1))
        error = jnp.sum(squares * known) / jnp.maximum(1, jnp.sum(known))
        return film(prediction), error

    return open_loop


def film(prediction: Prediction) -> UInt8[Array, "time height width 3"]:
    """Truth, model and difference one below another, in coloured frames."""
    truth, model = prediction.truth, prediction.model
    # Grey where they agree.
    difference = (model - truth + 1) / 2
    pictures = jnp.stack([truth, model, difference], axis=1)
    pictures = jnp.round(255 * jnp.clip(pictures, 0, 1)).astype(jnp.uint8)
    framed = jnp.pad(pictures, ((0, 0),) * 3 + ((2, 2), (2, 2), (0, 0)))
    watched = jnp.arange(len(truth)) < prediction.context
    color = jnp.where(watched[:, None], jnp.array(GREEN), jnp.array(RED))
    height, width = framed.shape[3:5]
    inside = np.zeros((height, width), bool)
    inside[2:-2, 2:-2] = True
    framed = jnp.where(
        inside[None, None, None, :, :, None],
        framed,
        color.astype(jnp.uint8)[:, None, None, None, None],
    )
    time, rows, batch = framed.shape[:3]
    return framed.swapaxes(2, 3).reshape(time, rows * height, batch * width, 3)


def encode(frames: UInt8[np.ndarray, "time height width 3"]) -> bytes:
    """A film as GIF."""
    buffer = io.BytesIO()
    save_gif(frames, buffer, milliseconds=MILLISECONDS)
    return buffer.getvalue()
