"""Estimate before compilation whether the run fits into memory."""

from collections.abc import Iterator
from pathlib import Path

import jax

from envs import EnvSpec
from train.config import Config, replay_bytes
from train.errors import UserError

MIB = 1 << 20

# Limit, usage, and the line of `memory.stat` with what is only a cache of files; of
# control groups in their second and first version.
_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_host_memory(root: Path = Path("/")) -> int | None:
    """Free bytes: of the machine, or of a container or batch job with less.

    Args:
        root: where `proc` and `sys` are.

    Returns:
        None where the system does not say.
    """
    free = list(_groups(root))
    lines = _lines(root / "proc" / "meminfo")
    free += [1024 * int(s.split()[1]) for s in lines if s.startswith("MemAvailable:")]
    return min(free, default=None)


def _groups(root: Path) -> Iterator[int]:
    """What each control group of this process, and each above it, leaves."""
    for line in _lines(root / "proc" / "self" / "cgroup"):
        number, controllers, name = line.split(":", 2)
        version = 2 if number == "0" and not controllers else 1
        if version == 1 and "memory" not in controllers.split(","):
            continue
        top = root / "sys" / "fs" / "cgroup" / ("memory" if version == 1 else "")
        folder = top / name.strip("/")
        # Inside a container the name may be that of the host, and not be found.
        for group in (folder, *folder.parents):
            if not group.is_relative_to(top):
                break
            left = _left(group, *_FILES[version])
            if left is not None:
                yield left


def _left(group: Path, limit: str, usage: str, cache: str) -> int | None:
    stats = dict(line.split() for line in _lines(group / "memory.stat"))
    try:
        numbers = [int((group / name).read_text()) for name in (limit, usage)]
    except (OSError, ValueError):  # "max" is no limit
        return None
    return max(0, numbers[0] - numbers[1] + int(stats.get(cache, 0)))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def check_memory(
    config: Config, spec: EnvSpec, parameters: int = 0, *, devices: int = 1
) -> str:
    """The size of the replay buffer, for the start-up lines.

    Args:
        devices: that share the replay, each with a memory of its own.

    Raises:
        UserError: the buffer does not fit (the message gives the largest that does), or
            the lower bound of the rest does not.
    """
    size = lambda config: replay_bytes(
        config, obs_shape=spec.obs_shape, action_dim=spec.action_dim
    )
    needed, free = size(config), available_memory()
    if free is not None:
        free *= devices
    # Half of the memory is left for the networks, their gradients and the program.
    if free is not None and needed > free // 2:
        row = needed / config.replay_capacity
        largest = int(free / 2 / row)
        if largest >= config.learning_starts:
            remedy = f"nearest valid: {largest}"
        else:
            remedy = (
                f"that is less than the {config.learning_starts} decisions learning "
                "starts with: free some memory, or lower --num-envs, --batch-length, "
                "--prefill or --seeds"
            )
        raise UserError(
            f"--replay-size {config.replay_size}: the replay would take "
            f"{needed / MIB:,.0f} MiB of {free / MIB:,.0f} MiB free memory; allowed: "
            f"half of it; {remedy}"
        )
    least = least_bytes(config, parameters) + needed
    if free is not None and least > free:
        swept = f" --sweep {config.sweep}," if config.sweep else ""
        raise UserError(
            f"--batch-size {config.batch_size}, --batch-length {config.batch_length}, "
            f"--imagination-length {config.imagination_length}, --num-envs "
            f"{config.num_envs}, --eval-episodes {config.eval_episodes}, --seeds "
            f"{config.seeds},{swept} --size {config.size}: take at least "
            f"{least / MIB:,.0f} MiB of {free / MIB:,.0f} MiB free memory; "
            "allowed: smaller values"
        )
    return f"{config.replay_capacity:,} decisions, {needed / MIB:,.0f} MiB"


def least_bytes(config: Config, parameters: int) -> int:
    """A lower bound of a run's memory beside its replay buffer, in bytes.

    Parameters, their gradients and two moments in float32; latent states of the batch,
    of the environments and of an evaluation in two bytes a number; two numbers in
    float32 for every imagined step. A real run takes several times as much.
    """
    model = config.model
    entries = config.latent.entries(model.classes)
    latent = 2 * (model.deter + model.stoch * entries)
    batch = config.batch_size * config.batch_length
    states = batch + config.num_envs + config.eval_episodes
    starts = config.batch_size * config.starts_of_sequence
    imagined = 8 * starts * config.imagination_length
    return config.agents * (16 * parameters + latent * states + imagined)


def available_memory() -> int | None:
    """Free bytes on one device, or, on a CPU, for this process; None if unknown."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return available_host_memory()
