"""`--imagination-starts`: rollouts from the last states of each sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.agent import Agent
from core.behavior.returns import ReturnScale
from core.networks.transforms import unmerge
from core.sizes import ModelSize
from core.transition import Transition
from train.config.cli import parse
from train.program import update as update_module
from train.program.state import Learner
from train.program.update import UpdateOptions, total_loss

pytestmark = pytest.mark.usefixtures("quick_compiles")

OBS, ACTION, TIME, BATCH = 3, 2, 5, 2
SIZE = ModelSize(units=8, deter=16, hidden=8, stoch=3, classes=4, blocks=2)


def replayed() -> Transition:
    keys = jax.random.split(jax.random.key(0), 3)
    never = jnp.zeros((TIME, BATCH), bool)
    return Transition(
        jax.random.normal(keys[0], (TIME, BATCH, OBS)),
        jax.random.uniform(keys[1], (TIME, BATCH, ACTION), minval=-1.0),
        jax.random.normal(keys[2], (TIME, BATCH)),
        never.at[0].set(True),
        never,
        never,
    )


@pytest.mark.parametrize(("flag", "count"), [("0", TIME), ("2", 2)])
def test_rollouts_start_from_the_last_states(monkeypatch, flag, count):
    words = "--preset smoke --env toy-target --batch-length 5 --imagination-length 2"
    config = parse([*words.split(), "--imagination-starts", flag], "cpu")
    seen = {}
    imagine, value_loss = update_module.imagine, update_module.replayed_value_loss
    loss_of_rollouts = update_module.imagined_loss

    def spy_imagine(model, heads, starts, *args, **options):
        seen["starts"] = starts.features
        return imagine(model, heads, starts, *args, **options)

    def spy_rollouts(*args):
        found = loss_of_rollouts(*args)
        seen["returns"] = found.returns
        return found

    def spy_value(value, slow, features, batch, bootstrap, constants):
        seen.update(features=features, reward=batch.reward, bootstrap=bootstrap)
        return value_loss(value, slow, features, batch, bootstrap, constants)

    monkeypatch.setattr(update_module, "imagine", spy_imagine)
    monkeypatch.setattr(update_module, "imagined_loss", spy_rollouts)
    monkeypatch.setattr(update_module, "replayed_value_loss", spy_value)
    agent = Agent(OBS, ACTION, key=jax.random.key(1), size=SIZE)
    zero = jnp.zeros((), jnp.int32)
    learner = Learner(agent, agent.value, (), ReturnScale.initial(), zero, zero, zero)
    rows = replayed()

    @jax.jit
    def losses():
        initial, key = agent.model.rssm.initial(BATCH), jax.random.key(2)
        options = UpdateOptions(None, jnp.dtype("float32"))
        _, (_, states, metrics) = total_loss(
            config, learner, initial, rows, key=key, options=options
        )
        return states.features, metrics["loss/total"], seen

    features, total, found = losses()
    assert len(features) == TIME and jnp.isfinite(total)
    starts = unmerge(found["starts"], (count, BATCH))
    returns = unmerge(found["returns"], (count, BATCH))
    np.testing.assert_array_equal(starts, features[-count:])
    np.testing.assert_array_equal(found["features"], features[-count:])
    np.testing.assert_array_equal(found["reward"], rows.reward[-count:])
    # The imagined return of each state stands at that state.
    np.testing.assert_array_equal(found["bootstrap"], returns)
