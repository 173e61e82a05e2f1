"""Imagined rollouts; what enters the losses is in `test_core_actor_critic`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxprs import stored_by_scans

from core.agent import Agent
from core.behavior.actor_critic import imagined_loss
from core.behavior.imagination import ActorCritic, imagine
from core.behavior.returns import ReturnScale
from core.loops.form import Form
from core.rssm import State
from core.sizes import ModelSize

SMALL = ModelSize(units=8, deter=16, hidden=8, stoch=4)
LARGER = ModelSize(units=16, deter=32, hidden=16, stoch=4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_imagined_actions_are_drawn_from_the_policy(dtype, getkey):
    """Also where the model computes in bfloat16, of which few numbers are normal."""
    agent = Agent(5, 4, key=getkey(), size=SMALL)
    agent = jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, agent
    )
    zeros = agent.model.rssm.initial(64)
    starts = State(jax.random.normal(getkey(), zeros.deter.shape, dtype), zeros.stoch)
    heads = ActorCritic(agent.policy, agent.value, agent.value)
    rollout = jax.jit(imagine, static_argnums=3)(
        agent.model, heads, starts, 20, key=getkey()
    )
    noise = (rollout.action - rollout.policy.mean) / rollout.policy.stddev
    noise = np.asarray(noise, np.float64).ravel()
    assert noise.shape == (20 * 64 * 4,)
    assert len(np.unique(noise.round(4))) > 0.7 * noise.size
    error = 1 / noise.size**0.5
    assert abs(noise.mean()) < 4 * error
    assert abs((noise**2).mean() - 1) < 4 * 2**0.5 * error
    assert abs((noise**3).mean()) < 4 * 15**0.5 * error


@pytest.mark.long
@pytest.mark.parametrize(
    "few_kernels", [pytest.param(False, marks=pytest.mark.long), True]
)
def test_heads_may_see_all_states_at_once(few_kernels, getkey):
    """The same numbers and the same gradients of the losses."""
    agent = Agent(5, 3, key=getkey(), size=LARGER)
    # Away from where reward and value are 0 everywhere.
    agent = jax.tree.map(lambda x: x + jax.random.normal(getkey(), x.shape) / 9, agent)
    zeros = agent.model.rssm.initial(6)
    starts = State(jax.random.normal(getkey(), zeros.deter.shape), zeros.stoch)
    key = getkey()

    def total(heads, form):
        policy, value = heads
        found = imagine(
            agent.model,
            ActorCritic(policy, value, agent.value),
            starts,
            4,
            key=key,
            form=form,
        )
        losses = imagined_loss(ReturnScale.initial(), found).losses
        return losses["policy"] + losses["value"], found

    run = jax.jit(jax.grad(total, has_aux=True), static_argnums=1)
    heads = agent.policy, agent.value
    one = run(heads, Form())
    other = run(heads, Form(heads_at_once=True, few_kernels=few_kernels))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.shape == b.shape and float(jnp.max(jnp.abs(a))) > 0
        scale = float(jnp.max(jnp.abs(a)))
        np.testing.assert_allclose(a, b, atol=1e-3 * scale)


def test_a_rollout_keeps_products_for_the_heads_gradients(getkey):
    """A CPU computes norms and activations faster again than it stores and reads."""
    agent = Agent(5, 3, key=getkey(), size=SMALL)
    starts, key = agent.model.rssm.initial(6), getkey()

    def total(heads):
        policy, value = heads
        trained = ActorCritic(policy, value, agent.value)
        found = imagine(agent.model, trained, starts, 4, key=key)
        losses = imagined_loss(ReturnScale.initial(), found).losses
        return losses["policy"] + losses["value"]

    jaxpr = jax.make_jaxpr(jax.grad(total))((agent.policy, agent.value)).jaxpr
    # Features; the products of 3 layers and of the outputs, 2 of the policy; 9 results.
    assert stored_by_scans(jaxpr)[0] <= 1 + (3 + 2) + (3 + 1) + 9
