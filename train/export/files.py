"""What `python -m train.export` writes: the policy for JAX, and for numpy alone."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Bool, Float, Num

from core.agent import Agent
from core.latents import Gaussian
from core.rssm import State

PLATFORMS = ("cpu", "cuda")
"""What the exported program is lowered for."""

Carry = tuple[
    Float[Array, "batch deter"],
    Float[Array, "batch K C"],
    Float[Array, "batch action"],
]
"""h, z and the action before; zeros at the start."""


class Numbers(NamedTuple):
    """The random numbers of one decision.

    Attributes:
        uniforms: from [0, 1), which draw z.
        noise: standard normal, or zeros for the policy's mode.
    """

    uniforms: Float[Array, "batch K"]
    noise: Float[Array, "batch action"]


def step(
    agent: Agent,
    carry: Carry,
    obs: Num[Array, "batch ..."],
    is_first: Bool[Array, " batch"],
    numbers: Numbers,
) -> tuple[Carry, Float[Array, "batch action"]]:
    """`Agent.act` with the random numbers as inputs.

    Returns:
        The carry of the next decision, and the actions in [−1, 1].
    """
    rssm = agent.model.rssm
    deter, stoch, action = carry
    state = State(deter, stoch).masked(~is_first)
    h = rssm.recurrent(state, jnp.where(is_first[:, None], 0.0, action))
    logits = rssm.posterior_logits(h, agent.model.encoder(obs))
    state = State(h, rssm.sample(logits, numbers.uniforms))
    action = agent.policy(state.features).at(numbers.noise).clip(-1.0, 1.0)
    return (state.deter, state.stoch, action), action


def facts(agent: Agent, obs_shape: tuple[int, ...]) -> dict[str, Any]:
    """The sizes that a user of the files needs."""
    rssm, latents = agent.model.rssm, agent.model.rssm.latents
    if isinstance(latents, Gaussian):
        own = {"std_floor": latents.floor}
    else:
        own = {"unimix": rssm.unimix}
    return own | {
        "obs_shape": list(obs_shape),
        "action_size": agent.policy.mean.bias.size,
        "deter": rssm.deter,
        "categoricals": rssm.categoricals,
        "classes": latents.entries,
        "blocks": rssm.blocks,
    }


def weights(agent: Agent) -> dict[str, np.ndarray]:
    """The arrays that acting needs, named by their path in the agent."""
    parts = {
        "encoder": agent.model.encoder,
        "rssm": agent.model.rssm,
        "policy": agent.policy,
    }
    found = jax.tree_util.tree_leaves_with_path(parts)
    names = (jax.tree_util.keystr(p, simple=True, separator=".") for p, _ in found)
    return {
        name: np.asarray(leaf)
        for name, (_, leaf) in zip(names, found, strict=True)
        if not name.startswith("rssm.prior_")
    }


def program(agent: Agent, obs_shape: tuple[int, ...]) -> export.Exported:
    """`step` of this agent as a program for any batch, with the weights in it.

    It takes and returns plain tuples of arrays: `(carry, obs, is_first, (uniforms,
    noise))` to `(carry, action)`.
    """
    sizes = facts(agent, obs_shape)
    (batch,) = export.symbolic_shape("batch")
    array = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct(
        (batch, *shape), dtype
    )
    latent = sizes["categoricals"], sizes["classes"]
    action = array(sizes["action_size"])
    seen = jnp.uint8 if len(obs_shape) == 3 else jnp.float32
    run = lambda carry, obs, is_first, numbers: step(
        agent, carry, obs, is_first, Numbers(*numbers)
    )
    return export.export(jax.jit(run), platforms=PLATFORMS)(
        (array(sizes["deter"]), array(*latent), action),
        array(*obs_shape, dtype=seen),
        array(dtype=jnp.bool_),
        (array(latent[0]), action),
    )


def write(
    folder: Path,
    agent: Agent,
    obs_shape: tuple[int, ...],
    about: Mapping[str, Any],
) -> list[Path]:
    """Write the files into `folder`, which is made if need be; their paths.

    Args:
        about: what else `facts` in `policy.npz` and `policy.json` shall say.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**about, **facts(agent, obs_shape)}, indent=1)
    paths = [folder / name for name in ("policy.npz", "policy.jaxexport")]
    np.savez(paths[0], facts=np.asarray(text), **weights(agent))  # pyright: ignore
    paths[1].write_bytes(program(agent, obs_shape).serialize())
    paths.append(folder / "policy.json")
    paths[-1].write_text(text + "\n", encoding="utf-8")
    source = Path(__file__).with_name("numpy_policy.py")
    paths.append(Path(shutil.copy(source, folder / source.name)))
    return paths
