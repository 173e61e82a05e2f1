"""Train a world-model agent: `python -m train.main --env walker --penalty pallas`."""

import sys
import time
from collections.abc import Sequence

from train.errors import UserError, one_line, printable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0 finished, 2 a mistake in the command, 1 diverged or out of device memory, 130 or
    143 stopped by a signal.
    """
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped at once; the last checkpoint stands", file=sys.stderr)
        return 130


def run(argv: Sequence[str]) -> int:
    """Parse, say what will happen, train."""
    began = time.monotonic()
    from train.cli import parse, preset_choice
    from train.origin import check_origin

    check_origin()
    config = parse(argv, default_platform)
    choice = preset_choice(argv, default_platform)

    # Imported only now: a mistyped flag is answered before JAX and MuJoCo load.
    import jax

    from envs import VectorEnv
    from train import loop, start
    from train.lock import RunLock
    from train.record import run_dir as run_directory

    platform = jax.default_backend()
    start.check_device(config, platform)
    penalty = start.choose_penalty(config, platform)
    cache = start.enable_compilation_cache()
    env = VectorEnv(start.make_env(config), config.num_envs)
    run_dir = run_directory(config)
    changes = loop.check_resume(config, run_dir)
    for line in start.describe(
        config, env, preset_reason=choice.reason, penalty=penalty, cache=cache
    ):
        print(printable(line))
    with RunLock(run_dir):
        print(f"run directory {printable(str(run_dir))}", flush=True)
        for line in changes:
            print(f"changed      {printable(line)}")
        try:
            _, code = loop.train(config, env, run_dir, penalty, began=began)
        except loop.Diverged as error:
            print(f"diverged: {one_line(error)}", file=sys.stderr)
            return 1
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(f"out of memory: {one_line(error)[:200]}", file=sys.stderr)
            return 1
    return code


def default_platform() -> str:
    """`jax.default_backend()`, importing JAX only when it is asked for."""
    import jax

    return jax.default_backend()


if __name__ == "__main__":
    sys.exit(main())
