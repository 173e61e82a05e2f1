"""Batched environments as pure JAX functions.

Examples:
    >>> env = envs.make("walker-walk")
    >>> state, timestep = env.reset(jax.random.key(0))
    >>> state, timestep = env.step(state, action)
"""

from envs.adapters.from_jax import from_jax as from_jax
from envs.base import Env as Env
from envs.base import EnvSpec as EnvSpec
from envs.base import State as State
from envs.base import Timestep as Timestep
from envs.factories import registered as registered
from envs.mjx.from_mjx import from_mjx as from_mjx
from envs.mjx.parameters import PhysicsParameters as PhysicsParameters
from envs.registry import SYNTHETIC as SYNTHETIC
from envs.registry import TASKS as TASKS
from envs.registry import TOYS as TOYS
from envs.registry import canonical_name as canonical_name
from envs.registry import make as make
from envs.registry import register as register
from envs.vector import VectorEnv as VectorEnv
