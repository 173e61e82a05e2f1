"""The table of DreamerV3's parameter counts on walker (24 numbers, 6 actions)."""

import functools

import equinox as eqx
import jax
import pytest

from core.agent import Agent
from core.sizes import SIZES

WALKER = {
    "12m": {
        "dynamics": 5_783_040,
        "value": 853_503,
        "decoder": 794_136,
        "policy": 791_052,
        "reward": 721_407,
        "continue": 656_129,
        "encoder": 138_752,
        "total": 9_738_019,
    },
    "400k": {
        "dynamics": 166_528,
        "value": 49_727,
        "decoder": 34_712,
        "policy": 33_932,
        "reward": 41_279,
        "continue": 24_769,
        "encoder": 10_112,
        "total": 361_059,
    },
    "1m": {
        "dynamics": 364_416,
        "value": 66_111,
        "decoder": 51_096,
        "policy": 50_316,
        "reward": 57_663,
        "continue": 41_153,
        "encoder": 10_112,
        "total": 640_867,
    },
}


def shapes_of(size, obs_size, action_size):
    """The agent of a size, without its arrays."""
    build = functools.partial(Agent, obs_size, action_size, size=SIZES[size])
    return eqx.filter_eval_shape(build, key=jax.random.key(0))


@pytest.mark.parametrize("size", list(WALKER))
def test_counts_by_module(size):
    agent = shapes_of(size, 24, 6)
    assert agent.parameter_counts() == WALKER[size]
    # Every parameter of the agent belongs to one of the modules.
    assert sum(x.size for x in jax.tree.leaves(agent)) == WALKER[size]["total"]


@pytest.mark.parametrize("size", list(SIZES))
def test_counts_depend_on_the_environment_as_the_layers_do(size):
    """Another observation entry adds a row to the encoder and a decoder output;
    another action adds a row to the recurrent map and two outputs to the policy."""
    units, hidden = SIZES[size].units, SIZES[size].hidden
    base = shapes_of(size, 24, 6).parameter_counts()
    wider = shapes_of(size, 25, 6).parameter_counts()
    longer = shapes_of(size, 24, 7).parameter_counts()
    grown = {"encoder": units, "decoder": units + 1}
    assert wider == {
        name: count + grown.get(name, sum(grown.values()) * (name == "total"))
        for name, count in base.items()
    }
    grown = {"dynamics": hidden, "policy": 2 * (units + 1)}
    assert longer == {
        name: count + grown.get(name, sum(grown.values()) * (name == "total"))
        for name, count in base.items()
    }
