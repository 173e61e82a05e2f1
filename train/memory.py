"""How much memory a process on a CPU may still take."""

from collections.abc import Iterator
from pathlib import Path

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
