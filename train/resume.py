"""Whether a run directory is one that this command may go on with."""

from pathlib import Path

from train import record
from train.checkpoint import Checkpointer
from train.config import Config
from train.errors import UserError, logdir_errors


def check_resume(config: Config, run_dir: Path) -> list[str]:
    """Compare the directory's configuration with this one.

    Returns:
        Lines for the user about changes that are allowed.

    Raises:
        UserError: `--resume must` without a checkpoint, `--resume never` with one, a
            change that would make it another run, a configuration that cannot be read
            or is missing beside checkpoints, or an impossible path.
    """
    stored, log = run_dir / "config.json", run_dir / "metrics.jsonl"
    with logdir_errors(run_dir):
        steps = Checkpointer(run_dir).steps()
        # With several seeds each has its own log.
        logs = [log, *run_dir.glob("seed_*/metrics.jsonl")]
        trained = bool(steps) or any(p.exists() and p.stat().st_size for p in logs)
        has_config = stored.exists()
    if config.resume == "must" and not steps:
        raise UserError(
            f"--resume must: {run_dir} holds no checkpoint; allowed: --resume auto"
        )
    if config.resume == "never" and steps:
        raise UserError(
            f"--resume never: {run_dir} holds checkpoints up to step {steps[-1]}; "
            "allowed: another --logdir, or --resume auto to go on"
        )
    if not (steps or has_config):
        return []
    try:
        difference = record.diff(record.read(stored), config)
    except UserError as error:
        if config.allow_changes:
            return [f"not compared: {error}"]
        raise UserError(
            f"{error}; allowed: another --logdir, or --allow-changes, which goes on "
            "without comparing"
        ) from None
    if trained and difference.refused and not config.allow_changes:
        raise UserError(
            f"--logdir {run_dir} holds a run with another configuration "
            f"({'; '.join(difference.refused)}); allowed: another --logdir, or "
            "--allow-changes"
        )
    return difference.allowed + difference.refused if trained else []
