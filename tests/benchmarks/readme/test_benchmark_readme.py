"""The README's generated tables: they agree with the results, and with nothing else."""

import json
from pathlib import Path

import pytest

from benchmarks.cli import QUICK, WAS_QUICK
from benchmarks.gpu.parts import STAGES
from benchmarks.readme import __main__ as readme
from benchmarks.readme import tables as readme_tables

MARKS = {
    document: "".join(
        f"{name}\n<!-- generated: {name} -->\nold\n<!-- end: {name} -->\n"
        for name in names
    )
    for document, names in readme.DOCUMENTS.items()
}
BENCHMARKS = "docs/benchmarks.md"
RESULTS = "benchmarks/results"
PROVENANCE = {
    "date": "2026-01-02T03:04:05+00:00",
    "commit": "0123456789abcdef",
    "modified": False,
    "versions": {"jax": "0.12.0"},
    "machine": {"cpu": "Some CPU", "cores": 2, "devices": ["cpu"]},
}
SHAPE = {"batch_size": 16, "batch_length": 64, "imagination_length": 25}


def spread(value):
    return {"median": value, "low": value, "high": value}


def overhead(size="12m", ratio=1.25, **provenance):
    row = {
        "implementation": "xla",
        "target": "posterior",
        "rho": 0.5,
        "probe_kind": "rademacher",
        "probes": 1,
        "step_ratio": ratio,
        "step_ratio_interval": [ratio - 0.1, ratio + 0.1],
        "step_seconds": 2.5,
    }
    return {
        "provenance": PROVENANCE | provenance,
        "what": "a measurement",
        "shape": {"size": size, **SHAPE},
        "clock": "processor time",
        "baseline_seconds": spread(2.0),
        "paper": {"0.5": 1.51},
        "rows": [row | {"implementation": "none", "step_ratio": 1.0}, row],
    }


def throughput():
    update = {
        "size": "1m",
        **SHAPE,
        "dtype": "float32",
        "seconds": spread(0.345),
        "seconds_with_penalty": spread(0.35),
        "phases": {"world model": spread(0.0345), "penalty": spread(0.005)},
        "flops": 69_000_000_000,
        "product_flops": 400e9,
        "peak_bytes": None,
        "compile_seconds": 9.0,
        "warm_seconds": 2.0,
    }
    loop = {
        "preset": "laptop",
        "env": "walker-walk",
        "updates_per_second": 30.0,
        "env_steps_per_second": 240.0,
        "decisions_per_second": 120.0,
        "collect_share": spread(0.05),
        "replay_share": spread(0.01),
        "host_share": 0.002,
    }
    seeds = [
        {"size": "1m", "count": 1, "seconds": spread(0.35), "ratio": spread(1.0)},
        {"size": "1m", "count": 8, "seconds": spread(2.0), "ratio": spread(0.714)},
    ]
    record = {"updates": [update], "seeds": seeds, "loop": loop}
    return {"provenance": PROVENANCE, "what": "a measurement", **record}


def beside(size="1m"):
    row = {
        key: spread(value)
        for key, value in {
            "wall": 0.5,
            "processor": 0.9,
            "wall_ratio": 2.25,
            "processor_ratio": 2.125,
        }.items()
    }
    return {
        "provenance": PROVENANCE,
        "what": "a measurement",
        "size": size,
        **SHAPE,
        "rounds": 9,
        "rows": [{"name": "theirs", **row}],
    }


@pytest.fixture
def written(tmp_path):
    """Writes results and documents with marks, and rewrites these."""
    (tmp_path / "docs").mkdir()
    for document, text in MARKS.items():
        (tmp_path / document).write_text(text)

    def write(status=0, flags=(), document=BENCHMARKS, **results):
        for name, data in results.items():
            path = tmp_path / RESULTS / "machine" / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(data))
        assert readme.main(["--root", str(tmp_path), *flags]) == status
        return (tmp_path / document).read_text()

    return write


def test_others_stand_beside_ours(written):
    text = written(a=beside("12m"), b=beside())
    assert text.index("update at 1m, batch 16 × 64") < text.index("update at 12m")
    row = "| theirs | 500 ms | **2.25** (2.25–2.25) | **2.12** (2.12–2.12) |"
    assert text.count(row) == 2


def test_scopes_of_a_trace_are_shares(written):
    parts = {
        "imagine": {"count": 3, "seconds": 0.6},
        "heads": {"count": 1, "seconds": 0.2},
    }
    other = {"heads": {"count": 1, "seconds": 0.1}}
    data = throughput() | {
        "traces": {"1m": {"scopes": parts}, "12m": {"scopes": other}}
    }
    text = written(throughput=data)
    assert (
        "| heads | 25.0 % | 100.0 % |" in text
        and "| imagine | 75.0 % | 0.0 % |" in text
    )
    assert "profiled" not in written(throughput=data | {"traces": {}})


def test_the_documents_agree_with_the_committed_results(capsys):
    assert readme.main(["--check"]) == 0, capsys.readouterr().out


def test_without_results_it_says_so(written):
    text = written()
    assert text.count("Not measured yet") == 4
    assert text.count("**not measured**") == len(STAGES) + 1  # and "all"
    assert "old" not in text and text.startswith("overhead\n<!-- generated")


def test_a_ratio_stands_beside_its_milliseconds_and_the_papers(written):
    text = written(a=overhead())
    row, paper, released = (
        line
        for line in text.splitlines()
        if line.startswith(("| post", "| the", "| it"))
    )
    assert "| – | **1.25** (1.15–1.35) 2500 ms | – | – |" in row
    assert "processor time as a ratio" in text and "**1.00** (1.15–1.35):" in text
    assert "1.51" in paper and "1.13 | – | 1.55" in released
    assert "commit 0123456: [data](../benchmarks/results/machine/a.json)" in text
    assert "uncommitted" not in text
    assert "with uncommitted changes" in written(a=overhead(modified=True))


def test_the_headline_has_the_sizes_side_by_side(written):
    exact = overhead(ratio=1.3)["rows"][1]
    exact |= {"probe_kind": "exact", "probes": None, "rho": 1.0}
    large = overhead()
    large["rows"].append(exact)
    text = written(a=large, b=overhead("1m", 1.05), document="README.md")
    assert "| 1m | 12m |" in text
    assert "ρ = 0.5 | **1.05** (0.95–1.15) | **1.25** (1.15–1.35) |" in text
    assert "**exact** norm, ρ = 1 | – | **1.30** (1.20–1.40) |" in text
    assert "ρ = 1 | 1.40 | 1.55 |" in text
    assert "[data](benchmarks/results/machine/a.json)" in text


def test_the_headline_has_a_row_of_a_gpu(written):
    def entries(*sizes: str) -> dict:
        return {
            f"update-pallas-{size}-cublas, time": {
                "against": f"update-none-{size}-cublas",
                "ratio": {"median": 1.0138, "low": 1.0066, "high": 1.015},
            }
            for size in sizes
        }

    def gpu(**parts: dict) -> dict:
        own = overhead()
        machine = {"cpu": "C", "cores": 8, "devices": ["NVIDIA H200"]}
        every = {name: {"ended": "", "entries": x} for name, x in parts.items()}
        return {
            "what": own["what"],
            "stage": "all",
            "provenance": own["provenance"] | {"machine": machine},
            "parts": every,
        }

    both = gpu(small=entries("1m"), large=entries("12m"))
    results = {"a": overhead(), "b": overhead("1m", 1.05)}
    text = written(**results, c=both, document="README.md")
    row = "fused kernel, NVIDIA H200, ρ = 0.5 | **1.014** (1.007–1.015) | **1.014**"
    assert row in text and "machine/c.json" in text
    # A call that had one size alone makes no row.
    text = written(**results, c=gpu(small=entries("1m")), document="README.md")
    assert "fused kernel" not in text


def test_the_later_file_of_a_machine_and_size_counts(written):
    later = overhead(ratio=1.5, date="2026-02-01T00:00:00+00:00")
    text = written(a=later, b=overhead(), c=overhead("1m"))
    assert "**1.50**" in text and text.count("**1.25**") == 1
    assert text.index("Size 1m") < text.index("Size 12m")


@pytest.mark.parametrize("what", [QUICK, WAS_QUICK])
def test_what_is_no_measurement_is_left_out(written, what):
    rehearsal = overhead() | {"what": what}
    assert "1.25" not in written(a=rehearsal, other={"rows": [1]})


def test_throughput(written, tmp_path):
    assert "![" not in written(a=throughput())
    (tmp_path / RESULTS / "machine" / "a.png").touch()
    text = written()
    assert "![throughput](../benchmarks/results/machine/a.png)" in text
    for cell in (
        "| 345 ms (2.9 a second) |",
        "| of it: world model | 34.5 ms, 10 % |",
        "| 200 of 400 GFLOP/s, 50 % |",
        "| an agent's share, to one agent alone | 1.00 | 0.71 |",
        "| updates a second, all together | 2.86 | 4 |",
        "| acting, replay and Python together | 6.2 % |",
        "| Python: fetching, logging, progress | 0.20 % |",
    ):
        assert cell in text, cell


def test_a_stage_of_the_gpu_shows_its_figures(written):
    entry = {"ratio": spread(0.5), "programs": {"x": {"seconds": spread(0.01)}}}
    parts = {"flags": {"ended": "complete", "entries": {"graphs": entry}}}
    record = {"stage": "throughput", "parts": parts, "what": "a measurement"}
    on = PROVENANCE | {"machine": {"cpu": "C", "cores": 8, "devices": ["NVIDIA H200"]}}
    text = written(a={"provenance": on, **record})
    assert "| `throughput` | 1 of 1 parts | (NVIDIA H200 (C, 8 cores)" in text
    assert "flags: graphs, 0.500× as usual" in text
    assert text.count("**not measured**") == len(STAGES)


def test_check_changes_nothing_and_shows_the_difference(written, capsys):
    assert written(status=1, flags=["--check"]) == MARKS[BENCHMARKS]
    captured = capsys.readouterr()
    assert "-old" in captured.out and "python -m benchmarks.readme" in captured.err
    text = written()
    assert written(flags=["--check"]) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the marks none"),
        (2 * MARKS[BENCHMARKS], "each once"),
        (
            MARKS[BENCHMARKS].replace("<!-- end: gpu -->", ""),
            "has no <!-- end: gpu -->",
        ),
    ],
)
def test_broken_marks_get_one_line(text, message, tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(MARKS["README.md"])
    path = tmp_path / BENCHMARKS
    path.write_text(text)
    assert readme.main(["--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert path.read_text() == text


def test_a_broken_result_is_named(tmp_path, written, capsys):
    (tmp_path / RESULTS).mkdir(parents=True)
    (tmp_path / RESULTS / "bad.json").write_text("{")
    written(status=2)
    assert "bad.json: not JSON" in capsys.readouterr().err


def test_milliseconds_have_three_digits_at_least():
    shown = [readme_tables.milliseconds(x) for x in (2.8181, 0.0345, 0.00123456)]
    assert shown == ["2818 ms", "34.5 ms", "1.23 ms"]
    assert Path(readme.ROOT / "README.md").is_file()
