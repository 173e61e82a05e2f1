"""XLA's options of a run: on a GPU only, and only if this version knows them."""

import jax
import pytest

from train.program import compiler


@pytest.fixture(autouse=True)
def forgotten():
    compiler.compiler_options.cache_clear()
    yield
    compiler.compiler_options.cache_clear()


def test_a_cpu_has_none(capsys):
    assert compiler.compiler_options("cpu") == {}
    assert capsys.readouterr().out == ""


def test_a_gpu_has_those_that_xla_accepts(capsys):
    """XLA reads a GPU's options, and leaves them unused, on a CPU too."""
    assert compiler.compiler_options("gpu") == compiler.GPU_OPTIONS
    said = capsys.readouterr().out
    assert said.startswith("compiler: xla_gpu_enable_command_buffer=")
    assert said.count("\n") == 1
    compiler.compiler_options("gpu")
    assert capsys.readouterr().out == "", "it is said once"


def test_a_version_without_them_goes_on_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(compiler, "GPU_OPTIONS", {"xla_gpu_no_such_option": True})
    assert compiler.compiler_options("gpu") == {}
    said = capsys.readouterr().out
    assert said.startswith("compiler: XLA's usual options (") and "no_such" in said
    # And it compiles without.
    options = dict(compiler.compiler_options("gpu"))
    run = jax.jit(lambda x: x + 1, compiler_options=options)
    assert run(1.0) == 2.0
