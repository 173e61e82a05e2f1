"""The report: what it says of runs made by hand, and that it loads nothing."""

import json
import re
import shutil
import subprocess
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.report.__main__ import main
from benchmarks.report.read import films, read_arms, read_runs, run_names
from train.config.cli import parse
from train.errors import UserError

BROWSER = shutil.which("chromium") or ""
LAPTOP = "--env cartpole-balance --preset laptop --steps 4000"


def make_run(path: Path, words: str, returns: list[float], *, agents: int = 1) -> Path:
    """A finished run with evaluations at 2000, 4000, ...: the same of each agent."""
    path.mkdir(parents=True)
    config = parse(f"{LAPTOP} {words}".split(), "cpu")
    (path / "config.json").write_text(json.dumps(asdict(config)))
    rows = [
        {"step": 2000 * i, "eval/return_mean": x, "train/skipped_updates": 1}
        for i, x in enumerate(returns, start=1)
    ]
    timing = [
        {
            "step": row["step"],
            "time/seconds": 1.8 * row["step"],
            "time/steps_per_second": speed,
            "time/updates_per_second": speed / 8,
        }
        for row, speed in zip(rows, [1.0, 2.0, 3.0, 4.0, 40.0], strict=False)
    ]
    for index in range(agents):
        folder = path / f"seed_{index}" if agents > 1 else path
        folder.mkdir(exist_ok=True)
        write_lines(folder / "metrics.jsonl", rows)
    write_lines(path / "timing.jsonl", timing)
    start = {
        "date": "2026-11-02T03:04:05+00:00",
        "commit": "0123456789abcdef",
        "versions": {"jax": "0.12.0", "mujoco": "3.17.0"},
        "machine": {"cpu": "a <b>fast</b> processor", "cores": 3, "devices": ["cpu"]},
        "command": "python -m train.main",
    }
    write_lines(path / "starts.jsonl", [start, start])
    return path


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_film(path: Path) -> Path:
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    path.parent.mkdir(exist_ok=True)
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])
    return path


class Loaded(HTMLParser):
    """What a browser would load, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [
            value or "" for name, value in attrs if name in ("src", "href")
        ]

    def handle_data(self, data):
        self.text += data + "\n"


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two seeds without a penalty, and one with it under a name that is markup."""
    return [
        make_run(tmp_path / "none" / "seed-0", "--penalty none", [1, 10]),
        make_run(tmp_path / "none" / "seed-1", "--penalty none --seed 1", [1, 20]),
        make_run(tmp_path / "<script>x" / "seed-0", "--penalty xla", [1, 30]),
    ]


def test_a_film_is_found_from_a_relative_path(tmp_path, runs, monkeypatch):
    make_film(runs[0] / "film.gif")
    monkeypatch.chdir(tmp_path)
    assert main(["none/seed-0", "--html", "r.html"]) == 0
    assert "seed-0/film.gif" in (tmp_path / "r.html").read_text("utf-8")


def test_the_page_is_whole_and_says_it_all(tmp_path, runs, capsys):
    film = make_film(runs[2] / "film.gif")
    page, data, png = (tmp_path / "out" / f"r.{x}" for x in ("html", "json", "png"))
    outputs = ["--html", str(page), "--json", str(data), "--png", str(png), "--quick"]
    assert main([*map(str, runs), *outputs]) == 0
    out = capsys.readouterr().out
    assert "cartpole-balance, --penalty none, 2 seeds" in out and "15 [10, 20]" in out
    assert png.read_bytes().startswith(b"\x89PNG")

    text = page.read_text(encoding="utf-8")
    seen = Loaded(text)
    assert "script" not in seen.tags and "b" not in seen.tags
    assert all(x.startswith(("data:", "#")) for x in seen.sources)
    assert not re.search(r"https?://|url\(|@import", text)
    assert sum(x.startswith("data:image/svg") for x in seen.sources) == 1
    assert sum(x.startswith("data:image/gif") for x in seen.sources) == 1
    assert film.stat().st_size > 0
    for said in (
        "3 runs, 3 agents, 2 configurations",
        "15 [10, 20]",
        "<script>x/seed-0",
        "a <b>fast</b> processor",
        "0123456789",
        "--penalty",
        "seed-0/film.gif",
    ):
        assert said in seen.text
    assert str(tmp_path) not in text and str(tmp_path) not in data.read_text()

    found = json.loads(data.read_text())
    assert found["what"] == "a quick check, not a measurement"
    plain, penalized = found["arms"]
    assert plain["final"] == {"value": 15.0, "low": 10.0, "high": 20.0}
    assert [agent["seed"] for agent in plain["agents"]] == [0, 1]
    assert penalized["final"] == {"value": 30.0, "low": None, "high": None}
    assert found["runs"][0]["start"]["commit"] == "0123456789abcdef"


@pytest.mark.skipif(not BROWSER, reason="no chromium here")
def test_a_browser_draws_it_without_a_complaint(tmp_path, runs):
    """Its console stays empty; the curves and a frame of the film are on screen."""
    make_film(runs[2] / "film.gif")
    page, picture = tmp_path / "r.html", tmp_path / "screen.png"
    assert main([*map(str, runs), "--html", str(page)]) == 0
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--enable-logging=stderr", "--window-size=1000,2400"]
    command += [f"--screenshot={picture}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    with Image.open(picture) as image:
        colors = {color for _, color in image.convert("RGB").getcolors(1 << 24) or []}
    assert (0x1F, 0x77, 0xB4) in colors  # matplotlib's first
    assert {(255, 0, 0), (0, 0, 255)} & colors  # a frame of the film


def test_speed_and_state_by_hand(tmp_path):
    run = make_run(tmp_path / "run", "--steps 10000", [1, 2, 3, 4, 5], agents=2)
    (found,) = read_runs([run])
    assert (found.name, found.agents, found.state) == ("run", 2, "finished")
    assert (found.step, found.total, found.starts) == (10_000, 10_000, 2)
    assert found.minutes == pytest.approx(300)
    assert found.speed == (2.0, 3.0, 4.0) and found.updates == (0.25, 0.375, 0.5)
    assert found.skipped == 2
    (arm,) = read_arms([run])
    assert [(agent.run, agent.seed) for agent in arm.agents] == [("run", 0), ("run", 1)]


def test_a_run_that_has_only_begun(tmp_path, capsys):
    run = make_run(tmp_path / "run", "", [1.0])
    (run / "timing.jsonl").write_text("")
    (run / "starts.jsonl").unlink()
    page = tmp_path / "r.html"
    assert main([str(run), "--html", str(page), "--quick"]) == 0
    seen = Loaded(page.read_text(encoding="utf-8"))
    assert "stopped" in seen.text and "Differences" not in seen.text
    assert "--video RUN/film.gif" in seen.text


@pytest.mark.long
def test_without_a_name_the_page_is_here(tmp_path, runs, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(runs[0]), str(runs[0]), "--quick"]) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1 run, 1 agent, 1 configuration" in text
    assert "wrote report.html" in capsys.readouterr().out


def test_films_of_the_first_agent_that_has_some(tmp_path, runs, monkeypatch):
    make_film(runs[1] / "a.gif")
    for step in ("000100", "000200"):
        make_film(runs[1] / "openloop" / f"{step}.gif")
    plain = read_arms(runs)[0]
    pictures, large = films(plain)
    ends = [picture.caption.rpartition(": ")[2] for picture in pictures]
    assert ends == ["seed-1/a.gif", "seed-1/openloop/000200.gif"] and large == []
    monkeypatch.setattr("benchmarks.report.read.LARGEST_FILM", 10)
    assert films(plain) == ([], ends)
    monkeypatch.undo()
    (runs[1] / "a.gif").write_text("<svg onload=...>")
    with pytest.raises(UserError, match=r"a\.gif: not a GIF"):
        films(plain)


def test_names_tell_runs_apart(tmp_path):
    paths = [tmp_path / x for x in ("a/none/s0", "a/none/s1", "a/gpld/s0")]
    assert list(run_names(paths).values()) == ["none/s0", "none/s1", "gpld/s0"]
    assert list(run_names(paths[:1]).values()) == ["s0"]


def test_mistakes_end_in_one_line(tmp_path, capsys):
    run = make_run(tmp_path / "run", "", [1.0], agents=2)
    for words, says in [
        ([str(tmp_path / "absent")], "no such directory"),
        ([str(tmp_path)], "not a run, but it holds 1"),
        ([str(run / "seed_0")], "has no config.json; allowed: directories of runs"),
        ([str(run), "--html", str(tmp_path)], "cannot be written"),
    ]:
        assert main([*words, "--quick"]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1
    (run / "starts.jsonl").write_text("{")
    assert main([str(run)]) == 2
    assert "starts.jsonl: not JSON" in capsys.readouterr().err


def test_a_run_without_a_return_is_left_out(tmp_path, capsys):
    old = make_run(tmp_path / "old", "--seed 1", [1.0, 2.0])
    young = make_run(tmp_path / "new", "--seed 2", [])
    page = tmp_path / "page.html"
    assert main([str(old), str(young), "--html", str(page)]) == 0
    warning = capsys.readouterr().err
    assert warning.startswith("warning: left out, RUN_DIR") and str(young) in warning
    assert "old" in page.read_text() and warning.count("\n") == 1
    assert main([str(young), "--html", str(page)]) == 2
    assert "wait for the first episode" in capsys.readouterr().err
