"""The agent: a world model, a policy and a value head, and acting."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num, PRNGKeyArray

from core.latent_error import ERROR, LatentError
from core.latents import Latents
from core.loops import block_gru
from core.networks.heads import PolicyHead, TwoHotHead
from core.rssm import State
from core.sizes import SIZES, ModelSize
from core.world_model import WorldModel


class Agent(eqx.Module):
    """All trained parameters.

    Args:
        obs_size: length of the observation vector, or the shape of an image.
        action_size: length of the action vector.
        size: widths of all networks.
        obs_entries, unimix, latents: see `WorldModel`.
    """

    model: WorldModel
    policy: PolicyHead
    value: TwoHotHead

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
        model_key, policy_key, value_key = jax.random.split(key, 3)
        self.model = WorldModel(
            obs_size,
            action_size,
            key=model_key,
            size=size,
            obs_entries=obs_entries,
            unimix=unimix,
            latents=latents,
        )
        widths = self.model.rssm.features, size.units, 3
        self.policy = PolicyHead(*widths, action_size, key=policy_key)
        self.value = TwoHotHead(*widths, key=value_key)

    def act(
        self,
        state: State,
        obs: Num[Array, "..."],
        last_action: Float[Array, "*batch action"],
        is_first: Bool[Array, "*batch"] | bool,
        *,
        key: PRNGKeyArray,
        explore: bool = True,
    ) -> tuple[State, Float[Array, "*batch action"]]:
        """Update the latent state with one observation, and choose an action.

        Args:
            state: latent state of the previous step.
            last_action: the previous action (ignored where `is_first`).
            explore: sample from the policy; otherwise take its mode.

        Returns:
            The new latent state, and the action clipped to [−1, 1].
        """
        observe_key, action_key = jax.random.split(key)
        state = self.observe(state, obs, last_action, is_first, key=observe_key)
        return state, self.choose(state, key=action_key, explore=explore)

    def observe(
        self,
        state: State,
        obs: Num[Array, "..."],
        last_action: Float[Array, "*batch action"],
        is_first: Bool[Array, "*batch"] | bool,
        *,
        key: PRNGKeyArray,
    ) -> State:
        """The latent state after one observation; see `act`."""
        embed = self.model.encoder(obs)
        is_first = jnp.broadcast_to(jnp.asarray(is_first, bool), last_action.shape[:-1])
        return block_gru.observe_step(
            self.model.rssm, state, embed, last_action, is_first, key=key
        )

    def choose(
        self, state: State, *, key: PRNGKeyArray, explore: bool = True
    ) -> Float[Array, "*batch action"]:
        """An action in a latent state; see `act`."""
        dist = self.policy(state.features)
        action = dist.sample(key) if explore else dist.mode()
        return action.clip(-1.0, 1.0)

    def observe_with_error(
        self,
        state: State,
        obs: Num[Array, "..."],
        last_action: Float[Array, "*batch action"],
        is_first: Bool[Array, "*batch"] | bool,
        *,
        key: PRNGKeyArray,
        error: LatentError | None,
    ) -> tuple[State, State]:
        """`observe` with an error on the new latent state, or without any for None.

        Random numbers are those of `observe`, and further ones for the error.

        Returns:
            The new latent state with its error, which the action answers and the next
            step starts from; the same without.
        """
        clean = self.observe(state, obs, last_action, is_first, key=key)
        if error is None:
            return clean, clean
        return error.added(clean, jax.random.fold_in(key, ERROR)), clean

    def parameter_counts(self) -> dict[str, int]:
        """Number of trained parameters by module, and their `total`."""
        parts = {
            "encoder": self.model.encoder,
            "dynamics": self.model.rssm,
            "decoder": self.model.decoder,
            "reward": self.model.reward,
            "continue": self.model.cont,
            "policy": self.policy,
            "value": self.value,
        }
        size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
        counts = {name: size(module) for name, module in parts.items()}
        return counts | {"total": sum(counts.values())}
