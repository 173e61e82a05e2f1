"""Checks of the states and timesteps that a user-defined `Env` class returns."""

from typing import Any

import jax
import jax.numpy as jnp

from envs import checks
from envs.adapters import carry
from envs.base import Env, EnvSpec, Timestep


def check(what: str, env: Env) -> None:
    """Trace `reset`, `restart` and `advance` of an environment and check the results.

    Raises:
        ValueError: a timestep does not match `env.spec`, or the state's types change;
            the message begins with `what`.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    action = jax.ShapeDtypeStruct((env.spec.action_dim,), jnp.float32)
    begun = _returned(f"{what}: reset", env.spec, env.reset, key)
    for name, arguments in {"restart": (begun,), "advance": (begun, action)}.items():
        function = getattr(env, name)
        after = _returned(f"{what}: {name}", env.spec, function, *arguments)
        carry.check_structure(begun, after, names=("reset", f"{what}: {name}"))
        if not carry.same(carry.kept(begun), carry.kept(after)):
            raise ValueError(
                f"{what}: {name} returns a state of {checks.types(after)}, but reset "
                f"one of {checks.types(begun)}: keep each dtype"
            )


def _returned(name: str, spec: EnvSpec, function: Any, *arguments: Any) -> Any:
    """The types of the state that a method returns, after checking its timestep."""
    found = jax.eval_shape(function, *arguments)
    if not isinstance(found, tuple) or len(found) != 2:
        raise ValueError(f"{name} must return a pair of a state and an envs.Timestep")
    state, timestep = found
    if not isinstance(timestep, Timestep):
        raise ValueError(
            f"{name} returns {type(timestep).__name__}, not an envs.Timestep"
        )
    wanted = dict.fromkeys(vars(timestep), ((), "bool"))
    wanted |= {"reward": ((), "float32"), "obs": (spec.obs_shape, spec.obs_dtype)}
    for field, (shape, dtype) in wanted.items():
        leaf = getattr(timestep, field)
        if (leaf.shape, str(leaf.dtype)) != (shape, dtype):
            raise ValueError(
                f"{name} returns a Timestep whose {field} is {checks.types(leaf)}, but "
                f"must be {dtype}{list(shape)}"
            )
    return state
