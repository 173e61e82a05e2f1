"""XLA's options of a run: those of a GPU only if this version knows them."""

import jax
import pytest

from train.program import compiler


@pytest.fixture(autouse=True)
def forgotten():
    compiler._known_to_xla.cache_clear()
    yield
    compiler._known_to_xla.cache_clear()


def test_a_cpu_has_them_for_brief_programs_only(capsys):
    assert compiler.compiler_options("cpu") == {}
    brief = dict(compiler.compiler_options("cpu", brief=True))
    assert brief and compiler.compiler_options("tpu", brief=True) == {}
    assert capsys.readouterr().out == ""
    assert jax.jit(lambda x: x + 1, compiler_options=brief)(1.0) == 2.0


def test_a_gpu_has_those_that_xla_accepts(capsys):
    """XLA reads a GPU's options, and leaves them unused, on a CPU too."""
    assert compiler.compiler_options("gpu") == compiler.GPU_OPTIONS
    said = capsys.readouterr().out
    assert said.startswith("compiler: xla_gpu_enable_command_buffer=")
    assert said.count("\n") == 1
    assert compiler.compiler_options("gpu", brief=True) == compiler.GPU_OPTIONS
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
