"""The parts of an observation: each has the decoder's output layer to itself.

The authors' decoder has one output layer for each; ours is one layer, whose gradient is
clipped part by part.
"""

from types import SimpleNamespace
from typing import Any

import authors
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

import envs
from core.networks.layers import Linear
from envs.render.pixels import PixelEnv
from train.config.cli import parse
from train.program.optimizer import adaptive_clip
from train.program.state import init_agent

RATIO = 0.3

pytestmark = pytest.mark.filterwarnings(
    # dm_control's indexing, under numpy 2.5.
    "ignore:Setting the shape on a NumPy array:DeprecationWarning"
)


def clipped(gradients, params, ratio=RATIO) -> Any:
    clip = adaptive_clip(ratio)
    return clip.update(gradients, clip.init(params), params)[0]


def layer(weight, bias, parts) -> Linear:
    linear = Linear(1, len(bias), key=jax.random.key(0), parts=parts)
    arrays = jnp.array([weight]), jnp.array(bias)
    return eqx.tree_at(lambda x: (x.weight, x.bias), linear, arrays)


def test_clipping_by_parts_by_hand():
    # Norms of the weight's parts: 5 and 1; of the bias's: 0 (counts as 1e-3) and 2.
    params = layer([3.0, 4.0, 1.0], [0.0, 0.0, 2.0], (2, 1))
    gradients = layer([6.0, 8.0, 0.1], [0.0, 3.0, 6.0], (2, 1))
    found = clipped(gradients, params)
    np.testing.assert_allclose(found.weight, [[0.9, 1.2, 0.1]], rtol=1e-6)
    np.testing.assert_allclose(found.bias, [0.0, 3e-4, 0.6], rtol=1e-6)
    # Without parts, one norm for all.
    params, gradients = (layer(x.weight[0], x.bias, ()) for x in (params, gradients))
    bound = RATIO * np.sqrt(26) / np.sqrt(100.01)
    expected = bound * np.array([[6.0, 8.0, 0.1]])
    np.testing.assert_allclose(clipped(gradients, params).weight, expected, rtol=1e-6)


@pytest.mark.parametrize("ratio", [RATIO, 0.01])
def test_every_clipped_gradient_is_the_authors(ratio):
    fixture = authors.Fixture("posterior")
    agent = authors.agent(fixture)
    theirs, params = fixture.group("grad"), fixture.group("param")

    def by_definition(name):
        bound = ratio * max(1e-3, np.linalg.norm(params[name]))
        return theirs[name] / max(1.0, np.linalg.norm(theirs[name]) / bound)

    wanted = authors.by_our_names({name: by_definition(name) for name in theirs})
    gradients = authors.fill(agent, authors.by_our_names(theirs))
    found = authors.by_path(clipped(gradients, agent, ratio))
    for name, x in wanted.items():
        np.testing.assert_allclose(found[name], x, rtol=1e-5, atol=1e-30, err_msg=name)
    # One norm for the whole output layer would have given something else.
    by_parts = wanted[".model.decoder.out.weight"]
    trees: Any = gradients, agent
    gradient, weight = (tree.model.decoder.out.weight for tree in trees)
    error = np.abs(clipped(gradient, weight, ratio) - by_parts).max()
    assert error > 1e-2 * np.abs(by_parts).max()


@pytest.mark.parametrize("name", envs.TASKS)
def test_entries_are_those_of_dm_control(name):
    theirs = parity.load(name).observation_spec()
    wanted = tuple((key, int(np.prod(x.shape))) for key, x in theirs.items())
    assert envs.make(name).spec.obs_entries == wanted


def test_images_have_no_entries():
    inner: Any = envs.make("pendulum-swingup")
    env = PixelEnv(inner)
    assert env.spec.obs_entries == ()


def test_the_agent_gets_them_from_the_environment():
    env: Any = SimpleNamespace(spec=envs.make("walker-walk").spec)
    config = parse(["--preset", "smoke"], "cpu")
    agent = eqx.filter_eval_shape(init_agent, config, env, jax.random.key(0))
    assert agent.model.decoder.out.parts == (14, 1, 9)
    assert agent.model.decoder.out.weight.shape[1] == 24


def test_sizes_that_do_not_add_up():
    spec = envs.make("pendulum-swingup").spec
    facts: dict[str, Any] = vars(spec) | {"obs_entries": (("angle", 2),)}
    with pytest.raises(ValueError, match=r"obs_entries=.*add up.*\(3,\)"):
        envs.EnvSpec(**facts)
    with pytest.raises(ValueError, match=r"parts=.* must add up to outputs=3"):
        Linear(1, 3, key=jax.random.key(0), parts=(1, 1))
