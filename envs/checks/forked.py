"""An error in processes forked after JAX was initialized, where JAX would hang.

A fork does not copy JAX's threads, so the first computation waits for them forever.
Gymnasium's `AsyncVectorEnv` forks by default.
"""

import os

from jax._src import xla_bridge  # whether JAX runs has no public name

_state = {"running": False, "forked": False}


def _before() -> None:
    # Checked in the parent: in the child a missing thread may hold JAX's lock.
    _state["running"] = xla_bridge.backends_are_initialized()


def _in_child() -> None:
    _state["forked"] |= _state["running"]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)


def is_forked() -> bool:
    """Whether this process was forked from one in which JAX runs."""
    return _state["forked"]


def check() -> None:
    """Raises RuntimeError in a process forked from one in which JAX runs."""
    if is_forked():
        raise RuntimeError(
            "this process was forked from one in which JAX runs, where JAX would wait "
            "for ever: start it by multiprocessing's 'spawn' or 'forkserver', such as "
            'gymnasium.vector.AsyncVectorEnv(..., context="spawn"), or step all copies '
            "in one process with envs.gym.make_vec(name, num_envs=...)"
        )
