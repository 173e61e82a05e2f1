"""`python -m benchmarks.trust`: episodes, branches, windows, and the whole of it."""

import json
import re
import shlex
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_run import configured, random_state, save_run

from benchmarks.trust.__main__ import main
from benchmarks.trust.episodes import (
    Episodes,
    Heads,
    follow,
    goes_on,
    make_record,
    realized_returns,
)
from benchmarks.trust.latent_errors.curvature import curvature
from benchmarks.trust.latent_errors.initial_error import (
    STATES,
    initial_error,
    log_bound,
)
from benchmarks.trust.latent_errors.latent_noise import latent_noise
from benchmarks.trust.report import power, ranges
from benchmarks.trust.verdict import choose_length, fork_command
from benchmarks.trust.windows import imagination_of, imagined_returns
from core.smoothness import closed_loop
from train.config.cli import parse
from train.preflight.setup import make_env
from train.run_dir import record

pytestmark = pytest.mark.long

ENV = "--env toy-target"


@pytest.fixture(scope="module")
def agent():
    return random_state(configured(ENV)).learner.agent


def episodes_of(reward, value, *, last=(), terminal=(), corrupt=()) -> Any:
    """Only what the functions under test read; one copy."""
    column = lambda x: jnp.asarray(x, float)[:, None]
    flag = lambda at: jnp.asarray(np.isin(np.arange(len(reward)), at))[:, None]
    return SimpleNamespace(
        heads=Heads(column(reward), column(reward), column(value)),
        reward=column(reward),
        is_last=flag(last),
        is_terminal=flag(terminal),
        is_corrupt=flag(corrupt),
    )


def test_realized_returns_end_with_their_episode():
    reward, value = [9, 1, 2, 9, 4, 5], [0, 0, 10, 0, 0, 20]
    found = realized_returns(episodes_of(reward, value, last=(2,)), 0.5)[:, 0]
    after = 4 + 0.5 * (5 + 0.5 * 20)
    assert found[:3] == pytest.approx([1 + 0.5 * (2 + 5), 2 + 5, 10])
    assert found[3:] == pytest.approx([after, 5 + 10, 20])
    ended = episodes_of(reward, value, last=(2,), terminal=(2,))
    assert realized_returns(ended, 0.5)[0, 0] == pytest.approx(1 + 0.5 * 2)


def test_windows_lie_within_sound_episodes():
    """Against a plain loop."""
    rng = np.random.default_rng(0)
    last, corrupt = (7, 15, 16), (11,)
    given = episodes_of(rng.normal(size=25), np.zeros(25), last=last, corrupt=corrupt)
    for length in (1, 3, 6, 24, 25):
        found = goes_on(given, length)[:, 0]
        for t in range(25):
            inside = range(t, t + length)
            wanted = (
                t + length < 25
                and not any(s in last for s in inside)
                and not any(s in corrupt for s in (*inside, t + length))
            )
            assert found[t] == wanted, (t, length)


def test_recorded_latents_follow_from_the_observations(agent):
    """z is drawn with other numbers, but the first h needs none."""
    env = make_env(configured(ENV))
    play = jax.jit(make_record(env, copies=3, decisions=6))
    episodes = play(agent, jax.random.key(0))
    assert episodes.action.shape[:2] == (6, 3)
    again = jax.jit(follow)(agent, episodes, jax.random.key(1))
    np.testing.assert_allclose(
        again.latent.deter[0], episodes.latent.deter[0], rtol=1e-5, atol=1e-6
    )
    assert again.latent.stoch.shape == episodes.latent.stoch.shape
    np.testing.assert_array_equal(again.obs, episodes.obs)


def test_imagined_returns_are_those_of_a_plain_loop(agent):
    steps, windows = 4, 2
    rssm = agent.model.rssm
    rng = np.random.default_rng(0)
    sizes = agent.policy.mean.bias.size
    noise = jnp.asarray(rng.normal(size=(steps, windows, sizes)), jnp.float32)
    uniforms = jax.random.uniform(
        jax.random.key(0), (steps, windows, rssm.categoricals)
    )
    states = rssm.initial(steps, windows)._replace(
        deter=jnp.asarray(rng.normal(size=(steps, windows, rssm.deter)), jnp.float32)
    )
    imagination = imagination_of(agent)
    found = imagined_returns(imagination, states, (noise, uniforms))
    for start in range(steps):
        state = jax.tree.map(lambda x: x[start], states)  # noqa: B023
        total, weight = 0.0, 1.0
        for t in range(start, steps):
            state, reward, discount = imagination.step(state, (noise[t], uniforms[t]))
            total, weight = total + weight * reward, weight * discount
        wanted = total + weight * imagination.value(state)
        np.testing.assert_allclose(found[start], wanted, rtol=1e-4, atol=1e-5)


def test_latent_noise_expands_the_return(agent):
    """The second-order term is the change of a small error; antithetic errors have no
    first-order term."""
    rng = np.random.default_rng(0)
    rssm = agent.model.rssm
    latent = rssm.initial(3)
    deter = jnp.asarray(0.3 * rng.normal(size=latent.deter.shape), jnp.float32)
    features = latent._replace(deter=deter).features
    # Random weights have enormous returns: near zero they are of usual size.
    small = jax.tree.map(lambda x: 0.1 * x, (agent.value, agent.model.reward))
    where = lambda a: (a.value, a.model.reward)
    agent = eqx.tree_at(where, agent, small)
    found = latent_noise(agent, features, steps=3, key=jax.random.key(0))
    assert found["valid"] > 0
    place = found["sigma"].index(found["valid"])
    predicted = found["second order"] * found["valid"] ** 2
    assert abs(found["change"][place] - predicted) < 0.3 * abs(predicted)


@pytest.mark.parametrize("words", ["", "--latent gaussian --penalty none"])
def test_an_initial_error_drives_rollouts_apart(words):
    """Squared distances are of second order in it, but where it flips a class."""
    agent = random_state(configured(f"{ENV} {words}")).learner.agent
    larger = lambda rssm: jax.tree.map(lambda w: 5 * w, rssm)
    agent = eqx.tree_at(lambda a: a.model.rssm, agent, replace_fn=larger)
    rng, rssm, steps = np.random.default_rng(0), agent.model.rssm, 3
    latent = rssm.initial(32)
    deter = jnp.asarray(rng.normal(size=latent.deter.shape), jnp.float32)
    features = latent._replace(deter=deter).features
    found = initial_error(agent, features, steps=steps, key=jax.random.key(0))
    d, first = found["d"], found["first order"]
    assert d["mean field"][:2] == pytest.approx([first] * 2, rel=0.02)
    if words:
        assert d["sampled"][0] == pytest.approx(d["sampled"][2], rel=0.05)
    else:  # 1/σ: σ is 0.003 and 0.03
        assert 3 < d["sampled"][0] / d["sampled"][2] < 30

    def rollout(x):
        for _ in range(steps):
            x = closed_loop(agent, x)
        return x

    # Φ by all its columns at each state: the estimate has 8 random ones.
    flows = jax.jit(jax.vmap(jax.jacfwd(rollout)))(features[:STATES])
    exact = float(jnp.mean(jnp.sum(jnp.square(flows), axis=(1, 2))))
    assert found["flow"] == pytest.approx(exact, rel=0.4)
    bound = found["flow bound, log10"]
    assert np.log10(exact) <= bound
    grown = rssm.features * (1 + found["rate"]) ** steps
    assert 10**bound == pytest.approx(grown)


def test_curvature_is_the_hessian_of_the_prediction_losses(agent):
    rng, rssm, states = np.random.default_rng(0), agent.model.rssm, 3
    latent = rssm.initial(states)
    deter = jnp.asarray(rng.normal(size=latent.deter.shape), jnp.float32)
    latent = latent._replace(deter=deter)
    size = agent.model.decoder(latent.features).shape[-1]
    obs = jnp.asarray(rng.normal(size=(states, size)), jnp.float32)
    reward, ends = jnp.array([0.0, 1.0, 2.0]), jnp.array([False, False, True])
    seen = Episodes(*[None] * len(Episodes._fields))._replace(  # pyright: ignore[reportArgumentType]
        latent=latent, obs=obs, reward=reward, is_terminal=ends
    )

    def loss(z, i):
        features = latent._replace(deter=deter[i], stoch=z).features
        heads = agent.model.reward(features), agent.model.cont(features)
        rewards = heads[0].loss(reward[i]) + heads[1].loss((1.0 - ends[i]) * 0.9)
        return rewards + agent.model.decoder.loss(features, obs[i])

    exact = []
    for i, z in enumerate(latent.stoch):
        matrix = jax.hessian(loss)(z, i).reshape(z.size, z.size)
        exact.append(float(jnp.trace(matrix)))
    found = curvature(agent, seen, discount=0.9, key=jax.random.key(0))
    wanted = [float(loss(z, i)) for i, z in enumerate(latent.stoch)]
    assert found["loss"] == pytest.approx(np.mean(wanted), rel=1e-4)
    assert abs(found["trace"] - np.mean(exact)) < 4 * found["of the probes"]
    assert found["entries"] == rssm.features - rssm.deter


def test_a_bound_above_every_number_keeps_its_size():
    bound = log_bound(1e12, size=100, steps=15)
    assert bound == pytest.approx(2 + 30 * 12)
    assert power(bound) == "1.0e+362"
    assert power(log_bound(30.0, size=10, steps=200)) == "7.1e+591"
    assert power(log_bound(2.0, size=3, steps=4)) == f"{3 * 2.0**8:.2g}"
    assert power(log_bound(0.0, size=3, steps=4)) == "0"


def test_the_whole_of_it(tmp_path, capsys):
    runs = []
    second = "--seed 1 --penalty xla --imagination-length 7"
    for name, words in (("a", "--seed 0"), ("b", second)):
        config = configured(f"{ENV} {words}")
        runs.append(str(save_run(tmp_path / name, config, random_state(config))))
    out, page = tmp_path / "t.json", tmp_path / "t.html"
    words = ["--run", runs[0], "--compare", runs[1], "--quick"]
    outputs = ["--json", out, "--html", page, "--png", tmp_path / "t.png"]
    assert main([*words, *map(str, outputs)]) == 0
    printed = capsys.readouterr().out
    assert "a quick check, not a measurement" in page.read_text("utf-8")
    result = json.loads(out.read_text())
    first, second = result["agents"]
    horizon = result["plan"]["horizon"]
    rows = first["summary"]["horizons"]
    assert len(rows["observation"]["mean"]) == horizon
    assert rows["unchanged"]["mean"][0] > 0
    # The same parameters in the same episodes: z is drawn anew.
    assert first["paired"]["unchanged"]["mean"][0] > 0
    assert second["summary"]["attribution"]["largest residual"] < 1e-6
    norms = second["summary"]["norms"]
    assert norms["spectral"]["closed_loop"]["largest"] > 0
    assert len(norms["growth"]["median"]) == result["plan"]["steps"]
    noise = second["summary"]["latent noise"]
    assert noise["steps"] == result["plan"]["steps"] and noise["standard error"] >= 0
    assert second["summary"]["initial error"]["flow bound, log10"] > 0
    assert "after an error of z at the start" in printed
    bent = second["summary"]["curvature"]
    assert np.isfinite(bent["trace"]) and f"{bent['trace']:.3g} (±" in printed
    lengths = [agent["imagination length"] for agent in result["agents"]]
    assert lengths[1] == 7 != lengths[0]
    for length in lengths:
        assert f"trained with {length} (" in printed
    changed = [
        agent
        for agent in result["agents"]
        if agent["chosen length"] not in (None, agent["imagination length"])
    ]
    assert printed.count("train.main --fork") == len(changed)
    # Their replay buffers are empty.
    assert printed.count("split of a sample budget: not measured, as") == 2
    bounds = second["summary"]["bounds"]
    for each in bounds["bounds"].values():
        assert each["bound"] > 0
        assert each["tightness"] == pytest.approx(bounds["largest gap"] / each["bound"])
    assert printed.count("trusted") == 2 and "At the states of" in printed
    assert (tmp_path / "t.png").stat().st_size > 0
    text = page.read_text()
    assert "Trust report" in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)


def test_what_cannot_be_measured_is_refused_in_one_line(tmp_path, capsys):
    config = configured(ENV)
    saved = str(save_run(tmp_path / "saved", config, random_state(config)))
    other = tmp_path / "other"
    other.mkdir()
    record.write(configured("--env cartpole-balance"), other / "config.json")
    short = tmp_path / "short"
    short.mkdir()
    record.write(configured(f"{ENV} --discount-horizon 20"), short / "config.json")
    for words, said in (
        (["--compare", str(other)], "allowed: runs of toy-target"),
        (["--compare", str(short)], "--discount-horizon 20; allowed: 333"),
        (["--agent", "3"], "--agent 3"),
        (["--horizon", "59", "--decisions", "59"], "--horizon 59"),
    ):
        given = ["--run", saved, "--copies", "2", "--starts", "4", *words]
        assert main(given) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SystemExit):
        main(["--quick"])


@pytest.mark.parametrize(
    ("flat", "chosen"),
    [([3, 4, 5, 15, 20], 15), ([20, 21], 20), ([0, 2, 3], 3), ([10, 20], 10)]
    + [([0], None)],
)
def test_the_chosen_length_is_the_nearest_that_is_no_worse(flat, chosen):
    measured = {"flat": flat, "squared error": {"mean": [1.0] * 31}}
    assert choose_length(measured, 15) == chosen
    assert choose_length(measured, 31) is None  # not measured


def test_the_command_for_another_length_is_one_of_train_main(tmp_path):
    words = shlex.split(fork_command(tmp_path / "my run", 25, step=4000))
    assert words[:3] == ["python", "-m", "train.main"]
    config = parse(words[3:], "cpu")
    assert config.imagination_length == 25 and config.steps == 8000
    assert config.origin.fork == str(tmp_path / "my run")
    assert config.logdir == f"{tmp_path / 'my run'}-h25"


def test_ranges_of_integers():
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert ranges([]) == ""
