"""What is decided and said before anything compiles."""

import dataclasses
import math
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

import envs
from core.penalty import PenaltyOptions
from envs import Env, EnvSpec, VectorEnv
from kernels import kernel_obstacle
from train.chunk import Schedule
from train.config import Config, PenaltyConfig, replay_bytes
from train.errors import UserError
from train.memory import available_host_memory
from train.placement import Placement
from train.provenance import usable_cores
from train.rollout.conditions import read_perturbation
from train.state import compute_dtype, init_agent

MIB = 1 << 20


def enable_compilation_cache() -> str:
    """Keep compiled programs on disk, so that the next start takes seconds.

    Honours JAX_COMPILATION_CACHE_DIR; otherwise the folder is `smooth-dreamer/jax` in
    the user's cache directory. Without a folder that can be written there is no cache.

    Returns:
        The folder, or why there is none.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    obstacle = None
    if not folder:
        try:
            home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            folder = str(home / "smooth-dreamer" / "jax")
        except RuntimeError:  # containers: a user id without an entry in passwd
            obstacle = "no home directory"
    if folder and "://" not in folder:  # JAX takes addresses of buckets too
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            obstacle = f"{folder} cannot be written: {error.strerror}"
    jax.config.update("jax_compilation_cache_dir", None if obstacle else folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if obstacle:
        return f"none ({obstacle}; JAX_COMPILATION_CACHE_DIR names another folder)"
    return str(folder)


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
    reason = f"{what}{asked.probe_kind} ({why}), {coefficients(asked)}"
    return Penalty(options, reason)


def with_taken(config: Config, penalty: Penalty) -> Config:
    """The configuration with the implementation of the penalty that will run."""
    if penalty.options is None:
        return config
    taken = dataclasses.replace(
        config.penalty, implementation=penalty.options.implementation
    )
    return dataclasses.replace(config, penalty=taken)


def coefficients(penalty: PenaltyConfig) -> str:
    """The penalty's coefficient and its decay, in words."""
    starts = {"lambda": penalty.lambda0}
    if penalty.target in ("prior", "both"):
        starts["prior's lambda"] = penalty.resolved_lambda0_prior
    if penalty.target == "prior":
        del starts["lambda"]
    least = penalty.lambda_min
    words = [
        f"{name} {start:g} "
        + ("throughout" if start == least else f"decaying to {least:g}")
        for name, start in starts.items()
    ]
    return ", ".join(words)


def make_env(config: Config) -> Env:
    """The configured environment.

    Raises:
        UserError: its arguments or `--augment` do not fit this environment.
    """
    try:
        env = envs.make(config.env, obs=config.obs, action_repeat=config.action_repeat)
    except ValueError as error:
        raise UserError(
            f"--env {config.env} --obs {config.obs} --action-repeat "
            f"{config.action_repeat}: {error}"
        ) from None
    read_perturbation("--augment", config.augment, env)
    return env


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


def check_memory(
    config: Config, spec: EnvSpec, parameters: int = 0, *, devices: int = 1
) -> str:
    """The replay's size in words.

    Args:
        devices: that share the replay, each with a memory of its own.

    Raises:
        UserError: it does not fit, and the message gives the largest size that does;
            or the rest certainly does not.
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
        raise UserError(
            f"--batch-size {config.batch_size}, --batch-length {config.batch_length}, "
            f"--imagination-length {config.imagination_length}, --num-envs "
            f"{config.num_envs}, --eval-episodes {config.eval_episodes}, --seeds "
            f"{config.seeds}, --size {config.size}: take at least {least / MIB:,.0f} "
            f"MiB of {free / MIB:,.0f} MiB free memory; allowed: smaller values"
        )
    return f"{config.replay_capacity:,} decisions, {needed / MIB:,.0f} MiB"


def least_bytes(config: Config, parameters: int) -> int:
    """What a run holds at the very least beside its replay, in bytes.

    Parameters, their gradients and two moments in float32; latent states of the batch,
    of the environments and of an evaluation in two bytes a number; two numbers in
    float32 for every imagined step. A real run takes several times as much.
    """
    model = config.model
    latent = 2 * (model.deter + model.stoch * model.classes)
    batch = config.batch_size * config.batch_length
    states = batch + config.num_envs + config.eval_episodes
    imagined = 8 * batch * config.imagination_length
    return config.seeds * (16 * parameters + latent * states + imagined)


def short_intervals(config: Config) -> list[str]:
    """A line on intervals shorter than a chunk, which can act only at its end."""
    schedule = Schedule.of(config)
    rows = schedule.cycles * schedule.rows
    chunk = rows * config.num_envs * config.action_repeat
    asked = {"--eval-every": config.eval_every, "--save-every": config.save_every}
    short = [f"{flag} {value}" for flag, value in asked.items() if value < chunk]
    if not short:
        return []
    return [
        f"intervals    {' and '.join(short)}: once in every chunk of {chunk:,} steps, "
        "which --log-every sets"
    ]


def describe_evaluation(config: Config, spec: EnvSpec) -> str:
    """How often, how many episodes, by which actions, and whether they may be cut."""
    actions = {"sample": "sampled from the policy", "mode": "the mode of the policy"}
    cap = config.eval_max_decisions
    cut = f", cut off after {cap:,} decisions" if spec.episode_decisions > cap else ""
    return (
        f"every {config.eval_every:,} steps, {config.eval_episodes} episodes{cut}, "
        f"actions {actions[config.eval_policy]}"
    )


def available_memory() -> int | None:
    """Free bytes on one device, or, on a CPU, for this process; None if unknown."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return available_host_memory()


def describe(
    config: Config,
    env: VectorEnv,
    *,
    preset_reason: str,
    penalty: Penalty,
    placement: Placement,
    cache: str,
) -> list[str]:
    """The lines printed before anything compiles."""
    platform = jax.default_backend()
    device = placement.devices[0]
    agent = jax.eval_shape(lambda key: init_agent(config, env, key), jax.random.key(0))
    counts = agent.parameter_counts()
    dtype = jnp.dtype(compute_dtype(config, platform)).name
    spec = env.spec
    images = "x".join(str(length) for length in spec.obs_shape)
    sees = f"{spec.obs_shape[0]} observations"
    if spec.is_image:
        sees = f"images of {images}, {math.prod(spec.obs_shape) / 1024:g} KiB each"
    seeds = f", for each of {config.seeds} seeds" if config.seeds > 1 else ""
    kind = platform.upper() if platform == "cpu" else f"{device.device_kind}"
    cores = f" ({usable_cores()} cores)" if platform == "cpu" else ""
    # The devices that a CPU stands for share its memory; nor does a machine know how
    # many of its processes take part.
    memories = 1 if platform == "cpu" else len(placement.devices)
    memory = check_memory(config, spec, counts["total"], devices=memories)
    if len(placement.devices) > 1:
        kind = f"{len(placement.devices)} x {kind}"
    if jax.process_count() > 1:
        cores = f" in {jax.process_count()} processes"
    return [
        f"device       {kind}{cores}, {dtype} arithmetic",
        f"preset       {config.preset} ({preset_reason})",
        f"environment  {spec.name}: {sees}, "
        f"{spec.action_dim} actions, action repeat {spec.action_repeat}, "
        f"{config.num_envs} copies{seeds}",
        f"parameters   {counts['total']:,} (dynamics {counts['dynamics']:,})",
        f"penalty      {penalty.reason}",
        f"replay       {memory}",
        f"evaluation   {describe_evaluation(config, spec)}",
        *short_intervals(config),
        f"compile cache {cache}",
    ]
