"""All implementations of the penalty train the same agent."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.agent import Agent
from core.behavior.returns import ReturnScale
from core.penalty import PenaltyOptions
from core.sizes import ModelSize
from core.transition import Transition
from kernels.pallas import kernel as pallas_gpu
from train.config.cli import parse
from train.program.optimizer import make_optimizer
from train.program.state import Learner
from train.program.update import UpdateOptions, update

pytestmark = pytest.mark.long

OBS, ACTION, TIME, BATCH, UPDATES = 3, 2, 4, 2, 20
CONFIG = dataclasses.replace(
    parse(["--preset", "smoke", "--env", "toy-target", "--rho", "1"], "cpu"),
    imagination_length=2,
)
# The smallest head the kernel has a tiling for.
SIZE = ModelSize(units=8, deter=16, hidden=64, stoch=2, classes=4, blocks=2)


def learner(seed: int = 0) -> Learner:
    agent = Agent(OBS, ACTION, key=jax.random.key(seed), size=SIZE)
    zero = jnp.zeros((), jnp.int32)
    state = make_optimizer(CONFIG.optimizer).init(agent)  # pyright: ignore
    return Learner(agent, agent.value, state, ReturnScale.initial(), zero, zero, zero)


def batch(key) -> Transition:
    keys = jax.random.split(key, 3)
    flags = jnp.zeros((TIME, BATCH), bool)
    return Transition(
        jax.random.normal(keys[0], (TIME, BATCH, OBS)),
        jax.random.uniform(keys[1], (TIME, BATCH, ACTION), minval=-1.0),
        jax.random.uniform(keys[2], (TIME, BATCH)),
        flags.at[0].set(True),
        flags,
        flags,
    )


def losses(dtype, **options) -> dict[str, np.ndarray]:
    """Metrics of 20 updates on 20 batches, `[20]` each."""
    penalty = PenaltyOptions(rho=1.0, probe_kind="hadamard", probes=2, **options)
    start = learner()

    def step(state, key):
        initial = state.agent.model.rssm.initial(BATCH)
        state, _, metrics = update(
            CONFIG,
            state,
            initial,
            batch(key),
            key=key,
            options=UpdateOptions(penalty, dtype),
        )
        return state, metrics

    keys = jax.random.split(jax.random.key(7), UPDATES)
    final, metrics = jax.jit(lambda s: jax.lax.scan(step, s, keys))(start)
    assert int(final.updates) == UPDATES and int(final.skipped) == 0
    return jax.tree.map(np.asarray, metrics)


# The actor's losses are left out: where a difference in the last bit turns one sampled
# class or action into another, they jump, whatever the implementation.
COMPARED = ("loss/rec", "loss/rew", "loss/con", "loss/dyn", "loss/rep")


def compare(found, expected, *, rtol):
    for name in (*COMPARED, "penalty/posterior"):
        np.testing.assert_allclose(found[name], expected[name], rtol=rtol, err_msg=name)


def acted(expected):
    """The penalty was there, and its gradient had an effect."""
    assert expected["penalty/posterior"][-1] < 0.8 * expected["penalty/posterior"][0]


def test_the_fast_form_trains_like_the_definition():
    expected = losses(jnp.dtype("float32"), implementation="reference")
    found = losses(jnp.dtype("float32"), implementation="xla")
    compare(found, expected, rtol=1e-4)
    acted(expected)


def test_the_kernel_trains_like_the_fast_form(monkeypatch):
    calls = []
    real = pallas_gpu.row_arrays

    def counted(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(pallas_gpu, "row_arrays", counted)
    bfloat16 = jnp.dtype("bfloat16")
    expected = losses(bfloat16, implementation="xla")
    assert not calls
    found = losses(bfloat16, implementation="pallas", interpret=True)
    assert calls, "the kernel was not traced"
    # bfloat16 keeps 8 bits, and a sampled class of the posterior may turn over as well:
    # the means over the updates are what must agree.
    mean = lambda metrics: {name: np.mean(x) for name, x in metrics.items()}
    compare(mean(found), mean(expected), rtol=1e-2)
    acted(expected)
