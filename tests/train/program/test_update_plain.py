"""The fast update does what the plain one does."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest

from core.agent import Agent
from core.behavior.returns import ReturnScale
from core.loops.form import Form
from core.penalty import PenaltyOptions
from core.sizes import ModelSize
from core.transition import Transition
from train.config.cli import parse
from train.program import update as update_module
from train.program.optimizer import make_optimizer
from train.program.state import Learner
from train.program.update import UpdateOptions, update

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compiles")]

OBS, ACTION, TIME, BATCH, UPDATES = 3, 2, 4, 3, 20
CONFIG = dataclasses.replace(
    parse(["--preset", "smoke", "--env", "toy-target"], "cpu"),
    imagination_length=3,
)
SIZE = ModelSize(units=8, deter=16, hidden=8, stoch=3, classes=4, blocks=2)
# Rounding differs, and a difference grows from update to update.
TOLERANCE = 2e-3


def batch(key) -> Transition:
    keys = jax.random.split(key, 5)
    return Transition(
        jax.random.normal(keys[0], (TIME, BATCH, OBS)),
        jax.random.uniform(keys[1], (TIME, BATCH, ACTION), minval=-1.5, maxval=1.5),
        3 * jax.random.normal(keys[2], (TIME, BATCH)),
        jax.random.bernoulli(keys[3], 0.2, (TIME, BATCH)).at[0].set(True),
        jax.random.bernoulli(keys[4], 0.2, (TIME, BATCH)),
        jnp.zeros((TIME, BATCH), bool).at[-1, 0].set(True),
    )


def twenty_updates(
    heads_at_once: bool | None = None, few: bool | None = None
) -> dict[str, np.ndarray]:
    agent = Agent(OBS, ACTION, key=jax.random.key(0), size=SIZE)
    zero = jnp.zeros((), jnp.int32)
    optimizer = make_optimizer(CONFIG.optimizer).init(agent)  # pyright: ignore
    # Apart from the value, or half of its loss would be about itself.
    slow = jax.tree.map(lambda x: x + 0.01, agent.value)
    start = Learner(agent, slow, optimizer, ReturnScale.initial(), zero, zero, zero)

    def step(learner, key):
        initial = learner.agent.model.rssm.initial(BATCH)
        learner, states, metrics = update(
            CONFIG,
            learner,
            initial,
            batch(key),
            key=key,
            options=UpdateOptions(
                PenaltyOptions(rho=1.0), jnp.dtype("float32"), heads_at_once, few
            ),
        )
        return learner, metrics | {"h": jnp.sum(states.deter)}

    @jax.jit
    def run(keys):
        return jax.lax.scan(step, start, keys)

    with jax.default_matmul_precision("highest"):
        learner, metrics = run(jax.random.split(jax.random.key(7), UPDATES))
    size = {"size": jnp.stack([jnp.sum(x**2) for x in jax.tree.leaves(learner.agent)])}
    return jax.device_get(metrics | size)


def take_the_plain_code(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(update_module, "world_model_loss", plain.world_model_loss)
    patch.setattr(update_module, "imagine", plain.Rollout)
    patch.setattr(update_module, "imagined_loss", plain.imagined_loss)


@pytest.fixture
def plainly(monkeypatch):
    take_the_plain_code(monkeypatch)


@pytest.fixture(scope="module")
def slow() -> dict[str, np.ndarray]:
    """Metrics of twenty updates by the plain code."""
    with pytest.MonkeyPatch.context() as patch:
        take_the_plain_code(patch)
        return twenty_updates()


@pytest.mark.parametrize(
    ("heads_at_once", "few_kernels"), [(False, False), (True, False), (True, True)]
)
def test_twenty_updates_are_those_of_the_plain_code(slow, heads_at_once, few_kernels):
    fast = twenty_updates(heads_at_once, few_kernels)
    assert fast.keys() == slow.keys()
    for name, wanted in slow.items():
        scale = np.abs(wanted).max() + 1e-3
        error = np.abs(fast[name] - wanted).max() / scale
        assert error < TOLERANCE, (name, error)
    # It learned something meanwhile: the comparison was of moving numbers.
    assert slow["loss/rec"][-1] < 0.9 * slow["loss/rec"][0]


def test_the_plain_code_is_taken(plainly, monkeypatch):
    """A comparison of the fast code with itself would prove nothing."""
    calls = []
    original = plain.core
    monkeypatch.setattr(plain, "core", lambda *a: calls.append(0) or original(*a))
    jax.eval_shape(one_loss)
    assert len(calls) == TIME + 3


@pytest.mark.parametrize(
    ("platform", "dtype", "wanted"),
    [
        ("cpu", "float32", Form(False, False)),
        ("cpu", "bfloat16", Form(True, False)),
        ("gpu", "float32", Form(True, True)),
    ],
)
def test_the_form_that_suits_the_device(monkeypatch, platform, dtype, wanted):
    seen = []
    original = update_module.imagine

    def imagine(*args, form, **options):
        seen.append(form)
        return original(*args, form=form, **options)

    monkeypatch.setattr(update_module, "imagine", imagine)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    jax.eval_shape(lambda: one_loss(dtype))
    assert seen == [wanted]


def one_loss(dtype="float32"):
    agent = Agent(OBS, ACTION, key=jax.random.key(0), size=SIZE)
    zero = jnp.zeros((), jnp.int32)
    learner = Learner(agent, agent.value, (), ReturnScale.initial(), zero, zero, zero)
    return update_module.total_loss(
        CONFIG,
        learner,
        agent.model.rssm.initial(BATCH),
        batch(jax.random.key(0)),
        key=jax.random.key(1),
        options=UpdateOptions(None, jnp.dtype(dtype)),
    )[0]


def test_tanh_of_the_rewards_is_learned():
    config = dataclasses.replace(
        CONFIG, loss=dataclasses.replace(CONFIG.loss, clip_rewards="tanh")
    )
    agent = Agent(OBS, ACTION, key=jax.random.key(0), size=SIZE)
    # New output layers are zero: their cross-entropy is that of any target.
    bins = jnp.linspace(-1.0, 1.0, agent.value.out.bias.size)
    agent = eqx.tree_at(
        lambda agent: (agent.model.reward.out.bias, agent.value.out.bias),
        agent,
        (bins, bins),
    )
    zero = jnp.zeros((), jnp.int32)
    optimizer = make_optimizer(CONFIG.optimizer).init(agent)  # pyright: ignore
    learner = Learner(
        agent, agent.value, optimizer, ReturnScale.initial(), zero, zero, zero
    )
    rows = batch(jax.random.key(1))
    options = UpdateOptions(None, jnp.dtype("float32"))

    def losses(config, rows):
        initial, key = agent.model.rssm.initial(BATCH), jax.random.key(2)
        _, (_, _, metrics) = update_module.total_loss(
            config, learner, initial, rows, key=key, options=options
        )
        return metrics

    clipped = losses(config, rows)
    by_hand = losses(CONFIG, rows._replace(reward=jnp.tanh(rows.reward)))
    plain = losses(CONFIG, rows)
    assert clipped["loss/total"] == by_hand["loss/total"]
    for name in ("loss/rew", "loss/repval"):
        assert clipped[name] == by_hand[name]
        assert abs(clipped[name] - plain[name]) > 1e-4
