"""The exact decomposition of a model's return error."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.theory.attribution import System, attribute, imagined_return
from envs.synthetic import lqg, teacher

STEPS, GAMMA = 12, 0.95
PARTS = ("reward", "dynamics", "continuation", "value")


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def of_lqg(system: lqg.LQG) -> System:
    """With a critic that is no true value, and episodes that may end."""
    return System(
        partial(lqg.dynamics, system),
        partial(lqg.reward, system),
        lambda s, a: GAMMA * jax.nn.sigmoid(3.0 + s[0] + a[0]),
        lambda s: -jnp.sum(jnp.square(s)),
    )


def of_teacher(weights: teacher.Teacher) -> System:
    return System(
        partial(teacher.dynamics, weights),
        partial(teacher.reward, weights),
        lambda s, a: GAMMA * jnp.ones(()),
        lambda s: jnp.sum(jnp.sin(s)),
    )


def cases():
    """A system, a policy, a start state."""
    system = lqg.make_lqg(jax.random.key(0), dynamics_norm=0.6)
    gain = lqg.make_gain(jax.random.key(1), norm=0.5)
    yield of_lqg(system), lambda s: gain @ s, jnp.array([0.5, -1.0, 0.3])
    weights = teacher.make_teacher(jax.random.key(2), state_dim=6, action_dim=3)
    start = jnp.linspace(-0.5, 0.5, 6)
    yield of_teacher(weights), lambda s: jnp.tanh(s @ weights.policy), start


def planted(true: System, size: float, *parts: str) -> System:
    """The system with a bias in the parts named."""
    wrong = {
        "dynamics": lambda s, a: true.dynamics(s, a) + size * jnp.cos(3.0 * s),
        "reward": lambda s, a: true.reward(s, a) + size * jnp.sin(s[0] + 1.0),
        "continuation": lambda s, a: true.discount(s, a) * (1.0 - size * a[0] ** 2),
        "value": lambda s: true.value(s) + size * (2.0 + s[1]),
    }
    fields = {"continuation": "discount"}
    return true._replace(**{fields.get(part, part): wrong[part] for part in parts})


def found(true, model, policy, start, steps=STEPS):
    run = jax.jit(lambda s: attribute(true, model, policy, s, steps=steps))
    return run(jnp.asarray(start, float))


@pytest.mark.parametrize("which", [0, 1], ids=["lqg", "teacher"])
@pytest.mark.parametrize("steps", [1, STEPS])
def test_the_parts_add_up_to_the_gap(which, steps):
    true, policy, start = list(cases())[which]
    result = found(true, planted(true, 0.3, *PARTS), policy, start, steps)
    assert abs(float(result.gap)) > 0.01
    total = sum(float(part) for part in result.parts.values())
    assert abs(total - float(result.gap)) < 1e-10
    assert result.reward.shape == result.dynamics.shape == (steps,)


@pytest.mark.parametrize("which", [0, 1], ids=["lqg", "teacher"])
def test_the_gap_is_that_of_plain_loops(which):
    true, policy, start = list(cases())[which]
    model = planted(true, 0.2, *PARTS)

    def rolled(system):
        state, weight, total = jnp.asarray(start, float), 1.0, 0.0
        for _ in range(STEPS):
            action = policy(state)
            total += weight * float(system.reward(state, action))
            weight *= float(system.discount(state, action))
            state = system.dynamics(state, action)
        return total + weight * float(system.value(state))

    result = found(true, model, policy, start)
    assert float(result.gap) == pytest.approx(rolled(true) - rolled(model), abs=1e-10)
    for steps in (0, 3, STEPS):
        ours = imagined_return(model, policy, start, steps, longest=STEPS)
        if steps == STEPS:
            assert float(ours) == pytest.approx(rolled(model), abs=1e-10)
        if steps == 0:
            assert float(ours) == pytest.approx(float(model.value(start)))


@pytest.mark.parametrize("which", [0, 1], ids=["lqg", "teacher"])
@pytest.mark.parametrize("part", PARTS)
def test_a_planted_bias_is_blamed_in_its_part(which, part):
    true, policy, start = list(cases())[which]
    result = found(true, planted(true, 0.2, part), policy, start)
    assert abs(float(result.gap)) > 1e-4
    for name, value in result.parts.items():
        if name == part:
            assert float(value) == pytest.approx(float(result.gap), abs=1e-10)
        else:
            assert abs(float(value)) < 1e-10, name


@pytest.mark.parametrize("which", [0, 1], ids=["lqg", "teacher"])
def test_a_perfect_model_has_no_error(which):
    true, policy, start = list(cases())[which]
    result = found(true, true, policy, start)
    assert abs(float(result.gap)) < 1e-12
    assert all(abs(float(part)) < 1e-12 for part in result.parts.values())
    np.testing.assert_allclose(result.adjoint, 0.0, atol=1e-12)


def dynamics_parts(which: int, size: float) -> tuple[jax.Array, jax.Array]:
    """The exact dynamics part and its adjoint form from 64 start states."""
    true, policy, start = list(cases())[which]
    model = planted(true, size, "dynamics")
    starts = jax.random.normal(jax.random.key(3), (64, start.size)) * 0.5
    run = jax.jit(jax.vmap(lambda s: attribute(true, model, policy, s, steps=8)))
    result = run(starts.astype(float))
    return result.dynamics.sum(1), result.adjoint.sum(1)


@pytest.mark.parametrize(("which", "size"), [(0, 0.02), (1, 1e-3)])
def test_the_adjoint_form_agrees_for_small_errors(which, size):
    exact, adjoint = dynamics_parts(which, size)
    assert float(jnp.abs(exact).mean()) > 1e-4
    assert np.corrcoef(exact, adjoint)[0, 1] > 0.98


def test_what_the_adjoint_form_leaves_out_is_of_second_order():
    left = []
    for size in (0.02, 0.01):
        exact, adjoint = dynamics_parts(0, size)
        left.append(float(jnp.abs(exact - adjoint).mean()))
    assert left[1] / left[0] == pytest.approx(0.25, abs=0.02)


def test_steps_are_checked():
    true, policy, start = next(cases())
    with pytest.raises(ValueError, match="steps=0: must be at least 1"):
        attribute(true, true, policy, start, steps=0)
