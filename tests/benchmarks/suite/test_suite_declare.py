"""Suite files: what they mean, and the one line for what they may not say."""

import re
from typing import get_args

import pytest

from benchmarks.ablations import __main__ as ablations
from benchmarks.suite.__main__ import main
from benchmarks.suite.declare import FILES, Cell, load, read
from core.penalty import Decay
from train.errors import UserError

GOOD = {
    "common": "--preset smoke --steps 400",
    "tasks": ["toy-target", "pendulum-swingup"],
    "arms": {"none": "--penalty none", "gpld": ""},
}


def test_flags_of_common_task_and_arm_in_this_order():
    suite = read(
        GOOD
        | {
            "seeds": [3, 5],
            "arms": {"a": "", "b": "--steps 900"},
            "overrides": {"toy-target": "--steps 800"},
        },
        "name",
    )
    steps = {key: config.steps for key, config in suite.configs.items()}
    assert steps == {
        ("toy-target", "a"): 800,
        ("toy-target", "b"): 900,
        ("pendulum-swingup", "a"): 400,
        ("pendulum-swingup", "b"): 900,
    }
    cells = list(suite.cells())
    assert cells[0] == Cell("toy-target", "a", 3) and len(cells) == 8
    assert [cell.seed for cell in cells] == [3] * 4 + [5] * 4
    flags = "--env toy-target --preset smoke --steps 400 --steps 800 --seed 3"
    assert suite.words(cells[0]) == flags.split()
    assert suite.config(cells[0]).seed == 3
    assert str(cells[0]) == "toy-target/a/seed-3"


def test_usual_values():
    suite = read(GOOD, "name")
    assert suite.title == "name" and suite.seeds == (0,) and suite.baseline is None
    assert suite.final_episodes == 20
    quick = read(GOOD | {"seeds": [1, 2]}, "name", quick=True)
    assert quick.seeds == (1,) and quick.final_episodes == 1
    assert all(config.steps == 400 for config in quick.configs.values())


@pytest.mark.parametrize("path", sorted(FILES.glob("*.toml")), ids=lambda p: p.stem)
def test_every_suite_of_the_project_is_understood(path):
    suite = load(path.stem)
    assert suite.title != suite.name
    assert suite.baseline in suite.arms
    quick = load(path.stem, quick=True)
    assert {config.size for config in quick.configs.values()} == {"1m"}


def test_the_flags_of_a_fork_are_those_in_which_it_differs():
    record = {
        "common": "--preset laptop --steps 200000",
        "tasks": ["walker-walk"],
        "seeds": [3],
        "arms": {"late": "--penalty xla --steps 250000", "none": "--penalty none"},
        "forks": {"late": {"of": "none", "at": 1e5}},
    }
    suite = read(record, "forks")
    late, none = suite.cells()
    assert suite.source(late) == none and suite.source(none) is None
    flags = "--env walker-walk --penalty xla --steps 250000 --seed 3"
    assert suite.words(late) == flags.split()
    ours, theirs = suite.config(late), suite.config(none)
    assert ours.preset == "laptop" and ours.penalty.active
    # A stored replay buffer keeps its size.
    assert ours.replay_capacity == theirs.replay_capacity == 100_000
    assert suite.words(none)[-4:] == ["--keep-at", "100000", "--seed", "3"]
    quick = read(record, "forks", quick=True)
    assert quick.config(late).steps == quick.config(none).steps == 400
    assert quick.words(late)[:7] == [*flags.split()[:6], "--steps"]
    assert "--preset" not in quick.words(late)


@pytest.mark.parametrize(
    ("forks", "says"),
    [
        ({"x": {}}, "forks.x: no arm of this suite; allowed: a, b"),
        ({"a": {"of": "b"}}, r"forks.a: \{.*allowed: \{of = "),
        ({"a": {"of": "a", "at": 9}}, "forks.a.of: 'a'; allowed, .*: b"),
        ({"a": {"of": "b", "at": 9}, "b": {"of": "a", "at": 9}}, "forks.a.of: 'b'"),
        ({"a": {"of": "b", "at": 0}}, "forks.a.at: 0; allowed: an integer >= 1"),
        ({"a": {"of": "b", "at": 1.5}}, "forks.a.at: 1.5; allowed"),
        ({"a": {"of": "b", "at": 1e6}}, "forks.a.at: 1000000; allowed: at most the"),
    ],
)
def test_forks_that_are_not_allowed(forks, says):
    record = {"common": "--preset laptop", "tasks": ["walker-walk"]}
    record |= {"arms": {"a": "", "b": ""}, "forks": forks}
    with pytest.raises(UserError, match=says):
        read(record, "mine")


def test_evidence_compares_what_the_issue_asks_for():
    suite = load("evidence")
    assert len(suite.tasks) >= 4 and len(suite.seeds) >= 4
    arms = {arm: suite.configs[suite.tasks[0], arm].penalty for arm in suite.arms}
    assert not arms["none"].active
    assert (arms["gpld"].rho, arms["gpld"].probe_kind) == (0.5, "rademacher")
    assert (arms["exact-rho1"].rho, arms["exact-rho1"].probe_kind) == (1.0, "exact")
    for task in suite.tasks:
        assert len({suite.configs[task, arm].steps for arm in suite.arms}) == 1


def test_the_papers_protocol():
    suite = load("gpld")
    assert len(suite.tasks) == 18 and len(suite.seeds) == 5
    config = suite.configs["hopper-hop", "gpld"]
    assert (config.size, config.steps) == ("12m", 1_000_000)
    assert suite.final_episodes == 20


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"taks": []}, "taks: unknown key; allowed: title, .*nearest valid: tasks"),
        ({"tasks": "toy"}, "tasks: 'toy'; allowed: a list"),
        ({"tasks": []}, "tasks: missing or empty; wanted: a list"),
        ({"tasks": ["toy-target"] * 2}, "tasks: 'toy-target' is there twice"),
        (
            {"tasks": ["toy-targt"]},
            "task toy-targt, arm none: --env toy-targt: unknown",
        ),
        ({"tasks": ["../x"]}, "tasks: '../x' is no name of a folder"),
        ({"seeds": [0, -1]}, "seeds: -1; allowed: a list of integers >= 0"),
        ({"seeds": [True]}, "seeds: True; allowed: a list of integers"),
        ({"seeds": []}, "seeds: empty"),
        ({"final_episodes": -1}, "final_episodes: -1; allowed: an integer >= 0"),
        ({"final_episodes": True}, "final_episodes: True; allowed: an integer"),
        ({"arms": {}}, "arms: missing or empty; wanted: a table"),
        ({"arms": {"a": 3}}, "arms.a: 3; allowed: a text of flags"),
        ({"arms": {"a/b": ""}}, "arms: 'a/b' is no name of a folder"),
        (
            {"arms": {"a": "--roh 1"}},
            "arms.a: --roh: unknown flag; nearest valid: --rho",
        ),
        ({"arms": {"a": "--rho 3"}}, "arms.a: --rho 3: out of range"),
        ({"arms": {"a": "--rho '1"}}, "arms.a: No closing quotation"),
        ({"arms": {"a": "--seed 1"}}, "arms.a: --seed is not for flags; set by seeds"),
        (
            {"arms": {"a": "--sweep entropy=0,1"}},
            "arms.a: --sweep is not for flags; set by arms",
        ),
        ({"arms": {"a": "--logdir x"}}, "arms.a: --logdir .* set by --folder"),
        ({"arms": {"a": "--help"}}, "arms.a: --help is no setting"),
        ({"common": "--steps 400"}, "common: names no --preset"),
        (
            {"common": "--preset smoke --steps 2"},
            "task toy-target, arm none: --steps 2",
        ),
        ({"baseline": "nome"}, "baseline: 'nome' is no arm; .*nearest valid: none"),
        ({"overrides": {"toy": ""}}, "overrides.toy: no task of this suite"),
        ({"overrides": {"toy-target": 3}}, "overrides.toy-target: 3; allowed: a text"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(changes, says, tmp_path, capsys):
    content = GOOD | changes
    path = tmp_path / "mine.toml"
    path.write_text(toml(content))
    assert main([str(path), "--folder", str(tmp_path / "runs"), "--status"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"error: {path}: ")
    assert re.search(says, error), error
    assert not (tmp_path / "runs").exists()


def toml(content):
    """Plain TOML of such a table; tables come last."""
    text = lambda x: str(x).lower() if isinstance(x, bool) else repr(x)
    value = lambda x: (
        "[" + ", ".join(map(text, x)) + "]" if isinstance(x, list) else text(x)
    )
    lines = [f"{k} = {value(v)}" for k, v in content.items() if not isinstance(v, dict)]
    for name, table in content.items():
        if isinstance(table, dict):
            lines += [f"[{name}]", *(f'"{k}" = {value(v)}' for k, v in table.items())]
    return "\n".join(lines) + "\n"


def test_files_that_cannot_be_read(tmp_path, capsys):
    folder = ["--folder", str(tmp_path)]
    (tmp_path / "bad.toml").write_text("tasks = [")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for name, says in {
        "evidnce": "NAME evidnce: no such suite; allowed: .*nearest valid: evidence",
        str(tmp_path / "none.toml"): "none.toml: cannot be read",
        str(tmp_path / "bad.toml"): "bad.toml: not valid TOML",
        str(tmp_path / "binary.toml"): "binary.toml: not valid TOML",
    }.items():
        assert main([name, *folder]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and re.search(says, error), error


def test_ablations_are_suites(tmp_path, capsys):
    assert ablations.main([]) == 0
    listed = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in listed[:-1]]
    files = FILES.glob("ablations-*.toml")
    assert names == sorted(path.stem.removeprefix("ablations-") for path in files)
    assert ablations.main(["decay", "--folder", str(tmp_path), "--status"]) == 0
    assert "walker-walk/constant/seed-0" in capsys.readouterr().out
    assert ablations.main(["roh", "--folder", str(tmp_path)]) == 2
    assert "nearest valid: rho" in capsys.readouterr().err


def test_the_normalizations_differ_where_not_all_states_are_sampled():
    suite = load("ablations-rho")
    found = {
        (penalty.normalization, penalty.rho)
        for (task, arm), config in suite.configs.items()
        if (penalty := config.penalty).active
    }
    assert len(found) == len(suite.arms) - 1 == 7


def test_the_ablations_have_every_schedule_probe_and_coefficient():
    """What the suites are there for: an arm for each choice."""

    def penalties(name):
        configs = load(f"ablations-{name}").configs
        found = [
            config.penalty for (task, _), config in configs.items() if "walker" in task
        ]
        return [penalty for penalty in found if penalty.active]

    decays = penalties("decay")
    assert {each.decay for each in decays} == set(get_args(Decay))
    assert any(each.penalty_start > 0 for each in decays)
    by_error = [each for each in decays if each.penalty_error > 0]
    assert [each.decay for each in by_error] == ["none"]
    probes = penalties("probes")
    counts = {each.probes for each in probes if each.probe_kind == "rademacher"}
    assert counts == {1, 4} and any(each.probe_kind == "exact" for each in probes)
    starts = {(each.target, each.lambda0) for each in penalties("lambda0")}
    assert starts >= {("posterior", 0.25), ("posterior", 0.5), ("posterior", 1.0)}
    assert starts >= {("prior", 0.5), ("both", 0.25), ("both", 0.5), ("both", 0.75)}
    rho = {(each.normalization, each.rho) for each in penalties("rho")}
    partial = {
        (how, share) for how in ("sampled", "batch") for share in (0.25, 0.5, 0.75)
    }
    assert rho == partial | {("sampled", 1.0)}


def test_a_constant_coefficient_is_constant():
    penalty = load("ablations-decay").configs["walker-walk", "constant"].penalty
    assert (penalty.lambda0, penalty.decay) == (0.5, "none")
