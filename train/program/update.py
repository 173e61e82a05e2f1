"""One update of the agent: its losses and the penalty, weighted and summed here only.

All weights are flags (`train.config.schema.LossConfig`). Those inside a loss (entropy,
slow value) reach it as `core.constants.LossConstants`.
"""

from functools import partial
from typing import Any, NamedTuple
from typing import cast as cast_type

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Num, PRNGKeyArray

from core.agent import Agent
from core.behavior.actor_critic import imagined_loss, replayed_value_loss
from core.behavior.imagination import ActorCritic, imagine
from core.behavior.returns import ReturnScale
from core.loops.form import Form
from core.networks.layers import cast
from core.networks.transforms import merge, unmerge
from core.penalty import (
    PenaltyOptions,
    annealed_coefficient,
    decayed_coefficient,
    dynamics_penalty,
    posterior_jacobian,
)
from core.rssm import State
from core.transition import Transition
from core.world_model import straightening_loss, world_model_loss
from envs import perturb
from train.config import Config
from train.program.latent import latent_error
from train.program.optimizer import all_at_once, make_optimizer, one_by_one
from train.program.state import Learner

Metrics = dict[str, Float[Array, ""]]


class UpdateOptions(NamedTuple):
    """What is static in an update besides the configuration.

    Attributes:
        penalty: choices of the Jacobian penalty; None leaves it out.
        dtype: compute type of the networks.
        heads_at_once, few_kernels: see `core.loops.form.Form`; None for what suits the
            device.
    """

    penalty: PenaltyOptions | None
    dtype: jnp.dtype
    heads_at_once: bool | None = None
    few_kernels: bool | None = None

    @property
    def form(self) -> Form:
        """The form that was asked for, or that suits the device and the type."""
        gpu = jax.default_backend() != "cpu"
        at_once, few = self.heads_at_once, self.few_kernels
        return Form(
            gpu or self.dtype != jnp.float32 if at_once is None else at_once,
            gpu if few is None else few,
        )


def update(
    config: Config,
    learner: Learner,
    initial: State,
    batch: Transition,
    *,
    key: PRNGKeyArray,
    options: UpdateOptions,
) -> tuple[Learner, State, Metrics]:
    """One optimizer step on one batch of replayed sequences.

    Args:
        initial: latent state before the batch's first row.
        batch: replayed rows, time first.

    Returns:
        The learner, the latent states found for the batch (for the replay), metrics.
        Where a loss or gradient is not finite the learner only counts the skip.
    """

    def loss(agent: Agent):
        current = learner._replace(agent=agent)
        return total_loss(config, current, initial, batch, key=key, options=options)

    gradient, (scale, states, metrics) = jax.grad(loss, has_aux=True)(learner.agent)
    norms = all_at_once if options.form.few_kernels else one_by_one
    norm = jnp.linalg.norm(jnp.stack(norms(jax.tree.leaves(gradient))))
    finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss/total"])
    return (
        _descend(
            learner,
            gradient,
            scale,
            finite,
            make_optimizer(config.optimizer, norms),
            config.loss.slow_rate,
        ),
        states,
        metrics | {"gradient_norm": norm},
    )


@jax.named_scope("optimizer")
def _descend(
    learner: Learner,
    gradient: Agent,
    scale: ReturnScale,
    finite: Bool[Array, ""],
    descent: optax.GradientTransformation,
    slow_rate: float,
) -> Learner:
    """The learner after one optimizer step, or with one more skip counted."""
    # optax's annotations know no Equinox modules: to it these are plain pytrees.
    gradients, params, slow = cast_type(
        Any, (gradient, learner.agent, learner.slow_value)
    )
    updates, optimizer = descent.update(gradients, learner.optimizer, params)
    agent: Agent = eqx.apply_updates(learner.agent, updates)
    slow_value: Any = optax.incremental_update(
        cast_type(Any, agent).value, slow, slow_rate
    )
    following = Learner(
        agent,
        slow_value,
        optimizer,
        scale,
        learner.updates + 1,
        learner.skipped,
        jnp.zeros_like(learner.skipped_in_row),
    )
    skipped = learner._replace(
        skipped=learner.skipped + 1, skipped_in_row=learner.skipped_in_row + 1
    )
    return optax.tree.where(finite, following, skipped)


def total_loss(
    config: Config,
    learner: Learner,
    initial: State,
    batch: Transition,
    *,
    key: PRNGKeyArray,
    options: UpdateOptions,
) -> tuple[Float[Array, ""], tuple[ReturnScale, State, Metrics]]:
    """The weighted sum of all losses; train by its gradient in `learner.agent`."""
    penalty, form = options.penalty, options.form
    weights, constants = config.loss, config.loss_constants
    observe_key, penalty_key, imagine_key, augment_key = jax.random.split(key, 4)
    batch = batch._replace(seen=augmented(config, batch.obs, augment_key))
    if weights.clip_rewards == "tanh":
        batch = batch._replace(reward=jnp.tanh(batch.reward))
    agent, slow_value, initial = cast(
        (learner.agent, learner.slow_value, initial), options.dtype
    )
    model = agent.model
    if (error := latent_error(config)) is not None:
        initial, errors = error.of_sequence(initial, len(batch.reward), key=observe_key)
        batch = batch._replace(errors=errors)

    # World model on the replayed sequences.
    world = world_model_loss(
        model,
        initial,
        batch,
        key=observe_key,
        constants=constants,
        few_kernels=form.few_kernels,
    )
    states, clean = world.observed.states, world.observed.clean

    # Actor and critic on rollouts imagined from every replayed state, or the last ones.
    last = partial(jax.tree.map, lambda x: x[-config.starts_of_sequence :])
    starts = jax.tree.map(
        merge, last(clean if config.latent.imagine_from == "clean" else states)
    )
    imagined = imagine(
        model,
        ActorCritic(agent.policy, agent.value, slow_value),
        starts,
        config.imagination_length,
        key=imagine_key,
        form=form,
    )
    actor_critic = imagined_loss(learner.return_scale, imagined, constants)
    replayed = last(batch)
    replay_value = replayed_value_loss(
        agent.value,
        slow_value,
        last(states.features),
        replayed,
        unmerge(actor_critic.returns, replayed.reward.shape),
        constants,
    )

    losses = {name: jnp.mean(x) for name, x in world.losses.items()}
    losses |= actor_critic.losses | {"repval": replay_value}
    scales = {
        "rec": weights.reconstruction_scale,
        "rew": weights.reward_scale,
        "con": weights.continue_scale,
        "dyn": weights.dynamics_scale,
        "rep": weights.representation_scale,
        "policy": weights.policy_scale,
        "value": weights.value_scale,
        "repval": weights.replay_value_scale,
    }
    if weights.straightening:
        losses["straightening"] = straightening_loss(
            model.rssm, world.observed, batch.is_first
        )
        scales["straightening"] = weights.straightening
    total = sum((scale * losses[name] for name, scale in scales.items()), jnp.zeros(()))
    metrics = {f"loss/{name}": x for name, x in losses.items()}
    metrics |= {f"entropy/{name}": x for name, x in world.entropies.items()}
    metrics |= actor_critic.metrics
    metrics["jacobian/posterior"] = posterior_jacobian(
        model.rssm, world.observed, world.embeds
    )

    # Jacobian penalty on the latent dynamics.
    if penalty is not None:
        terms = dynamics_penalty(
            model.rssm,
            world.observed,
            world.embeds,
            batch,
            key=penalty_key,
            options=penalty,
        )
        # The loss is clipped at the free nats: what is above them is the error.
        error = losses["dyn"] - weights.free_nats
        for name, value in terms.items():
            coefficient = penalty_coefficient(config, learner, name)
            if config.penalty.penalty_error:
                coefficient = annealed_coefficient(
                    coefficient,
                    error,
                    reference=config.penalty.penalty_error,
                    minimum=config.penalty.lambda_min,
                )
            total = total + coefficient * value
            metrics |= {f"penalty/{name}": value, f"lambda/{name}": coefficient}
    metrics["loss/total"] = total
    return total, (actor_critic.return_scale, clean, metrics)


def augmented(
    config: Config, obs: Num[Array, "time batch ..."], key: PRNGKeyArray
) -> Num[Array, "time batch ..."]:
    """The observations as the encoder is given them in training (`--augment`)."""
    if config.augment == "none":
        return obs
    perturbation = perturb.parse(config.augment, pixels=obs.dtype == jnp.uint8)
    keys = jax.random.split(key, obs.shape[:2])
    return jax.vmap(jax.vmap(perturbation))(keys, obs)


def penalty_coefficient(config: Config, learner: Learner, name: str) -> Array:
    """λ of one penalized map (`core.constants.PENALIZED`) after the updates so far."""
    options = config.penalty
    initial = options.lambda0
    if name == "prior":
        initial = options.resolved_lambda0_prior
    return decayed_coefficient(
        learner.updates,
        initial=initial,
        minimum=options.lambda_min,
        decay_scale=options.decay_scale,
        decay=options.decay,
        start=options.penalty_start,
    )
