"""The disk space that checkpoints need, checked before the run starts."""

import contextlib
import errno
import os
import pathlib
import shutil

from jaxtyping import PyTree

from train.checkpoint.leaves import tree_bytes
from train.config import Config
from train.errors import UserError
from train.program.state import RunState

LARGE = 2**29  # bytes
MIB = 2**20


def kept(config: Config, run: RunState) -> int:
    """How many checkpoints a run keeps: `--keep`, else 3, or 2 if they are
    large, as with a replay buffer of images."""
    return config.keep or (3 if tree_bytes(run) < LARGE else 2)


def agent_bytes(run: RunState) -> int:
    """Size of an agent's own checkpoint."""
    learner = run.learner
    return tree_bytes((learner.agent, learner.slow_value, learner.return_scale))


def kept_agents(config: Config) -> int:
    """How many agents a run keeps: the newest, and those of `--keep-every`."""
    return 1 + (config.steps // config.keep_every if config.keep_every else 0)


def describe_checkpoints(config: Config, run: RunState) -> list[str]:
    """Lines on the size of checkpoints, what most of it is, and how many are kept."""
    rows = run.replay.rows
    parts = {
        "latent states in the replay buffer": tree_bytes((rows.deter, rows.stoch)),
        "observations in the replay buffer": tree_bytes(rows.obs),
        "parameters and the optimizer's state": tree_bytes(run.learner),
    }
    name = max(parts, key=lambda name: parts[name])
    keep = kept(config, run)
    number = f"newest {keep} are" if keep > 1 else "newest one is"
    hint = "" if keep == 1 else " (--keep 1: only one)"
    every = ""
    if config.keep_every:
        every = f", and one every {config.keep_every:,} steps for ever"
    return [
        f"checkpoints  {tree_bytes(run) / MIB:,.0f} MiB each, of which "
        f"{parts[name] / MIB:,.0f} MiB are {name}; the {number} kept{hint}",
        f"agents       {agent_bytes(run) / MIB:,.1f} MiB each, without what training "
        f"needs to go on; the newest is kept{every}",
    ]


def check_disk(
    run_dir: str | os.PathLike[str], tree: PyTree, keep: int = 3, agents: int = 0
) -> None:
    """Refuse to start a run whose checkpoints do not fit on the disk.

    Args:
        tree: what a checkpoint holds; shapes are enough.
        keep: number of checkpoints that are kept.
        agents: bytes of all agents that are kept beside them.

    Raises:
        UserError: less is free than `keep` checkpoints and the one being written take,
            those already there counted in.
    """
    run = pathlib.Path(run_dir)
    files = [
        p for folder in ("checkpoints", "agents") for p in run.glob(f"{folder}/**/*")
    ]
    held = sum(p.stat().st_size for p in files if p.is_file())
    existing = next(p for p in (run, *run.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    needed = (keep + 1) * tree_bytes(tree) + agents - held
    if needed > free:
        count = f"{keep + 1} checkpoints (one is being written)"
        needs = _amount((keep + 1) * tree_bytes(tree))
        extra = f" and the agents beside them {_amount(agents)}" if agents else ""
        fewer = "" if keep == 1 else ", or fewer of them (--keep 1)"
        raise UserError(
            f"--logdir {run_dir}: {count} take {needs}{extra}, {_amount(free)} are "
            f"free; allowed: a disk with more room, a smaller --replay-size{fewer}"
        )


def _amount(size: int) -> str:
    return f"{size / MIB:,.1f} MiB" if size < 2**30 else f"{size / 2**30:,.1f} GiB"


def reserve(directory: pathlib.Path, size: int) -> None:
    """Check before writing that `size` bytes, plus a margin, fit on the disk.

    Allocating the space also checks quotas and limits, which the free space reported
    by the file system does not include.

    Raises:
        OSError: they do not.
    """
    size += size // 50 + 2**16
    if not hasattr(os, "posix_fallocate"):  # macOS
        if shutil.disk_usage(directory).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
        return
    path = directory / "reserve"
    with path.open("wb") as file, contextlib.ExitStack() as stack:
        stack.callback(path.unlink)
        os.posix_fallocate(file.fileno(), 0, size)
