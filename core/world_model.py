"""World model: encoder, RSSM, decoder, reward and continue heads, and their losses."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from core.constants import DREAMERV3, LossConstants
from core.latents import Categorical, Latents
from core.loops import block_gru, wide_gru
from core.networks.decoder import ImageDecoder, VectorDecoder
from core.networks.encoder import ImageEncoder, VectorEncoder
from core.networks.heads import ContinueHead, TwoHotHead
from core.rssm import RSSM, Observed, State
from core.sizes import SIZES, ModelSize
from core.states import ObserveInputs
from core.transition import Transition


class WorldModel(eqx.Module):
    """Encoder e = enc(o), RSSM, and decoder, reward and continue heads on (h, z).

    Args:
        obs_size: length of the observation vector, or the shape of an image.
        action_size: length of the action vector.
        size: widths of all networks.
        obs_entries: for vectors, see `core.networks.decoder.VectorDecoder`.
        unimix, latents: see `core.rssm.RSSM`.
    """

    encoder: VectorEncoder | ImageEncoder
    rssm: RSSM
    decoder: VectorDecoder | ImageDecoder
    reward: TwoHotHead
    cont: ContinueHead

    def __init__(
        self,
        obs_size: int | tuple[int, ...],
        action_size: int,
        *,
        key: PRNGKeyArray,
        size: ModelSize = SIZES["1m"],
        obs_entries: tuple[int, ...] = (),
        unimix: float = 0.01,
        latents: Latents | None = None,
    ):
        keys = jax.random.split(key, 5)
        latents = latents or Categorical(size.classes, unimix)
        stoch, units = size.stoch * latents.entries, size.units
        features = size.deter + stoch
        if isinstance(obs_size, int):
            self.encoder = VectorEncoder(obs_size, key=keys[0], units=units)
            self.decoder = VectorDecoder(
                features, obs_size, key=keys[2], obs_entries=obs_entries, units=units
            )
        else:
            self.encoder = ImageEncoder(obs_size, key=keys[0], depth=size.cnn_depth)
            self.decoder = ImageDecoder(
                size.deter,
                stoch,
                obs_size,
                key=keys[2],
                depth=size.cnn_depth,
                units=units,
                blocks=size.blocks,
            )
        self.rssm = RSSM(
            self.encoder.embed_size,
            action_size,
            key=keys[1],
            deter=size.deter,
            hidden=size.hidden,
            categoricals=size.stoch,
            blocks=size.blocks,
            latents=latents,
        )
        self.reward = TwoHotHead(features, units, 1, key=keys[3])
        self.cont = ContinueHead(features, units, 1, key=keys[4])


class WorldModelOutput(NamedTuple):
    """Unweighted losses by name, and intermediate results that other losses use."""

    losses: dict[str, Float[Array, "time *batch"]]
    observed: Observed
    embeds: Float[Array, "time *batch embed"]
    entropies: dict[str, Float[Array, ""]]


@jax.named_scope("world_model")
def world_model_loss(
    model: WorldModel,
    initial: State,
    batch: Transition,
    *,
    key: PRNGKeyArray,
    constants: LossConstants = DREAMERV3,
    few_kernels: bool = False,
) -> WorldModelOutput:
    """DreamerV3's prediction, dynamics and representation losses.

        rec = ‖symlog(o) − dec(h, z)‖²  (for images without symlog)
        rew = CE(reward(h, z), twohot(r))
        con = CE(cont(h, z), (1 − terminal)·γ),  so continue predictions include γ
        dyn = max(free, KL(sg(q) ‖ p))
        rep = max(free, KL(q ‖ sg(p)))

    Args:
        initial: latent state before the first step.
        batch: of its `errors` the heads see each z with its own; KL divergences are of
            the distributions, which have none.
        few_kernels: see `core.loops.form.Form`.
    """
    rssm = model.rssm
    with jax.named_scope("encoder"):
        embeds = model.encoder(batch.obs if batch.seen is None else batch.seen)
    with jax.named_scope("observe"):
        observe = wide_gru.observe if few_kernels else block_gru.observe_deferred
        given = ObserveInputs(embeds, batch.action, batch.is_first, batch.errors)
        _, observed = observe(rssm, initial, given, key=key)
    features = observed.states.features
    # The prior is not part of the recurrence: one call for all steps.
    posterior = rssm.dist(observed.posterior)
    prior = rssm.dist(rssm.prior_logits(observed.states.deter))
    stop = jax.lax.stop_gradient
    keep_going = (1.0 - batch.is_terminal) * constants.discount
    with jax.named_scope("heads"):
        losses = {
            "rec": model.decoder.loss(features, batch.obs),
            "rew": model.reward(features).loss(batch.reward),
            "con": model.cont(features).loss(keep_going),
        }
    losses |= {
        "dyn": jnp.maximum(constants.free_nats, stop(posterior).kl(prior)),
        "rep": jnp.maximum(constants.free_nats, posterior.kl(stop(prior))),
    }
    entropies = {
        "posterior": jnp.mean(posterior.entropy()),
        "prior": jnp.mean(prior.entropy()),
    }
    return WorldModelOutput(losses, observed, embeds, entropies)


@jax.named_scope("straightening")
def straightening_loss(
    rssm: RSSM, observed: Observed, is_first: Bool[Array, "time *batch"]
) -> Float[Array, ""]:
    """The temporal-straightening loss ("On Training in Imagination", Definition 1).

        x_t = (h_t, E q(z | h_t, e_t)),    v_t = x_{t+1} − x_t
        loss = mean of 1 − cos(v_t, v_{t+1})

    The paper straightens the latent states of observed transitions, on which the model
    approximates x_t ↦ x_{t+1}. z itself is drawn at random in every step: the direction
    in which samples differ is mostly noise, and has no gradient.

    Left out are steps from one episode to the next, and those that do not move:
    ‖v‖ ≤ √ε·‖x‖, ε the precision of float32. These have no direction, and so small a
    step would have a gradient of 1/‖v‖.

    Returns:
        In [0, 2], in float32; 0 if no two successive steps count.
    """
    mean = rssm.dist(observed.posterior).mean()
    deter = observed.states.deter.astype(mean.dtype)
    x = State(deter, mean).features
    velocity = jnp.diff(x, axis=0)
    square = jnp.sum(jnp.square(velocity), axis=-1)
    least = jnp.finfo(x.dtype).eps * jnp.sum(jnp.square(x[1:]), axis=-1)
    counts = (square > least) & ~is_first[1:]
    # The other steps need a length that can be divided by, in the gradient too.
    length = jnp.sqrt(jnp.where(counts, square, 1.0))
    turn = jnp.diff(velocity / length[..., None], axis=0)
    # 1 − ⟨u, u'⟩ = ‖u − u'‖² / 2 for unit vectors, without the cancellation.
    losses = 0.5 * jnp.sum(jnp.square(turn), axis=-1)
    used = counts[1:] & counts[:-1]
    return jnp.sum(losses * used) / jnp.maximum(1, jnp.sum(used))
