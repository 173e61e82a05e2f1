"""The exact decomposition of a model's return error."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.theory.attribution import (
    Recorded,
    System,
    attribute,
    attribute_recorded,
    imagined_return,
)
from core.theory.bounds import LipschitzConstants, ModelErrors, check_bounds
from envs.synthetic import lqg, teacher

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compiles")]

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


def tight(dynamics: float, errors: ModelErrors) -> tuple[System, System]:
    """The linear system and model that attain the bounds, with L_r = 0.7."""
    slope = errors.critic_slope
    true = System(
        lambda s, a: dynamics * (s + a),
        lambda s, a: 0.7 * (s + a)[0],
        lambda s, a: 0.9 * jnp.ones(()),
        lambda s: slope * s[0],
    )
    model = System(
        lambda s, a: true.dynamics(s, a) + errors.dynamics,
        lambda s, a: true.reward(s, a) + errors.reward,
        true.discount,
        lambda s: true.value(s) + errors.critic,
    )
    return true, model


def tight_checks(dynamics: float, errors: ModelErrors, steps: int):
    true, model = tight(dynamics, errors)
    gap = float(found(true, model, lambda s: 0.4 * s, [0.0], steps).gap)
    constants = LipschitzConstants.joint(dynamics=dynamics, reward=0.7, policy=0.4)
    largest = 2 * abs(gap)
    return check_bounds(
        gap, constants, errors, discount=0.9, horizon=steps, largest_gap=largest
    )


@pytest.mark.parametrize("dynamics", [0.6, 1 / 1.4, 0.9])
def test_the_bounds_with_a_critic_are_attained(dynamics):
    checks = tight_checks(dynamics, ModelErrors(0.1, 0.2, 0.3, 1.5), 15)
    assert set(checks) == {"horizon, split", "horizon, joint"}
    for check in checks.values():
        assert check.tightness == pytest.approx(1.0, abs=1e-9)
        assert not check.vacuous


@pytest.mark.parametrize("dynamics", [0.6, 1 / 1.4, 0.9])
def test_the_adjoint_form_is_exact_on_the_tight_instances(dynamics):
    """Their imagined return is linear in the state, whatever the size of the errors."""
    true, model = tight(dynamics, ModelErrors(0.7, 0.2, 0.3, 1.5))
    result = found(true, model, lambda s: 0.4 * s, [0.5], 15)
    assert abs(float(result.dynamics.sum())) > 0.1
    np.testing.assert_allclose(result.adjoint, result.dynamics, rtol=1e-9)


def test_lemma_1_is_attained_by_a_long_return():
    check = tight_checks(0.6, ModelErrors(0.1, 0.2), 300)["Lemma 1"]
    assert check.tightness == pytest.approx(1.0, abs=1e-9)


def test_a_bound_without_its_condition_is_vacuous():
    check = tight_checks(0.9, ModelErrors(0.1, 0.2), 15)["Lemma 1"]
    assert check == (float("inf"), 0.0, True)


def test_a_bound_that_says_nothing_is_called_vacuous():
    constants = LipschitzConstants(0.5, 0.2, 1.0, 0.3, 0.5)
    errors = ModelErrors(0.1, 0.1)
    for largest, vacuous in ((0.1, True), (100.0, False)):
        checks = check_bounds(
            0.01, constants, errors, discount=0.9, horizon=9, largest_gap=largest
        )
        assert [check.vacuous for check in checks.values()] == [vacuous] * 3
        split, joint, lemma = (check.bound for check in checks.values())
        assert 0.01 < split < joint < lemma
    with pytest.raises(ValueError, match="largest_gap=0 must be above 0"):
        check_bounds(0.0, constants, errors, discount=0.9, horizon=9, largest_gap=0)


@pytest.mark.parametrize("steps", [1, 7])
def test_recorded_parts_add_up_to_the_gap(steps):
    """For any numbers: also sampled ones, and an episode that ended."""
    rng = np.random.default_rng(0)
    draw = lambda: jnp.asarray(rng.normal(size=(steps, 5)))
    discount = jnp.asarray(rng.uniform(size=(steps, 5))).at[-1, 2].set(0.0)
    true = Recorded(draw(), discount, draw()[0])
    model = Recorded(draw(), jnp.abs(draw()), draw()[0])
    imagined = draw()
    found = attribute_recorded(true, model, imagined)
    total = sum(found.parts.values())
    assert np.max(np.abs(total - found.gap)) < 1e-12
    realized = true.value
    for r, d in zip(true.reward[::-1], true.discount[::-1], strict=True):
        realized = r + d * realized
    np.testing.assert_allclose(found.gap, realized - imagined[0], atol=1e-12)
    assert found.reward.shape == (steps, 5)


@pytest.mark.parametrize("which", [0, 1], ids=["lqg", "teacher"])
def test_recorded_attribution_is_that_of_the_system(which):
    """A deterministic system whose states are observed: the same four parts."""
    true, policy, start = list(cases())[which]
    model = planted(true, 0.2, *PARTS)
    wanted = found(true, model, policy, start)
    state, rows, imagined = jnp.asarray(start, float), [], []
    for t in range(STEPS):
        action = policy(state)
        left = STEPS - t
        imagined.append(imagined_return(model, policy, state, left, longest=STEPS))
        rows.append([x(state, action) for s in (true, model) for x in (s[1], s[2])])
        state = true.dynamics(state, action)
    reward, discount, r, d = jnp.asarray(rows).T
    result = attribute_recorded(
        Recorded(reward, discount, true.value(state)),
        Recorded(r, d, model.value(state)),
        jnp.asarray(imagined),
    )
    assert abs(float(result.gap - wanted.gap)) < 1e-10
    for part in ("reward", "dynamics", "continuation", "value"):
        np.testing.assert_allclose(
            getattr(result, part), getattr(wanted, part), atol=1e-10
        )
    assert result.adjoint is None


def test_recorded_shapes_are_checked():
    one, two = jnp.zeros((3, 2)), jnp.zeros((2, 2))
    end = jnp.zeros(2)
    with pytest.raises(ValueError, match="must be equal"):
        attribute_recorded(Recorded(one, one, end), Recorded(one, two, end), one)
    none = jnp.zeros((0, 2))
    with pytest.raises(ValueError, match="at least one step"):
        attribute_recorded(Recorded(none, none, end), Recorded(none, none, end), none)
