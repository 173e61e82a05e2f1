"""How much of the machine is this process's; neither JAX nor MuJoCo is imported."""

import os


def usable_cores() -> int:
    """How many cores this process may use."""
    # A container or a batch system may grant fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
