"""The op's benchmark: what it counts, compares, prints and writes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.measure.timing import Spread
from benchmarks.overhead.op import __main__ as op
from benchmarks.overhead.op import cases as op_cases
from benchmarks.overhead.op import measure as op_measure
from benchmarks.overhead.op.cases import (
    SHAPES,
    Case,
    HeadShape,
    Probes,
    op_bytes,
    op_flops,
    penalty_program,
    probe_families,
    random_inputs,
    rows_bytes,
    rows_flops,
)
from benchmarks.overhead.op.report import Row, draw, record, table
from kernels import CategoricalHead, jacobian_penalty_mean

TINY = HeadShape(d=6, h=5, k=3, c=4)
ONE = Probes("rademacher", 1)


def test_flops_of_the_paper_sized_head():
    """Per state: the count in the project's design notes, 9.96 million."""
    shape = SHAPES["12m"]
    work = op_flops(shape, 512, 1, gradient=True, reuse=True)
    once = 4 * shape.d * shape.h**2
    assert round((work - once) / 512 / 1e6, 2) == 9.96


def test_flops_by_hand():
    d, h, k, c = TINY
    n, m = 7, 2
    row, square, first, gram = 2 * h * k * c, 2 * k * h * h, 2 * d * h, 2 * d * h * h
    assert op_flops(TINY, n, m, gradient=False, reuse=True) == (
        n * (row + m * (row + square)) + gram
    )
    assert op_flops(TINY, n, m, gradient=True, reuse=False) == (
        n * (3 * row + m * (3 * row + 2 * square) + 3 * first) + 2 * gram
    )
    assert rows_flops(TINY, n) == n * (row + square)


def test_bytes_are_those_of_arguments_and_results():
    n = 7
    u, a, head = random_inputs(jax.random.key(0), TINY, n, jnp.bfloat16)
    for reuse, x in ((False, u), (True, a)):
        held = sum(leaf.nbytes for leaf in jax.tree.leaves((x, head)))
        value = op_bytes(TINY, n, width=2, gradient=False, reuse=reuse)
        assert value == held + 4
        both = op_bytes(TINY, n, width=2, gradient=True, reuse=reuse)
        assert both == 2 * held + 4
    _, h, k, c = TINY
    bf16 = k * n * c + k * c * h + n * h + h * h + 2 * k * n * h
    assert rows_bytes(TINY, n) == 2 * bf16 + 4 * (k * n + n * h + n * h)


def test_probe_families():
    assert [probes.number(16) for probes in probe_families(16)] == [1, 4, 15]
    assert [probes.number(4) for probes in probe_families(4)] == [1, 3, 3]
    assert Probes("exact", None).label == "exact"
    assert probe_families(16)[1].label == "4 hadamard"


@pytest.mark.parametrize("reuse", [False, True])
def test_program_is_the_op(reuse):
    key = jax.random.key(1)
    u, a, head = random_inputs(key, TINY, 3, jnp.float32)
    np.testing.assert_allclose(a, u @ head.w_in + head.b_in[None], rtol=1e-5)
    sizes = {"classes": 4, "gradient": True, "reuse": reuse}
    program = jax.jit(penalty_program("xla", ONE, **sizes))
    value, x_bar, head_bar = program(u, a, head, key)
    wanted = jacobian_penalty_mean(u, head, key, classes=4)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    assert x_bar.shape == (a if reuse else u).shape
    assert isinstance(head_bar, CategoricalHead)
    assert bool(jnp.any(head_bar.b_in != 0)) != reuse
    sizes["gradient"] = False
    (again,) = penalty_program("xla", ONE, **sizes)(u, a, head, key)
    np.testing.assert_allclose(again, wanted, rtol=1e-5)


def test_the_reference_is_left_out_where_it_does_not_fit():
    shape = SHAPES["12m"]
    rows, left_out = op.cases(shape, 1024, pallas=False)
    exact = Case("reference", Probes("exact", None), True, False)
    assert exact not in rows
    assert left_out[f"{exact.label}, N=1024"].endswith("take 4.5 GB")
    for gradient in (False, True):
        assert Case("reference", ONE, gradient, False) in rows
    assert not any(case.implementation == "pallas" for case in rows)
    rows, left_out = op.cases(shape, 128, pallas=True)
    assert exact in rows
    assert not left_out
    assert Case("pallas", ONE, True, True) in rows


def made_up_rows():
    def spread(x):
        return Spread(x, 0.9 * x, 1.1 * x)

    return [
        Row(
            shape=shape,
            n=n,
            case=Case(implementation, probes, gradient, False),
            seconds=spread(n * (1e-4 if implementation == "reference" else 1e-5)),
            speedup=None if probes.kind == "exact" else spread(10.0),
            speedup_one_probe=spread(5.0),
            temporary_bytes=2_500_000,
            compile_seconds=1.0,
        )
        for shape in SHAPES
        for n in (128, 512)
        for gradient in (False, True)
        for implementation in ("reference", "xla")
        for probes in probe_families(SHAPES[shape].c)
    ]


def test_table_record_and_picture(tmp_path):
    rows = made_up_rows()
    product = Spread(480.0, 470.0, 490.0)
    text = table(rows, product)
    assert "2048³ float32 product: 480 GFLOP/s" in text
    assert text.count("12m, N=512, value and gradients") == 1
    assert any(
        line.split()[:3] == ["xla,", "4", "hadamard"] for line in text.split("\n")
    )
    assert max(map(len, text.split("\n"))) <= 88
    result = record(rows, product, {"pallas": "no GPU"}, "float32")
    assert len(json.loads(json.dumps(result))["rows"]) == len(rows)
    first = result["rows"][0]
    assert first["seconds"] == pytest.approx(
        {"median": 0.0128, "low": 0.01152, "high": 0.01408}
    )
    draw(rows).savefig(tmp_path / "op.png")
    assert (tmp_path / "op.png").stat().st_size > 10_000


def test_tiny_run(tmp_path, monkeypatch, capsys):
    # Sizes the kernel has: what is missing here is the GPU.
    monkeypatch.setitem(op_cases.SHAPES, "1m", TINY._replace(h=64))
    monkeypatch.setattr(op, "STATES", (2,))
    monkeypatch.setattr(op_measure, "probe_families", lambda classes: (ONE,))
    out = tmp_path / "op.json"
    arguments = ["--quick", "--rounds", "1", "--json", str(out)]
    assert op.main([*arguments, "--png", str(tmp_path / "op.png")]) == 0
    result = json.loads(out.read_text())
    assert result["what"] == "a quick check, not a measurement"
    assert result["rounds"] == 1
    assert result["provenance"]["machine"]["devices"]
    assert result["product_gflops"]["median"] > 0
    found = {(row["implementation"], row["pass"]) for row in result["rows"]}
    passes = ("value", "value_and_gradients")
    assert found == {(i, p) for i in ("reference", "xla") for p in passes}
    for row in result["rows"]:
        if row["implementation"] == "reference":
            assert row["speedup"]["median"] == 1.0
        assert row["temporary_bytes"] is not None
    if jax.default_backend() == "cpu":
        assert "platform 'cpu'" in result["not_measured"]["pallas"]
    assert "not measured: pallas" in capsys.readouterr().out
    assert (tmp_path / "op.png").exists()
    (tmp_path / "file").write_text("")
    broken = [*arguments[:-1], str(tmp_path / "file" / "op.json")]
    assert op.main(broken) == 2
    assert "error:" in capsys.readouterr().err
