"""What an environment of a class of one's own returns, checked when it is made."""

from typing import Any

import jax
import jax.numpy as jnp

from envs import checks
from envs.adapters import carry
from envs.base import Env, EnvSpec, Timestep


def check(what: str, env: Env) -> None:
    """Traces `reset`, `restart` and `advance` of an environment.

    Raises:
        ValueError: a row is not as `env.spec` and `Timestep` have it, or the state is
            not the same after each; the message begins with `what`.
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
    """The types of the state that a method returns, whose row is as it should be."""
    found = jax.eval_shape(function, *arguments)
    if not isinstance(found, tuple) or len(found) != 2:
        raise ValueError(f"{name} must return a state and an envs.Timestep")
    state, row = found
    if not isinstance(row, Timestep):
        raise ValueError(
            f"{name} returns {type(row).__name__} where an envs.Timestep belongs"
        )
    wanted = dict.fromkeys(vars(row), ((), "bool"))
    wanted |= {"reward": ((), "float32"), "obs": (spec.obs_shape, spec.obs_dtype)}
    for field, (shape, dtype) in wanted.items():
        leaf = getattr(row, field)
        if (leaf.shape, str(leaf.dtype)) != (shape, dtype):
            raise ValueError(
                f"{name} returns a row whose {field} is {checks.types(leaf)}, but "
                f"must be {dtype}{list(shape)}"
            )
    return state
