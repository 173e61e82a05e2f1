"""`python -m benchmarks.robustness`: conditions, tables, correlations."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from robust_runs import save_runs, sensitive
from saved_run import configured, random_state, save_run
from scipy import stats

import envs
from benchmarks.robustness import correlate, report
from benchmarks.robustness.__main__ import main
from benchmarks.robustness.draw import draw
from benchmarks.robustness.kinds import kinds_of
from benchmarks.robustness.play import (
    Player,
    Trained,
    Trials,
    block_size,
    norms,
    read_agents,
)
from benchmarks.robustness.strips import draw_strips, make_strips
from benchmarks.robustness.surface import AXES, singles, surface_of
from benchmarks.sensitivity.measure import make_visit
from core.penalty import recurrent_penalty
from envs.perturb import ImagePerturbation
from train import evaluate
from train.rollout.openloop import CONTEXT

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return save_runs(tmp_path_factory.mktemp("robust"))


def test_the_whole_of_it(runs, tmp_path, capsys):
    out, png = tmp_path / "out.json", tmp_path / "out.png"
    words = ["--run", *runs, "--quick", "--json", str(out), "--png", str(png)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert [kind["name"] for kind in result["kinds"]] == ["noise", "latent"]
    assert [one["run"] for one in result["final"]] == ["a0", "a1", "b0"]
    assert all(one["step"] == 400 for one in result["final"])
    for kind in result["kinds"]:
        returns = np.array(kind["returns"])
        assert returns.shape == (3, len(kind["keys"]), 2)
        # The same parameters, starts and random numbers.
        np.testing.assert_array_equal(returns[0], returns[1])
        assert kind["keys"][0] == "clean"
        assert not np.array_equal(returns[0, 0], returns[0, -1])
    surface = result["surface"]
    assert set(surface["axes"]) == {"noise", "latent"}  # a toy has no physics
    assert surface["grid"][0] == [0, 0] and len(surface["agents"]) == 3
    assert surface["returns"][0][0] == pytest.approx(surface["clean"][0])
    assert min(surface["norms"]["posterior"]) > 0
    assert "noise: mean ± standard deviation" in printed and "too few" in printed
    assert png.stat().st_size > 1000
    assert len(draw(result).axes) == 6  # 2 kinds, single changes, 3 norms


def test_a_condition_is_that_of_train_evaluate(runs, tmp_path, capsys):
    """The same number of episodes, seed and strength: the same returns."""
    out, other = tmp_path / "out.json", tmp_path / "evaluate.json"
    words = ["--run", runs[0], "--only", "grids", "--episodes", "3", "--seed", "7"]
    assert main([*words, "--json", str(out)]) == 0
    kinds = {kind["name"]: kind for kind in json.loads(out.read_text())["kinds"]}
    conditions = ["--perturb", "none", "noise:0.35", "--latent-error", "none", "5"]
    words = ["--run", runs[0], "--episodes", "3", "--seed", "7", *conditions]
    assert evaluate.main([*words, "--json", str(other)]) == 0
    capsys.readouterr()
    found = {
        row["condition"]: row["returns"]
        for row in json.loads(other.read_text())["conditions"]
    }
    noise, latent = kinds["noise"], kinds["latent"]
    ours = {
        "none latent error none": noise["returns"][0][0],
        "noise:0.35 latent error none": noise["returns"][0][
            noise["keys"].index("noise:0.35")
        ],
        "none latent error 5": latent["returns"][0][latent["keys"].index("latent:5")],
    }
    for label, returns in ours.items():
        np.testing.assert_allclose(returns, found[label], rtol=1e-4)


def test_kinds_of_pixels_are_the_papers():
    kinds = {
        kind.name: kind for kind in kinds_of(envs.make("walker-walk", obs="pixels"))
    }
    assert set(kinds) == {"noise", "rotate", "mask", "gravity", "mass", "latent"}
    assert kinds["noise"].keys[:2] == ("clean", "noise:0.05")
    assert kinds["noise"].keys[-1] == "noise:0.55"
    seen = kinds["noise"].conditions.perturbation
    assert isinstance(seen, ImagePerturbation)
    np.testing.assert_allclose(seen.mean, [0, *[0.5] * 11])
    assert kinds["rotate"].keys == ("clean", "rotate:10", "rotate:20", "rotate:30")
    assert kinds["mask"].levels == (0, *range(25, 80, 5))
    gravity = kinds["gravity"].conditions.gravity
    assert gravity is not None
    np.testing.assert_allclose(gravity, [9.81, 6, 4, 2, 1])
    latent = kinds["latent"].conditions.latent
    assert latent is not None
    np.testing.assert_allclose(latent.mean[1], [0, 0, 0, 0, 0, 5])
    # Every column of the paper's tables that sum up is played.
    played = {key for kind in kinds.values() for key in kind.keys} | {"gravity:9.8"}
    for name in ("table1", "table2", "table3", "table13", "table14"):
        assert set(report.paper()[name]["columns"]) <= played
    for (domain, kind), name in report.LEVELS.items():
        table = report.paper()[name]
        assert (table["task"], table["kind"]) == (domain, kind)
        assert {row[0] for row in table["rows"]} <= set(kinds[kind].levels)


def test_the_surface_is_the_full_factorial():
    env = envs.make("walker-walk")
    surface = surface_of(env, AXES)
    assert len(surface.grid) == 3 * 3 * 2 * 2 * 2
    assert surface.grid[0] == (1, 1, 1, 1, 0, 0) and len(set(surface.grid)) == 72
    physics = surface.conditions.physics
    assert physics is not None
    np.testing.assert_allclose(sorted(set(physics["gravity"])), [4.905, 9.81, 14.715])
    assert surface.conditions.latent is None  # one level, that of training
    few = surface_of(env, {"noise": (0.0,), "latent": (0.0, 1.0)})
    assert few.conditions.perturbation is None and few.conditions.latent is not None


def test_fewer_changed_axes():
    """Of 72: the unchanged one, 7 single changes, 19 pairs."""
    env = envs.make("walker-walk")
    pairs = surface_of(env, AXES, changed=2)
    alone = surface_of(env, AXES, changed=1)
    full = surface_of(env, AXES)
    assert [len(x.grid) for x in (alone, pairs, full)] == [8, 27, 72]
    assert alone.grid[0] == full.grid[0]
    assert set(alone.grid) < set(pairs.grid) < set(full.grid)
    names = {"axes": full.axes, "grid": full.grid}
    found = singles(names)
    assert set(found) >= {"gravity × 0.5", "mass × 1.5", "noise σ² 0.1"}
    assert sorted(full.grid[place] for place in found.values()) == sorted(
        alone.grid[1:]
    )


def test_an_axis_without_effect_is_left_out():
    """Friction without contacts; a factor of a mass in a model with muscles."""
    surface = surface_of(envs.make("pendulum"), AXES)
    assert surface.left_out == {"friction": "this model has no contacts"}
    assert len(surface.grid) == 36 and "friction" not in surface.axes
    toy = surface_of(envs.make("toy-target"), AXES)
    assert set(toy.left_out) == {"gravity", "mass", "friction", "gain"}
    assert set(toy.axes) == {"noise", "latent"}


def test_a_block_of_any_size_gives_the_same_returns(runs):
    """Also where the last one is filled up."""
    agents = read_agents([Path(run) for run in runs], last_only=True)
    (_, kind) = kinds_of(agents.env)
    trials = Trials(episodes=3, seed=5)
    count = len(kind.keys)
    whole, parts = (
        Player(agents, trials, block=block)(agents, kind.conditions)
        for block in (count, 4)
    )
    assert count == 6 and whole.shape == (3, count, 3)
    np.testing.assert_allclose(whole, parts, rtol=2e-6)
    # Far more than that lies between any two conditions.
    apart = np.diff(np.sort(whole[0, :, 0])) / whole[0, 0, 0]
    assert np.all(apart > 2e-5)
    few = Player(agents, trials._replace(decisions=3), block=4)(agents, kind.conditions)
    assert np.all(few < whole)  # rewards are positive


def test_blocks_are_small_for_large_models():
    counts = [29, 72]
    walker, toy = envs.make("walker-walk"), envs.make("toy-target")
    assert block_size(walker, 4, counts=counts) == 4  # 16 Walkers
    assert block_size(walker, 100, counts=counts) == 1
    assert block_size(toy, 2, counts=counts) == 72


def test_the_norm_of_the_recurrent_map_is_that_of_the_penalty(runs):
    """At the states that the agent visits; the penalty's probes are random."""
    agents = read_agents([Path(runs[0])], last_only=True)
    found = norms(agents, copies=2, decisions=10, seed=0)["recurrent map"]
    agent = jax.tree.map(lambda x: x[0], agents.stacked)
    visit_key, _ = jax.random.split(jax.random.key(0))
    seen = make_visit(agents.env, copies=2, decisions=10)(agent, visit_key)
    given = {"key": jax.random.key(1), "probes": 300}
    estimated = recurrent_penalty(agent.model.rssm, seen.latent, seen.action, **given)
    assert found.shape == (1,)
    assert found[0] == pytest.approx(np.mean(np.square(estimated)), rel=0.03)


def test_the_tables_have_the_papers_numbers_and_slips():
    kinds = kinds_of(envs.make("walker-walk", obs="pixels"))
    result = {
        "task": "walker-walk",
        "obs": "pixels",
        "episodes": 2,
        "arms": ["ours"],
        "final": [{"arm": "ours"}],
        "kinds": [
            {
                "name": kind.name,
                "levels": list(kind.levels),
                "keys": list(kind.keys),
                "returns": [[[100.0 + i, 102.0 + i] for i in range(len(kind.keys))]],
            }
            for kind in kinds
        ],
        "surface": None,
    }
    text = report.tables(result)
    (row,) = [line for line in text.splitlines() if line.startswith("mask:50")]
    ours, *theirs = "mask:50 107.0 ± 1.0", "725.8 ± 43.9", "583.4 ± 76.5"
    assert row.split() == " ".join([ours, *theirs]).split()
    assert "paper (images): Jac Reg (Walker)" in text
    assert "paper (images): Jac Reg (Quad)" not in text
    assert "batch 64" in text and "Table 8: the baseline's means repeat" in text
    assert len(draw(result).axes) == 6


def test_slips_are_in_the_tables_as_written():
    """Each that two tables show is checked on their numbers."""
    paper = report.paper()
    base = lambda name: [row[3] for row in paper[name]["rows"]]
    assert base("table7") == base("table8")
    of = lambda name, level: next(r for r in paper[name]["rows"] if r[0] == level)
    sums = paper["table2"]["rows"]
    columns = paper["table2"]["columns"]
    at = lambda label, key: sums[label][columns.index(key)]
    assert at("Jac Reg (Walker)", "noise:0.35") != of("table8", 0.35)[1]
    assert at("Baseline (Walker)", "noise:0.5") != of("table8", 0.5)[3]
    quad = of("table11", 0.3)
    assert at("Jac Reg (Quad)", "noise:0.35") == quad[1]
    assert at("Baseline (Quad)", "noise:0.35") == pytest.approx(quad[3], abs=0.02)
    assert at("Jac Reg (Quad)", "noise:0.5") != of("table11", 0.5)[1]


def trained(runs: int, steps: int) -> list[Trained]:
    return [
        Trained("arm", f"run{r}", r, s, s == steps - 1)
        for r in range(runs)
        for s in range(steps)
    ]


def test_rank_correlations_are_scipys():
    rng = np.random.default_rng(0)
    x = rng.normal(size=24)
    y = x + rng.normal(size=24)
    found = correlate.correlate(x, y, trained(8, 3))
    assert found is not None and found.low is not None and found.high is not None
    assert found.value == pytest.approx(stats.spearmanr(x, y)[0])
    assert found.low < found.value < found.high and found.agents == 24
    # What both follow leaves little to say once it is given.
    both = rng.normal(size=200)
    a, b = (both + 0.1 * rng.normal(size=200) for _ in range(2))
    plain = correlate.correlate(a, b, trained(200, 1))
    partial = correlate.correlate(a, b, trained(200, 1), given=both)
    assert plain is not None and partial is not None
    assert plain.value > 0.95 and abs(partial.value) < 0.25


def test_the_paragraph_says_which_side():
    """And that able agents have more to lose, where they do."""
    of = lambda *numbers: correlate.Correlation(*numbers, agents=8)
    row = {"drop": of(0.5, 0.1, 0.9), "drop given return": of(0.2, -0.4, 0.8)}
    text = correlate.paragraph({"prior": row}, of(0.76, 0.4, 0.9))
    assert "has little to lose" in text and "+0.76 [+0.40, +0.90]" in text
    assert "smoother maps lost less" in text
    row["drop"] = of(-0.5, -0.9, -0.1)
    text = correlate.paragraph({"prior": row}, of(-0.3, -0.6, 0.1))
    assert "smoother maps lost more" in text and "little to lose" not in text
    row["drop"] = of(0.5, -0.1, 0.9)
    assert "0 is not excluded" in correlate.paragraph({"prior": row})


def test_too_little_for_a_correlation():
    few = trained(4, 1)
    assert correlate.correlate(np.arange(4.0), np.arange(4.0), few) is None
    flat = correlate.correlate(np.ones(6), np.arange(6.0), trained(6, 1))
    assert flat is None
    one_run = correlate.correlate(np.arange(6.0), np.arange(6.0), trained(1, 6))
    assert one_run is not None and one_run.low is None and one_run.value == 1
    drop = correlate.relative_drop(np.array([[100.0, 50, 0], [0, 10, 10]]))
    assert drop[0] == pytest.approx(0.75) and np.isnan(drop[1])


def test_refusals(runs, tmp_path, capsys):
    config = configured("--env toy-constant")
    other = str(save_run(tmp_path / "other", config, random_state(config)))
    assert main(["--run", runs[0], other, "--quick"]) == 2
    assert "allowed: runs of one task" in capsys.readouterr().err
    for words in ("mass=0", "speed=1", "noise=-1", "noise="):
        with pytest.raises(SystemExit, match="2"):
            main(["--run", runs[0], "--axis", words])


@pytest.mark.slow
def test_quick_of_a_simulated_run(tmp_path, capsys):
    """With physics."""
    config = configured("--env cartpole-swingup")
    run = save_run(tmp_path / "run", config, random_state(config))
    out = tmp_path / "out.json"
    assert main(["--run", str(run), "--quick", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    names = [kind["name"] for kind in result["kinds"]]
    assert names == ["noise", "gravity", "mass", "latent"]
    # A cartpole has no contacts.
    assert set(result["surface"]["axes"]) == set(AXES) - {"friction"}
    assert len(result["surface"]["grid"]) == 2**4  # two levels, but one latent error
    assert "Unseen dynamics" in capsys.readouterr().out


def test_strips_need_images(runs, tmp_path, capsys):
    words = ["--run", runs[0], "--only", "grids", "--quick"]
    assert main([*words, "--strips", str(tmp_path / "strips.png")]) == 2
    assert "--strips: these runs of toy-target see states" in capsys.readouterr().err


@pytest.mark.slow
def test_strips_of_an_agent_that_sees_images(tmp_path):
    config = configured("--env cartpole-balance --obs pixels")
    run = save_run(tmp_path / "run", config, sensitive(config))
    agents = read_agents([run], last_only=True)
    truth, plain, zero, drift = make_strips(agents, seed=0)
    assert truth.error is None and truth.images.shape == (50, 64, 64, 3)
    np.testing.assert_array_equal(truth.images, truth.images.clip(0, 1))
    for strip in (plain, zero, drift):
        squares = np.square(strip.images - truth.images)[CONTEXT:]
        assert strip.error == pytest.approx(squares.mean(), rel=1e-4)
    assert "σ² = 5" in zero.label and not np.array_equal(plain.images, zero.images)
    assert len(draw_strips([truth, plain]).axes) == 2 * 10


def test_runs_of_one_name_in_several_arms_are_several():
    """A suite's folders: TASK/ARM/seed-N."""
    who = [Trained(f"arm{a}", "seed-0", 0, 100, True) for a in range(6)]
    found = correlate.correlate(np.arange(6.0), np.array([0.0, 2, 1, 3, 5, 4]), who)
    assert found is not None and found.low is not None
