"""Train a world-model agent: `python -m train.main --env walker --penalty pallas`.

The same from Python is `train.run(env="walker", penalty="pallas")`.
"""

import contextlib
import gc
import math
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from train.errors import guarded, one_line, tell

if TYPE_CHECKING:  # not loaded here: a mistyped flag is answered before JAX and MuJoCo
    from train.config import Config
    from train.config.cli import Command
    from train.policy import Policy
    from train.run_dir.curve import Curve


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0 finished, 2 a mistake in the command, 1 diverged, out of device memory, or the end
    could not be saved; 130 or 143 stopped by a signal.
    """
    words = sys.argv[1:] if argv is None else argv
    if argv is None:  # in a process of our own
        gc.set_threshold(20_000)  # tracing makes millions of objects and hardly a cycle
    return guarded(
        lambda: _train(words), "stopped at once; existing checkpoints are kept"
    )


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
    def config(self) -> "Config":
        """The settings of the run."""
        from train.run_dir.record import read_run

        return read_run(self.run_dir)

    def curves(self, metric: str | None = None) -> "list[Curve]":
        """The learning curve of each agent: returns, or another metric of the log.

        Raises:
            UserError: no such metric, or no value yet.
        """
        from train.run_dir.curve import agents, read_curve

        return [read_curve(folder, metric) for folder in agents(self.run_dir)]

    def policy(self, *, agent: int = 0, **options: Any) -> "Policy":
        """The trained policy; see `train.policy.load_policy`."""
        from train.policy import load_policy

        return load_policy(self.run_dir, agent=agent, **options)


def run(config: "Config | None" = None, **flags: Any) -> Result:
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
    from train.config import Config
    from train.config.cli import Command, read_command
    from train.config.fields import flags as flags_of
    from train.config.presets import PresetChoice
    from train.run_dir.record import read_run

    if config is None:
        read = lambda run: read_run(run, "--fork")
        command = read_command(words(flags), _start_jax, read)
    elif flags:
        raise TypeError("run() takes a configuration or flags, not both")
    else:
        _start_jax({"--seeds": config.agents, "--devices": config.scale.devices})
        given = frozenset(flag.name for flag in flags_of(Config))
        command = Command(config, PresetChoice(config.preset, "as configured"), given)
    return Result(*_start(command, began))


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


def _train(argv: Sequence[str]) -> int:
    """Parse, say what will happen, train."""
    began = time.monotonic()
    from train.config.cli import read_command
    from train.preflight.shadowing import check_origin
    from train.run_dir.record import read_run

    check_origin()
    command = read_command(argv, _start_jax, lambda run: read_run(run, "--fork"))
    return _start(command, began)[1]


def _start(command: "Command", began: float) -> tuple[Path, int]:
    """Say what will happen, and train; the run directory and the exit code.

    Args:
        began: when the program was started, by `time.monotonic()`.
    """
    config, preset, given = command
    # Imported only now: a mistyped flag is answered before JAX and MuJoCo load.
    import jax

    from envs import VectorEnv
    from train import loop
    from train.placement.placement import Placement
    from train.preflight import setup
    from train.preflight.fork import prepare_fork
    from train.preflight.resume import check_resume, keep_replay_size
    from train.processes import coordination
    from train.program.penalty import choose_penalty, with_taken
    from train.run_dir.lock import RunLock
    from train.run_dir.record import run_dir as run_directory

    platform = jax.default_backend()
    setup.check_device(config, platform)
    setup.check_wandb(config)
    placement = Placement.of(config)
    penalty = choose_penalty(config, platform)
    config = with_taken(config, penalty)
    cache = setup.enable_compilation_cache()
    env = VectorEnv(setup.make_env(config), config.num_envs)
    run_dir = run_directory(config)
    config, kept = keep_replay_size(config, run_dir, given)
    lines = setup.describe(
        config,
        env,
        preset_reason=preset.reason,
        penalty=penalty,
        placement=placement,
        cache=cache,
    )
    with contextlib.ExitStack() as stack:
        with coordination.leader_first():
            if coordination.leads():
                changes = check_resume(config, run_dir)
                stack.enter_context(RunLock(run_dir))  # refused before anything is said
                for line in (*lines, *kept):
                    tell(line, sys.stdout)
                tell(f"run directory {run_dir}", sys.stdout)
                changes = [f"changed      {line}" for line in changes]
                for line in [*changes, *prepare_fork(config, run_dir)]:
                    tell(line, sys.stdout)
        try:
            _, code = loop.train(config, env, run_dir, penalty, placement, began=began)
        except loop.Diverged as error:
            tell(f"diverged: {one_line(error)}", sys.stderr)
            return run_dir, 1
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(error):
                raise
            tell(
                f"error: lost another process ({one_line(error)[:200]}); start all of "
                "them again: the same commands resume",
                sys.stderr,
            )
            os._exit(1)  # JAX's own shutdown would wait for the dead process
        if code == 0 and coordination.leads():
            where = shlex.quote(str(run_dir))
            tell(
                f"for a page about it: python -m benchmarks.report {where}", sys.stdout
            )
    return run_dir, code


def _start_jax(values: Mapping[str, Any]) -> str:
    """Start JAX as the flags given ask, joining other processes; the platform's name.

    Raises:
        UserError: the flags on processes do not fit, or the others did not connect.
    """
    from train.config import Config, sweep
    from train.processes import coordination

    join = coordination.requested(values)
    swept = sweep.read(Config, values.get("--sweep", ""))
    agents = values.get("--seeds", 1) * math.prod(map(len, swept.values()))
    usual = 1 if join else coordination.cpu_devices(agents)
    devices = values.get("--devices") or usual
    processes = (join.num_processes if join else None) or 1
    coordination.offer_cpu_devices(max(1, devices // processes))
    if join:
        coordination.connect(join)
    import jax

    return jax.default_backend()


if __name__ == "__main__":
    sys.exit(main())
