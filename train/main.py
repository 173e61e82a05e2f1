"""Train a world-model agent: `python -m train.main --env walker --penalty pallas`."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.errors import guarded, one_line, tell

if TYPE_CHECKING:
    from train.config.cli import Command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0 finished, 2 a mistake in the command, 1 diverged, out of device memory, or the end
    could not be saved; 130 or 143 stopped by a signal.
    """
    words = sys.argv[1:] if argv is None else argv
    return guarded(lambda: run(words), "stopped at once; existing checkpoints are kept")


def run(argv: Sequence[str]) -> int:
    """Parse, say what will happen, train."""
    began = time.monotonic()
    from train.config.cli import read_command
    from train.preflight.shadowing import check_origin
    from train.run_dir.record import read_run

    check_origin()
    command = read_command(argv, start_jax, lambda run: read_run(run, "--fork"))
    return start(command, began)[1]


def start(command: "Command", began: float) -> tuple[Path, int]:
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
    return run_dir, code


def start_jax(values: Mapping[str, Any]) -> str:
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
