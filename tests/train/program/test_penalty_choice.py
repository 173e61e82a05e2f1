"""Which code computes the penalty, by device and target."""

import types

import pytest
from toy_run import configured

from train.program.penalty import choose_penalty


@pytest.mark.parametrize(
    ("target", "taken", "why"),
    [
        ("posterior", "pallas", "(as configured)"),
        ("both", "pallas", "(as configured; the prior by xla)"),
        ("prior", "xla", "the Pallas kernel covers the posterior head only"),
    ],
)
def test_the_kernel_is_for_the_posterior(monkeypatch, target, taken, why):
    monkeypatch.setattr("train.program.penalty.kernel_obstacle", lambda **_: None)
    config = configured(f"--penalty pallas --penalty-target {target}")
    found = choose_penalty(config, "gpu")
    assert found.options is not None and found.options.implementation == taken
    assert why in found.reason


@pytest.mark.parametrize(
    ("capability", "taken"),
    [
        ("9.0", "pallas"),
        ("8.0", "xla"),
        ("8.9", "xla"),
        ("10.0", "xla"),
        ("12.0", "xla"),
    ],
)
def test_the_kernel_is_for_hopper(monkeypatch, capability, taken):
    """Ampere, Ada and both kinds of Blackwell take xla, and the start says so."""
    gpu = types.SimpleNamespace(platform="gpu", compute_capability=capability)
    monkeypatch.setattr("kernels.pallas.tiling.jax.devices", lambda: [gpu])
    found = choose_penalty(configured("--penalty pallas"), "gpu")
    assert found.options is not None and found.options.implementation == taken
    said = f"a GPU of compute capability {capability}" in found.reason
    assert said == (taken == "xla")
