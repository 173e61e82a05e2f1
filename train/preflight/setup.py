"""Cache, environment, device, and the lines printed before anything compiles."""

import importlib.util
import math
import os
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

import envs
from envs import Env, EnvSpec, VectorEnv
from train.config import Config
from train.errors import UserError, counted
from train.placement.placement import Placement
from train.preflight.memory import check_memory
from train.processes.cores import usable_cores
from train.program.chunk import Schedule
from train.program.penalty import Penalty
from train.program.state import compute_dtype, init_agent
from train.rollout.conditions import read_perturbation


def enable_compilation_cache() -> str:
    """Keep compiled programs on disk, so that the next start takes seconds.

    Honours JAX_COMPILATION_CACHE_DIR; otherwise the folder is `smooth-dreamer/jax` in
    the user's cache directory. Without a folder that can be written there is no cache.
    Programs that compile in less than half a second are not kept; JAX's own variable,
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS, sets another limit.

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
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if obstacle:
        return f"none ({obstacle}; JAX_COMPILATION_CACHE_DIR names another folder)"
    return str(folder)


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


def check_wandb(config: Config) -> None:
    """Refuse `--wandb` before anything is done where its package is missing.

    Raises:
        UserError: the package wandb cannot be found.
    """
    if config.wandb and importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"--wandb {config.wandb}: the package wandb is not installed: uv sync "
            "--extra wandb (metrics.jsonl and TensorBoard are written without it)"
        )


def short_intervals(config: Config) -> list[str]:
    """A line on intervals shorter than a chunk, which can act only at its end."""
    schedule = Schedule.of(config)
    rows = schedule.cycles * schedule.rows
    chunk = rows * config.num_envs * config.action_repeat
    asked = {"--eval-every": config.eval_every, "--save-every": config.save_every}
    asked |= {"--trust-every": config.trust_every} if config.trust_every else {}
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
    episodes = counted(config.eval_episodes, "episode")
    return (
        f"every {config.eval_every:,} steps, {episodes}{cut}, "
        f"actions {actions[config.eval_policy]}"
    )


def _describe_sweep(config: Config) -> list[str]:
    if not config.sweep:
        return []
    settings = config.agents // config.seeds
    seeds = counted(config.seeds, "seed")
    return [f"sweep        {config.sweep}: {settings} settings, {seeds} of each"]


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
    sees = counted(spec.obs_shape[0], "observation")
    if spec.is_image:
        sees = f"images of {images}, {math.prod(spec.obs_shape) / 1024:g} KiB each"
    each = "seeds" if not config.sweep else "agents"
    seeds = f", for each of {config.agents} {each}" if config.agents > 1 else ""
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
        f"{counted(spec.action_dim, 'action')}, action repeat {spec.action_repeat}, "
        f"{counted(config.num_envs, 'environment')}{seeds}",
        *_describe_sweep(config),
        f"parameters   {counts['total']:,} (dynamics {counts['dynamics']:,})",
        f"penalty      {penalty.reason}",
        f"replay       {memory}",
        f"evaluation   {describe_evaluation(config, spec)}",
        *short_intervals(config),
        f"compile cache {cache}",
    ]
