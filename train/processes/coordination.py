"""Several processes, on one machine or many, as one run.

Every process runs the same program on its own devices; XLA communicates between them.
Process 0 *leads*: it alone writes the log, holds the run directory's lock and speaks to
the user. With one process nothing here does anything.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src import distributed  # its client has no public name; Orbax uses it too
from jax.experimental import multihost_utils

from train.errors import UserError, one_line
from train.processes import rendezvous
from train.processes.cores import usable_cores

_PATIENCE = 2 * 3600 * 1000  # milliseconds; a dead process is detected long before
_MOST_CPU_DEVICES = 256
_turns = itertools.count()

SCHEDULERS = {
    "SLURM": ("SLURM_JOB_ID", "SLURM_NTASKS"),
    "Open MPI": ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE"),
}
"""What tells that a scheduler started this process, and its number of processes."""


class Join(NamedTuple):
    """How to find the other processes; None is for the scheduler to say."""

    coordinator: str | None
    num_processes: int | None
    process_id: int | None
    timeout: int


def requested(values: Mapping[str, Any]) -> Join | None:
    """What the flags say of other processes; None for a process by itself.

    Args:
        values: of the flags given, by name.

    Raises:
        UserError: the flags do not fit together.
    """
    coordinator = values.get("--coordinator", "")
    count, rank = values.get("--num-processes"), values.get("--process-id")
    timeout = values.get("--coordinator-timeout", 120)
    given = {"--num-processes": count, "--process-id": rank}
    given = {name: value for name, value in given.items() if value is not None}
    if not coordinator:
        if given:
            name, value = next(iter(given.items()))
            raise UserError(
                f"{name} {value}: has no effect without --coordinator; allowed: "
                "--coordinator HOST:PORT of process 0, or --coordinator auto under a "
                "scheduler"
            )
        return None
    if coordinator == "auto":
        if given:
            name, value = next(iter(given.items()))
            raise UserError(
                f"{name} {value} with --coordinator auto: the scheduler gives it; "
                "allowed: leave it out, or --coordinator HOST:PORT"
            )
        return _from_scheduler(timeout)
    _address(coordinator)
    for name in ("--num-processes", "--process-id"):
        if name not in given:
            raise UserError(
                f"--coordinator {coordinator}: needs {name} too; allowed: all three, "
                "or --coordinator auto under a scheduler"
            )
    assert count is not None and rank is not None
    if rank >= count:
        raise UserError(
            f"--process-id {rank} with --num-processes {count}: ids count from 0; "
            f"allowed: an integer in [0, {count - 1}]; nearest valid: {count - 1}"
        )
    return Join(coordinator, count, rank, timeout)


def _from_scheduler(timeout: int) -> Join | None:
    for job, size in SCHEDULERS.values():
        if job in os.environ and size in os.environ:
            one = os.environ[size] == "1"
            return None if one else Join(None, None, None, timeout)
    names = " or ".join(SCHEDULERS)
    raise UserError(
        f"--coordinator auto: no scheduler's variables are set here (looked for those "
        f"of {names}); allowed: start under one (srun, mpirun), or --coordinator "
        "HOST:PORT with --num-processes and --process-id"
    )


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(
            f"--coordinator {text}: not an address; allowed: auto, or HOST:PORT of "
            "process 0, as in 10.0.0.1:9876"
        )
    return host.strip("[]"), int(port)


def connect(join: Join) -> None:
    """Connect to the other processes. JAX must not be initialized yet.

    Raises:
        UserError: not all of them connected within the timeout.
    """
    if join.coordinator is not None:
        assert join.num_processes is not None and join.process_id is not None
        address, count = _address(join.coordinator), join.num_processes
        if join.process_id:
            rendezvous.join(address, join.process_id, count, join.timeout)
        else:
            rendezvous.gather(address, count, join.timeout)
    try:
        jax.distributed.initialize(
            coordinator_address=join.coordinator,
            num_processes=join.num_processes,
            process_id=join.process_id,
            initialization_timeout=join.timeout,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"--coordinator {join.coordinator or 'auto'}: the processes did not meet "
            f"within {join.timeout} s ({one_line(error)[:200]}); start all of them, "
            "each with its own id, or raise --coordinator-timeout"
        ) from None


def cpu_devices(seeds: int, most: int | None = None) -> int:
    """Default number of virtual CPU devices: several agents use several cores.

    Args:
        seeds: number of agents trained side by side.
        most: no more than that; None counts the cores alone.

    Returns:
        The largest divisor of `seeds` that is not above the number of cores.
    """
    limit = min(usable_cores(), seeds, most or seeds)
    return next((n for n in range(limit, 1, -1) if seeds % n == 0), 1)


def offer_cpu_devices(count: int) -> None:
    """Split the CPU into virtual devices, so that any machine can test sharding.

    There are never more than 256, as each takes threads and memory. Has an effect only
    before JAX starts, and none on other kinds of devices.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    try:
        jax.config.update("jax_num_cpu_devices", min(count, _MOST_CPU_DEVICES))
    except RuntimeError:
        return  # JAX runs already; how many devices there are is looked at later


@contextlib.contextmanager
def leader_first() -> Iterator[None]:
    """If process 0 raises a UserError, all do. A collective call.

    Raises:
        UserError: in the other processes, where process 0 had one.
    """
    try:
        yield
    except UserError:
        agree(False)
        raise
    if not agree(True):
        raise UserError("another process refused to go on, and says why")


def leads() -> bool:
    """Whether this is process 0."""
    return jax.process_index() == 0


def agree(ok: bool) -> bool:
    """Whether `ok` holds on all processes. A collective call."""
    return largest(not ok) == 0


def largest(number: int) -> int:
    """The maximum over all processes. A collective call."""
    return max(_exchange(number))


def from_leader(number: int) -> int:
    """The number of process 0. A collective call."""
    return _exchange(number)[0]


def meet() -> None:
    """Wait for all processes.

    Before a program first runs on all devices: one process may have compiled for
    minutes longer, and the devices' own connection gives up after half a minute.
    """
    _exchange(0)


def _exchange(number: int) -> list[int]:
    """All-gather of one integer through the coordinator's key-value store, which needs
    no device and has no short timeout."""
    count, rank = jax.process_count(), jax.process_index()
    if count == 1:
        return [int(number)]
    client: Any = distributed.global_state.client
    turn = next(_turns)
    client.key_value_set(_place(turn, rank), str(int(number)))
    client.wait_at_barrier(f"smooth-dreamer-{turn}", _PATIENCE)
    found = [
        client.blocking_key_value_get(_place(turn, i), _PATIENCE) for i in range(count)
    ]
    if turn:
        # All have read it, or they would not be at this turn.
        client.key_value_delete(_place(turn - 1, rank))
    return [int(text) for text in found]


def _place(turn: int, rank: int) -> str:
    return f"smooth-dreamer/{turn}/{rank}"


def fetch(x: jax.Array) -> np.ndarray:
    """A (sharded) array as numpy on the host. A collective call."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
