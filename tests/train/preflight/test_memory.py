"""Free memory, as Linux tells it."""

import pytest

from train.preflight.memory import available_host_memory

MIB = 2**20


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def root(tmp_path):
    """A machine with 100 MiB free."""
    write(tmp_path, {"proc/meminfo": "MemTotal: 999999 kB\nMemAvailable: 102400 kB\n"})
    return tmp_path


def test_of_the_machine(root):
    assert available_host_memory(root) == 100 * MIB
    assert available_host_memory(root / "elsewhere") is None
    here = available_host_memory()
    assert here is None or here > 10 * MIB


def test_of_a_job_and_of_what_it_is_part_of(root):
    job = "sys/fs/cgroup/slurm/job_7"
    write(root, {"proc/self/cgroup": "0::/slurm/job_7\n"})
    write(root, {f"{job}/memory.max": "max\n", f"{job}/memory.current": "5\n"})
    assert available_host_memory(root) == 100 * MIB
    write(root, {f"{job}/memory.max": f"{64 * MIB}\n"})
    write(root, {f"{job}/memory.current": f"{24 * MIB}\n"})
    write(root, {f"{job}/memory.stat": f"anon 3\ninactive_file {8 * MIB}\n"})
    assert available_host_memory(root) == 48 * MIB
    above = "sys/fs/cgroup/slurm"
    write(root, {f"{above}/memory.max": f"{30 * MIB}"})
    write(root, {f"{above}/memory.current": f"{29 * MIB}"})
    assert available_host_memory(root) == MIB
    write(root, {f"{above}/memory.current": f"{31 * MIB}"})
    assert available_host_memory(root) == 0


def test_of_a_container(root):
    """Its group's name is the host's, its own limits are at the top."""
    write(
        root, {"proc/self/cgroup": "4:cpu:/x\n3:memory:/docker/abc\n0::/docker/abc\n"}
    )
    top = "sys/fs/cgroup/memory"
    write(root, {f"{top}/memory.limit_in_bytes": f"{20 * MIB}"})
    write(root, {f"{top}/memory.usage_in_bytes": f"{5 * MIB}"})
    write(root, {f"{top}/memory.stat": f"total_inactive_file {MIB}\n"})
    assert available_host_memory(root) == 16 * MIB
