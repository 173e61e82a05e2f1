"""Several agents in one program: side by side, or one after another."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

Function = Callable[..., Any]


def side_by_side(function: Function) -> Function:
    """vmap over agents: fills a GPU that one agent does not.

    Args:
        function: of one agent.

    Returns:
        The function of arrays with one more axis in front, an entry for each agent.
    """
    return jax.vmap(function)


def one_by_one(function: Function, *, in_place: bool = False) -> Function:
    """A loop over agents, one after another.

    For a CPU, whose cores are busy with one agent already, and whose caches the arrays
    of several would not fit. Takes the temporary memory of one agent.

    Args:
        function: of one agent.
        in_place: the function is `state -> (state, output)`, and all states are to be
            updated in place, without a copy.

    Returns:
        As of `side_by_side`.
    """
    if not in_place:
        return lambda *args: jax.lax.map(lambda each: function(*each), args)

    def step(states: PyTree, index: jax.Array) -> tuple[PyTree, Any]:
        # Read once: XLA would else read again after it has written, from a copy of all.
        own = jax.lax.optimization_barrier(jax.tree.map(lambda x: x[index], states))
        own, output = function(own)
        put = lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, index, 0)
        return jax.tree.map(put, states, own), output

    def run(states: PyTree) -> tuple[PyTree, Any]:
        count = jax.tree.leaves(states)[0].shape[0]
        return jax.lax.scan(step, states, jnp.arange(count))

    return run
