"""The GPU's overhead stage, on a CPU and at a small size."""

from functools import partial

import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import overhead as gpu_overhead
from benchmarks.gpu import resume as gpu_resume
from benchmarks.overhead.rows import Variant
from train.config.presets import build, preset_values


def test_every_stage_takes_less_than_nine_minutes():
    for stage in gpu.STAGES:
        assert sum(part.seconds for part in gpu.parts_of(stage).values()) <= 520


def test_the_configuration_is_the_papers():
    config = gpu_overhead.settings()
    assert (config.size, config.batch_size, config.batch_length) == ("12m", 16, 64)
    assert config.imagination_length == 25


def test_a_stage_is_measured_when_nothing_is_missing():
    row = {"programs": {}}
    assert gpu_resume.all_measured({"ended": "complete", "entries": {"a": row}})
    late = {"error": "not begun: 3 s were left"}
    assert not gpu_resume.all_measured(
        {"ended": "complete", "entries": {"a": row, "b": late}}
    )
    assert not gpu_resume.all_measured(
        {"ended": "killed after 9 s", "entries": {"a": row}}
    )
    assert not gpu_resume.all_measured({"ended": "complete", "entries": {}})


@pytest.mark.slow
def test_a_row_is_timed_against_the_step_without_penalty():
    run = partial(
        gpu_overhead.steps,
        (Variant("xla", "posterior", 1.0, "rademacher", 1),),
        config=lambda: build(preset_values("smoke", platform="cpu")),
        rounds=2,
        calls=2,
    )
    (_, entry), *rest = run(lambda: 100.0)
    assert not rest
    ratio = entry["step_ratio"]["median"]
    none, row = entry["programs"].values()
    assert ratio > 0 and none["seconds"]["median"] > 0
    assert row["flops"] > none["flops"]  # the penalty is in the second program
    (_, entry), *_ = run(lambda: 1.0)
    assert "not begun" in entry["error"]
