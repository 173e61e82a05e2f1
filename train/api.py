"""Training from Python: `train.run(env="walker-walk", preset="laptop")`."""

import time
from pathlib import Path
from typing import Any, NamedTuple

from train.config import Config
from train.config.cli import Command, read_command
from train.config.fields import flags as flags_of
from train.config.presets import PresetChoice
from train.main import start, start_jax
from train.policy import Policy, load_policy
from train.run_dir.curve import Curve, agents, read_curve
from train.run_dir.record import read_run


class Result(NamedTuple):
    """A run that has ended.

    Attributes:
        run_dir: with its logs and checkpoints; the same call goes on from there.
        exit_code: as of `train.main`: 0 finished, 1 diverged or not saved, 130 or 143
            stopped by a signal.
    """

    run_dir: Path
    exit_code: int

    @property
    def config(self) -> Config:
        """The settings of the run."""
        return read_run(self.run_dir)

    def curves(self, metric: str | None = None) -> list[Curve]:
        """The learning curve of each agent: returns, or another metric of the log.

        Raises:
            UserError: no such metric, or no value yet.
        """
        return [read_curve(folder, metric) for folder in agents(self.run_dir)]

    def policy(self, *, agent: int = 0, **options: Any) -> Policy:
        """The trained policy; see `train.policy.load_policy`."""
        return load_policy(self.run_dir, agent=agent, **options)


def run(config: Config | None = None, **flags: Any) -> Result:
    """Train, as `python -m train.main` does; returns when the run has ended.

    Args:
        config: all settings at once, instead of flags.
        flags: those of `train.main`, with `_` for `-`: `env="walker-walk"`,
            `learning_rate=1e-4`, `require_gpu=True`. Several values, of `sweep` for
            instance, as a list. Values that are not given come from the preset.

    Raises:
        UserError: what the command line refuses in one line.
        TypeError: both a configuration and flags.
    """
    began = time.monotonic()
    if config is None:
        read = lambda run: read_run(run, "--fork")
        command = read_command(words(flags), start_jax, read)
    elif flags:
        raise TypeError("run() takes a configuration or flags, not both")
    else:
        start_jax({"--seeds": config.agents, "--devices": config.scale.devices})
        given = frozenset(flag.name for flag in flags_of(Config))
        command = Command(config, PresetChoice(config.preset, "as configured"), given)
    return Result(*start(command, began))


def words(flags: dict[str, Any]) -> list[str]:
    """Flags as words of a command line."""
    found = []
    for key, value in flags.items():
        name = "--" + key.replace("_", "-")
        if value is True:
            found.append(name)
        elif value is False:
            found.append("--no-" + name[2:])
        else:
            values = value if isinstance(value, list | tuple) else [value]
            for each in values:
                found += [name, "none" if each is None else str(each)]
    return found
