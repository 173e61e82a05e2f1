"""The presets: the table of values that a run's flags start from."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from train.config.fields import flags, invalid, nearest
from train.config.hints import value_hint
from train.config.schema import Config

# GPLD, Table 2. Its baseline is `--preset gpld --penalty none`.
_GPLD: dict[str, Any] = {
    "--size": "12m",
    "--action-repeat": 2,
    "--steps": 1_000_000,
    "--num-envs": 16,
    "--train-ratio": 512.0,
    "--batch-size": 16,
    "--batch-length": 64,
    "--imagination-length": 25,
    "--replay-size": 5_000_000,
    "--eval-every": 5000,
    "--eval-episodes": 3,
    "--eval-policy": "sample",  # as the authors do
    "--learning-rate": 4e-5,
    "--penalty-target": "posterior",
    "--rho": 0.5,
    "--lambda0": 0.5,
    "--lambda-min": 0.001,
    "--decay-scale": 1000.0,
    # What the authors' released code does, and so what gave the paper's scores.
    "--normalization": "batch",
}

# A preset names every value in which it means to differ from, or insist on, the
# defaults of `train.config`. Command-line flags override these.
PRESETS: dict[str, dict[str, Any]] = {
    "gpld": _GPLD,
    # The same as the authors' released scripts run it. They count decisions where we
    # count environment steps: every number of steps is twice theirs.
    "gpld-released": _GPLD
    | {
        "--steps": 2_000_000,
        "--eval-every": 10_000,
        "--eval-episodes": 4,
        "--prefill": 2048,  # they wait for 1,024 sequences
        "--lambda-min": 0.1,
    },
    # DreamerV3's own preset for DeepMind Control from states.
    "dreamerv3": {
        "--size": "1m",
        "--action-repeat": 1,
        "--steps": 500_000,
        "--num-envs": 16,
        "--train-ratio": 1024.0,
        "--batch-size": 16,
        "--batch-length": 64,
        "--imagination-length": 15,
        "--replay-size": 5_000_000,
        "--eval-policy": "sample",
        "--penalty": "none",
    },
    # The Jacobian-regularization paper's Table 6, and where that is silent DreamerV2's
    # own values for DeepMind Control, on DreamerV3's losses and heads
    # (docs/robustness.md). DreamerV2 counts decisions: at action repeat 2, 10,000 of
    # them between evaluations are 20,000 environment steps.
    "jacreg": {
        "--obs": "pixels",
        "--size": "dreamerv2",
        "--action-repeat": 2,
        "--steps": 1_000_000,
        "--num-envs": 1,
        # One update of 16 x 50 replayed steps every 5 decisions.
        "--train-ratio": 160.0,
        "--batch-size": 16,
        "--batch-length": 50,
        "--imagination-length": 15,
        "--discount-horizon": 100,
        "--replay-size": 2_000_000,
        "--replay-context": 0,
        "--prefill": 1000,
        "--prefill-policy": "random",
        "--eval-every": 20_000,
        "--eval-policy": "sample",
        "--learning-rate": 3e-4,
        "--actor-learning-rate": 8e-5,
        "--critic-learning-rate": 8e-5,
        "--clip-rewards": "tanh",
        # A KL divergence of weight 1, of which .8 trains the prior.
        "--dynamics-scale": 0.8,
        "--representation-scale": 0.2,
        "--penalty-target": "core",
        # The paper's coefficient is constant: it starts at its own minimum.
        "--lambda0": 0.01,
        "--lambda-min": 0.01,
        "--rho": 1.0,
    },
    # Learns something worth seeing on two CPU cores: many small updates at a high rate,
    # each with short imagined rollouts, and values that look less far ahead. Chosen by
    # the return per minute (docs/results.md). Environments are cheap here, so the train
    # ratio is low.
    "laptop": {
        "--size": "400k",
        "--action-repeat": 2,
        "--steps": 500_000,
        "--num-envs": 16,
        "--train-ratio": 32.0,
        "--batch-size": 16,
        "--batch-length": 16,
        "--imagination-length": 8,
        "--discount-horizon": 100,
        "--learning-rate": 1e-3,
        "--warmup": 200,
        "--eval-every": 10_000,
        "--save-every": 50_000,
    },
    # Runs every part of the program once; learns nothing.
    "smoke": {
        "--size": "1m",
        "--action-repeat": 2,
        "--steps": 400,
        "--num-envs": 2,
        "--train-ratio": 4.0,
        "--batch-size": 2,
        "--batch-length": 8,
        "--imagination-length": 4,
        "--prefill": 32,
        "--warmup": 10,
        "--eval-every": 200,
        "--eval-episodes": 1,
        "--log-every": 100,
        "--save-every": 200,
    },
}


CORE_LAMBDA = 0.01
"""The Jacobian-regularization paper's coefficient for DeepMind Control (Table 6)."""


class PresetChoice(NamedTuple):
    """A preset and why it was taken."""

    name: str
    reason: str


def resolve_preset(name: str, *, platform: str) -> PresetChoice:
    """Turn `auto` into a preset that suits the device.

    Args:
        name: a key of `PRESETS`, or `auto`.
        platform: `jax.default_backend()`: `cpu`, `gpu` or `tpu`.

    Raises:
        UserError: there is no such preset.
    """
    if name == "auto":
        if platform == "cpu":
            return PresetChoice("laptop", "auto: the device is a CPU")
        return PresetChoice("gpld", f"auto: the device is a {platform.upper()}")
    if name not in PRESETS:
        known = ["auto", *PRESETS]
        near = value_hint("--preset", name) or nearest(name, known)
        raise invalid("--preset", name, "unknown", ", ".join(known), near)
    return PresetChoice(name, "asked for by --preset")


def preset_config(name: str, *, platform: str) -> Config:
    """The configuration of a preset, `auto` included, before any other flag."""
    return build(preset_values(name, platform=platform))


def preset_values(name: str, *, platform: str = "cpu") -> dict[str, Any]:
    """Flag values of a preset.

    Args:
        name: a key of `PRESETS`, or `auto`.
        platform: `jax.default_backend()`, which matters to `auto` only.
    """
    chosen = resolve_preset(name, platform=platform).name
    return {"--preset": chosen, **PRESETS[chosen]}


def for_target(preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's values with the penalty's coefficients that suit the target given.

    The paper on the penalty of the recurrent map uses a constant coefficient of .01 to
    .1, where GPLD starts at .5 and decays. So with target core the default of lambda0
    is .01, and that of lambda-min, which ends the decay, is lambda0.

    Args:
        preset: values of a preset, by flag.
        given: values of the flags on the command line, which these do not replace.
    """
    values = dict(preset)
    usual = values.get("--penalty-target", "posterior")
    target = given.get("--penalty-target", usual)
    if target != usual:  # the preset's coefficients are meant for another target
        for name in ("--lambda0", "--lambda-min"):
            values.pop(name, None)
    if target == "core":
        start = given.get("--lambda0", values.get("--lambda0", CORE_LAMBDA))
        values["--lambda-min"] = values["--lambda0"] = start
    return values


def build(values: Mapping[str, Any]) -> Config:
    """A configuration from flag values; flags not named keep their defaults.

    All values are set at once, so that only the final combination is checked.

    Raises:
        UserError: a value or a combination is not allowed.
    """
    default = Config()
    root: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for flag in flags(Config):
        if flag.name in values:
            *part, name = flag.path
            target = nested.setdefault(part[0], {}) if part else root
            target[name] = values[flag.name]
    for part, changes in nested.items():
        root[part] = dataclasses.replace(getattr(default, part), **changes)
    return dataclasses.replace(default, **root)
