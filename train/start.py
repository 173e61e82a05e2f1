"""What is decided and said before anything compiles."""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

import envs
from core.penalty import PenaltyOptions
from envs import Env, EnvSpec, VectorEnv
from kernels import kernel_obstacle
from train.config import Config, replay_bytes
from train.errors import UserError
from train.state import compute_dtype, init_agent

MIB = 1 << 20


def enable_compilation_cache() -> Path:
    """Keep compiled programs on disk, so that the next start takes seconds.

    Honours JAX_COMPILATION_CACHE_DIR; otherwise the folder is `smooth-dreamer/jax` in
    the user's cache directory.
    """
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(given) if given else home / "smooth-dreamer" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return folder


class Penalty(NamedTuple):
    """The penalty's static choices (None: no penalty) and why they were taken."""

    options: PenaltyOptions | None
    reason: str


def choose_penalty(config: Config, platform: str) -> Penalty:
    """The implementation that will run, in words where it is not the one asked for."""
    asked = config.penalty
    if not asked.active:
        return Penalty(None, "none: plain DreamerV3")
    taken, why = asked.implementation, "as configured"
    if taken == "pallas":
        obstacle = kernel_obstacle(
            hidden=config.model.hidden,
            classes=config.model.classes,
            dtype=compute_dtype(config, platform),
        )
        if platform == "cpu":
            obstacle = "the Pallas kernel needs a GPU"
        if obstacle:
            taken, why = "xla", f"{obstacle}; xla is the same mathematics"
    assert taken != "none"
    options = PenaltyOptions(
        taken,
        asked.target,
        asked.rho,
        asked.normalization,
        asked.probe_kind,
        asked.probes,
        asked.core_carry,
    )
    probes = "all" if asked.probe_kind == "exact" else asked.probes or 1
    what = f"{taken} on the {asked.target}, rho {asked.rho:g}, {probes} "
    return Penalty(options, f"{what}{asked.probe_kind} ({why})")


def make_env(config: Config) -> Env:
    """The configured environment.

    Raises:
        UserError: its arguments do not fit this environment.
    """
    try:
        return envs.make(config.env, obs=config.obs, action_repeat=config.action_repeat)
    except ValueError as error:
        raise UserError(
            f"--env {config.env} --obs {config.obs} --action-repeat "
            f"{config.action_repeat}: {error}"
        ) from None


def check_device(config: Config, platform: str) -> None:
    """Refuse a CPU where a GPU was required.

    Raises:
        UserError: `--require-gpu` on a machine where JAX sees none.
    """
    if config.require_gpu and platform == "cpu":
        raise UserError(
            "--require-gpu: JAX sees no GPU here (install the cuda13 extra, or leave "
            "the flag out to train on the CPU)"
        )


def check_memory(config: Config, spec: EnvSpec) -> str:
    """The replay's size in words.

    Raises:
        UserError: it does not fit; the message gives the largest size that does.
    """
    size = lambda config: replay_bytes(  # noqa: E731
        config, obs_shape=spec.obs_shape, action_dim=spec.action_dim
    )
    needed, free = size(config), available_memory()
    # Half of the memory is left for the networks, their gradients and the program.
    if free is not None and needed > free // 2:
        row = needed / config.replay_capacity
        largest = int(free / 2 / row)
        raise UserError(
            f"--replay-size {config.replay_size}: the replay would take "
            f"{needed / MIB:,.0f} MiB of {free / MIB:,.0f} MiB free memory; allowed: "
            f"half of it; nearest valid: {largest}"
        )
    return f"{config.replay_capacity:,} decisions, {needed / MIB:,.0f} MiB"


def available_memory() -> int | None:
    """Free bytes on the first device, or of the host on a CPU; None if unknown."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line for line in lines if line.startswith("MemAvailable:")]
    return int(found[0].split()[1]) * 1024 if found else None


def describe(
    config: Config, env: VectorEnv, *, preset_reason: str, penalty: Penalty, cache: Path
) -> list[str]:
    """The lines printed before anything compiles."""
    platform = jax.default_backend()
    device = jax.devices()[0]
    agent = jax.eval_shape(lambda key: init_agent(config, env, key), jax.random.key(0))
    counts = agent.parameter_counts()
    dtype = jnp.dtype(compute_dtype(config, platform)).name
    spec = env.spec
    seeds = f", {config.seeds} seeds side by side" if config.seeds > 1 else ""
    kind = platform.upper() if platform == "cpu" else f"{device.device_kind}"
    cores = f" ({os.cpu_count()} cores)" if platform == "cpu" else ""
    return [
        f"device       {kind}{cores}, {dtype} arithmetic",
        f"preset       {config.preset} ({preset_reason})",
        f"environment  {spec.name}: {spec.obs_shape[0]} observations, "
        f"{spec.action_dim} actions, action repeat {spec.action_repeat}, "
        f"{config.num_envs} copies{seeds}",
        f"parameters   {counts['total']:,} (dynamics {counts['dynamics']:,})",
        f"penalty      {penalty.reason}",
        f"replay       {check_memory(config, spec)}",
        f"compile cache {cache}",
    ]
