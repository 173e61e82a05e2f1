"""Section 4.1: the students, and the exponents they lead to."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.theory.scaling import study as scaling
from benchmarks.theory.scaling.students import (
    draw_data,
    initial_parameters,
    outputs,
    train,
)
from core.theory.powerlaw import fit
from envs.synthetic import teacher

MADE = teacher.make_teacher(jax.random.key(0))


def test_torch_initialisation(getkey):
    """Weights and biases uniform within 1/√fan-in, of the layer they belong to."""
    torch = initial_parameters(getkey(), (16, 400, 300), init="torch")
    for array, fan_in in zip(torch, (16, 16, 400, 400), strict=True):
        bound = fan_in**-0.5
        assert 0.98 * bound < np.max(np.abs(array)) <= bound
        np.testing.assert_allclose(np.std(array), bound / 3**0.5, rtol=0.1)
    lecun = initial_parameters(getkey(), (16, 400, 300), init="lecun")
    assert not np.any(lecun[1]) and not np.any(lecun[3])
    np.testing.assert_allclose(np.std(lecun[2]), 0.05, rtol=0.05)


@pytest.mark.parametrize("sampling", ["policy", "uniform"])
def test_data_are_the_teachers(getkey, sampling):
    data = draw_data(MADE, getkey(), 64, sampling=sampling)
    states, actions = data.inputs[:, :12], data.inputs[:, 12:]
    np.testing.assert_allclose(
        data.next_states, teacher.dynamics(MADE, states, actions), atol=2e-5
    )
    np.testing.assert_allclose(
        data.rewards[:, 0], teacher.reward(MADE, states, actions), rtol=1e-3, atol=1e-4
    )
    assert len(np.unique(data.inputs, axis=0)) == 64
    saturated = np.mean(np.abs(states) > 0.99)
    assert saturated > 0.5 if sampling == "policy" else saturated < 0.05


def test_the_tanh_head_is_the_linear_one_squashed(getkey):
    parameters = initial_parameters(getkey(), (16, 64, 12), init="torch")
    x = jax.random.normal(getkey(), (5, 16))
    linear = outputs(parameters, x, jnp.array(0.0))
    squashed = outputs(parameters, x, jnp.array(1.0))
    np.testing.assert_allclose(squashed, np.tanh(linear), rtol=1e-5)


def test_training_of_one_seed_does_not_depend_on_the_others(getkey):
    """300 transitions: a whole batch and a partial one."""
    keys = jax.random.split(getkey(), 2)
    data = jax.vmap(lambda k: draw_data(MADE, k, 300, sampling="uniform"))(keys)
    test = draw_data(MADE, getkey(), 200, sampling="uniform")
    heads = jnp.array([0.0, 1.0])

    def errors(chosen, epochs):
        return train(
            keys[chosen],
            data.inputs[chosen],
            data.next_states[chosen],
            (test.inputs, test.next_states),
            heads,
            init="torch",
            hidden=8,
            epochs=epochs,
        )

    both, one = errors(slice(0, 2), 20), errors(slice(1, 2), 20)
    assert both.shape == (2, 2)
    np.testing.assert_allclose(both[:, 1:], one, rtol=1e-4)
    untrained = errors(slice(0, 2), 0)
    assert np.all(both < 0.95 * untrained)


@pytest.mark.long
def test_tables_and_picture(tmp_path):
    from matplotlib.figure import Figure

    study = scaling.run(
        quick=True, progress=lambda done: None, seeds=2, anchors=(64, 128)
    )
    assert max(map(len, study.tables.splitlines())) <= 88
    found: dict[str, Any] = study.entries["heads"]
    assert set(found) == set(scaling.HEADS)
    for head in found.values():
        assert np.shape(head["mse"]) == (2, 2)
        assert len(head["fit_mse"]["local_slopes"]) == 1
        anchors, errors = np.array([64.0, 128.0]), np.array(head["mse"])
        for unit, values in (("mse", errors), ("rmse", np.sqrt(errors))):
            found_law = head[f"fit_{unit}"]["exponent"], head[f"fit_{unit}"]["scale"]
            law = fit(anchors, values).law
            assert found_law == pytest.approx((law.exponent, law.scale))
    figure = Figure()
    study.draw(figure)
    figure.savefig(tmp_path / "scaling.png")


@pytest.mark.slow
def test_section_4_1_quick_acceptance():
    found = scaling.run(quick=True, progress=lambda done: None).entries
    exponent = {
        head: fits["fit_mse"]["exponent"] for head, fits in found["heads"].items()
    }
    assert 0.8 <= exponent["reward"] <= 1.15
    assert 0.2 <= exponent["dynamics, linear head"] <= 0.45
    assert exponent["dynamics, tanh head"] > exponent["dynamics, linear head"] + 0.1
    assert 0.8 < found["saturated"] < 0.97
    assert found["seeds"] == 2
