"""Counting what devices say to each other, in a text made up by hand and a real one."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.measure.collectives import Collective, read
from benchmarks.throughput import __main__ as throughput
from benchmarks.throughput import scaling

TEXT = """HloModule made_up

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %sum = f32[] add(%a, %a)
}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %inner = f32[8,4]{1,0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
  ROOT %out = (s32[], f32[8,4]{1,0}) tuple(%i, %inner)
}

%condition (p: (s32[], f32[8,4])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%seldom (p: bf16[16]) -> bf16[16] {
  ROOT %gathered = bf16[16]{0} all-gather(%p), dimensions={0}
}

%never (p: bf16[16]) -> bf16[16] {
  ROOT %p = bf16[16]{0} parameter(0)
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %both = (f32[100]{0}, s32[10]{0}) all-reduce(%x, %y), to_apply=%add
  %loop = (s32[], f32[8,4]{1,0}) while(%t), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"7"},"known_init_step":{"init":"0"}}
  %open = (s32[], f32[8,4]{1,0}) while(%t), condition=%condition, body=%body
  %either = bf16[16]{0} conditional(%k, %x, %y), branch_computations={%seldom, %never}
  ROOT %result = f32[8,4]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_by_hand():
    found = read(TEXT)
    assert set(found.collectives) == {
        Collective("all-reduce", 4 * 100 + 4 * 10, 1),
        Collective("all-reduce", 4 * 32, 7 + 1),
        Collective("all-gather", 2 * 16, 1),
    }
    assert found.count == 10
    assert found.size == 440 + 8 * 128 + 32
    assert found.unknown_loops == 1


def test_an_estimate_by_hand():
    eight, many = scaling.estimate(10, 10**9)
    assert eight["latency_seconds"] == pytest.approx(10 * 20e-6)
    assert eight["transfer_seconds"] == pytest.approx(2e9 * 7 / 8 / 3.5e11)
    assert many["transfer_seconds"] == pytest.approx(2e9 * 63 / 64 / 4e10)


@pytest.mark.slow
def test_a_real_program(tmp_path):
    """One update exchanges the gradients once, and nothing inside its loops."""
    out, png = tmp_path / "s.json", tmp_path / "s.png"
    words = ["--devices", "1,4", "--quick", "--json", str(out), "--png", str(png)]
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.throughput", *words],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert child.returncode == 0, child.stderr
    assert "a quick check, not a measurement" in child.stdout
    record = json.loads(out.read_text())
    one, four = record["rows"]
    assert one["collectives"] == 0
    assert four["unknown_loops"] == 0
    # 640,000 parameters, of which some are not trained by the dynamics' batch.
    largest = four["kinds"][0]
    assert largest["kind"] == "all-reduce" and largest["count"] == 1
    assert 2e6 < largest["size"] < 4e6
    assert four["collectives"] < 30
    assert png.read_bytes().startswith(b"\x89PNG")


def test_bad_counts(capsys):
    with pytest.raises(SystemExit) as raised:
        throughput.main(["--quick", "--devices", "x"])
    assert raised.value.code == 2
    err = capsys.readouterr().err
    assert "--devices: x: allowed: counts" in err and err.count("\n") == 1


def test_a_number_of_devices_that_does_not_divide_the_batch(capsys):
    assert throughput.main(["--quick", "--devices", "3"]) == 2
    err = capsys.readouterr().err
    assert "--devices 3" in err and err.count("\n") == 1
