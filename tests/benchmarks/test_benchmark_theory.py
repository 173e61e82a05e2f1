"""The command line of the studies, and what each of them prints, writes and draws."""

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from benchmarks.theory import __main__ as program
from benchmarks.theory.study import Study


def draw(figure):
    figure.subplots(1, 2)[0].plot([0, 1])


def stub(name):
    class Module:
        @staticmethod
        def run(*, quick, progress):
            for done in (0.0, 0.5, 1.0):
                progress(done)
            return Study(f"table of {name}", {"quick": quick}, draw)

    return Module


def test_all_studies_in_one_file_and_one_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "load", stub)
    json_path, png_path = tmp_path / "new" / "t.json", tmp_path / "t.png"
    arguments = ["all", "--quick", "--json", str(json_path), "--png", str(png_path)]
    assert program.main(arguments) == 0
    result = json.loads(json_path.read_text())
    assert result["what"] == "a quick check, not a measurement"
    assert list(result["studies"]) == list(program.STUDIES)
    assert all(s["quick"] and s["seconds"] >= 0 for s in result["studies"].values())
    assert result["provenance"]["versions"]["jax"]
    assert png_path.stat().st_size > 10_000
    printed = capsys.readouterr().out
    for name in program.STUDIES:
        assert f"table of {name}" in printed
    assert "bound (1 of 6): 100 %, 0 s left" in printed
    assert "--quick: a quick check, not a measurement" in printed

    (tmp_path / "file").write_text("")
    assert program.main(["noise", "--json", str(tmp_path / "file" / "x.json")]) == 2
    captured = capsys.readouterr()
    assert "error:" in captured.err and "quick check" not in captured.out


def test_options_of_one_study(tmp_path, monkeypatch, capsys):
    given = {}

    class Module:
        @staticmethod
        def run(**options):
            given.update(options)
            rows = [{"group": "a", "x": 1}, {"group": "b", "y": 0.5}]
            return Study("table", {}, draw, rows)

    monkeypatch.setattr(program, "load", lambda name: Module)
    words = "scaling --quick --seeds 100 --sampling uniform --init lecun"
    assert program.main(words.split()) == 0
    wanted = {"quick": True, "seeds": 100, "sampling": "uniform", "init": "lecun"}
    assert {key: given[key] for key in wanted} == wanted
    for flag in ("--seeds 3", "--init torch", "--sampling policy"):
        assert program.main(["noise", *flag.split()]) == 2
        assert "allowed: with scaling" in capsys.readouterr().err
    assert program.main(["noise", "--run", "a/run"]) == 0
    assert given["run"] == Path("a/run")
    assert program.main(["scaling", "--run", "a/run"]) == 2
    assert "allowed: with noise" in capsys.readouterr().err
    table = tmp_path / "new" / "rows.csv"
    assert program.main(["bound", "--csv", str(table)]) == 2
    assert not table.exists()
    assert program.main(["allocation", "--csv", str(table)]) == 0
    lines = table.read_text().splitlines()
    assert lines == ["study,group,x,y", "allocation,a,1,", "allocation,b,,0.5"]


def test_progress_lines_are_rare_and_say_what_is_left(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(program.time, "perf_counter", lambda: now[0])
    report = program.Reporter("bound", start=90.0)
    for seconds, done in ((1, 0.1), (10, 0.25), (12, 0.3), (40, 1.0)):
        now[0] = 100.0 + seconds
        report(done)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "[  20 s] bound:  25 %, 30 s left",
        "[  50 s] bound: 100 %, 0 s left",
    ]


def test_every_study_is_there():
    for name in program.STUDIES:
        assert callable(program.load(name).run)
    with pytest.raises(SystemExit):
        program.main(["unknown"])


@pytest.mark.long
@pytest.mark.parametrize("name", ["bound", "allocation"])
def test_study(name, tmp_path):
    """The quick sizes, as `--quick` runs them."""
    done = []
    study = program.load(name).run(quick=True, progress=done.append)
    assert done == sorted(done) and done[-1] == 1.0
    assert max(map(len, study.tables.splitlines())) <= 88
    json.dumps(study.entries, allow_nan=False)
    figure = Figure(figsize=(11, 4.2))
    study.draw(figure)
    figure.savefig(tmp_path / "study.png")
    if name == "bound":
        groups = study.entries["groups"]
        assert groups["synthetic"]["configurations"] == 75
        assert groups["lqg"]["configurations"] == 75
        assert not any(g[f]["violations"] for g in groups.values() for f in FORMS)
    else:
        lqg = study.entries["lqg"]
        assert lqg["overshoot"] == lqg["systems"] == 6
        assert lqg["median_abs_measured"] < 0.8


FORMS = ("joint", "split")
