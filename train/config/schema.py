"""The configuration of a run, as frozen dataclasses; each field is a flat flag.

Nothing here imports JAX: a mistyped flag must be answered before JAX starts. The
units are those of the whole project: one *environment step* is one control step of
the simulator, and one *decision* is `action_repeat` of them.
"""

import dataclasses
import functools
import math
from typing import Annotated, Literal

from core.constants import DREAMERV3, LossConstants  # needs no JAX
from core.sizes import SIZES, ModelSize
from train.config.fields import (
    MAX_COUNT,
    Count,
    DecayRate,
    Fraction,
    Joined,
    NonNegative,
    Positive,
    Range,
    check_fields,
    invalid,
)
from train.config.latent import LatentConfig
from train.config.origin import OriginConfig
from train.config.penalty import PenaltyConfig
from train.config.sweep import Variant, check_sweep, variants

# Decisions after which an evaluation cuts an episode off (no time limit, say).
MAX_EVAL_DECISIONS = 10_000


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adaptive gradient clipping, scaling by RMS, momentum, in that order."""

    learning_rate: Positive = 4e-5
    """Step size after the warm-up."""
    warmup: Annotated[int, Range(0, MAX_COUNT)] = 1000
    """Updates over which the step size rises linearly from 0."""
    agc: NonNegative = 0.3
    """Largest ratio of an update's norm to its parameter's norm; 0 is no clipping."""
    agc_floor: Positive = 1e-3
    """Lower bound on the parameter norm in the clipping."""
    beta1: DecayRate = 0.9
    """Decay of the momentum."""
    beta2: DecayRate = 0.999
    """Decay of the mean squared gradient."""
    eps: Positive = 1e-20
    """Added to the root of the mean squared gradient."""
    actor_learning_rate: Positive | None = None
    """Step size of the policy. Default: --learning-rate."""
    critic_learning_rate: Positive | None = None
    """Step size of the value. Default: --learning-rate."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the losses, and the constants inside them."""

    reconstruction_scale: NonNegative = 1.0
    """Weight of the observation loss."""
    reward_scale: NonNegative = 1.0
    """Weight of the reward loss."""
    continue_scale: NonNegative = 1.0
    """Weight of the continuation loss."""
    dynamics_scale: NonNegative = 1.0
    """Weight of the KL divergence that trains the prior."""
    representation_scale: NonNegative = 0.1
    """Weight of the KL divergence that trains the posterior."""
    policy_scale: NonNegative = 1.0
    """Weight of the policy loss."""
    value_scale: NonNegative = 1.0
    """Weight of the value loss on imagined states."""
    replay_value_scale: NonNegative = 0.3
    """Weight of the value loss on replayed states."""
    straightening: NonNegative = 0.0
    """Weight of the temporal-straightening loss; 0 leaves it out
    (docs/theory-imagination.md)."""
    clip_rewards: Literal["none", "tanh"] = "none"
    """tanh: the model learns tanh of each decision's reward, and so does all that
    follows from its predictions; logged returns are not clipped."""
    free_nats: NonNegative = DREAMERV3.free_nats
    """KL divergences below this many nats are not reduced further."""
    unimix: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.01
    """Share of the uniform distribution mixed into the latent categoricals; Gaussian
    latents have none."""
    return_lambda: Fraction = DREAMERV3.return_lambda
    """Mixing of n-step returns."""
    entropy: NonNegative = DREAMERV3.entropy
    """Weight of the policy's entropy."""
    slow_rate: Annotated[float, Range(0, 1, open_low=True)] = 0.02
    """Share of the value network that its slow copy takes over per update."""
    slow_regularizer: NonNegative = DREAMERV3.slow_regularizer
    """Weight of the loss that holds the value near its slow copy."""
    return_norm_rate: Annotated[float, Range(0, 1, open_low=True)] = (
        DREAMERV3.return_norm_rate
    )
    """Rate at which the percentiles of the returns are tracked."""
    return_norm_limit: Positive = DREAMERV3.return_norm_limit
    """Return ranges below this are not scaled up."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class ScaleConfig:
    """Number of devices and processes; does not change what is trained."""

    devices: Annotated[int | None, Range(1, MAX_COUNT)] = None
    """Devices that share the work, over all processes. Default: 1; with several
    processes, all of theirs; with several seeds on a CPU, its cores. A CPU is split
    into virtual devices."""
    coordinator: str = ""
    """With several processes: HOST:PORT of process 0, or auto for what the scheduler
    says (SLURM, Open MPI)."""
    num_processes: Annotated[int | None, Range(1, MAX_COUNT)] = None
    """Number of processes; with --coordinator HOST:PORT."""
    process_id: Annotated[int | None, Range(0, MAX_COUNT)] = None
    """Which of them this is, from 0; with --coordinator HOST:PORT."""
    coordinator_timeout: Count = 120
    """Seconds to wait for the other processes at the start."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run. Build it with `cli.parse`, or directly in a notebook."""

    env: str = "walker-walk"
    """Task, as domain-task; a domain alone means its default task. Or module:attribute,
    a factory of your own (docs/environments.md)."""
    obs: Literal["state", "pixels"] = "state"
    """What the agent sees: the state vector, or 64x64 images."""
    augment: str = "none"
    """Perturbs what the encoder sees while the world model learns, never its targets:
    noise:VARIANCE, rotate:DEGREES, mask:PERCENT (docs/pixels.md)."""
    action_repeat: Count = 2
    """Environment steps an action is held for: one decision."""
    size: Literal["400k", "1m", "12m", "25m", "50m", "100m", "200m", "dreamerv2"] = (
        "12m"
    )
    """Size of the networks, by their approximate number of parameters."""
    preset: Literal[
        "auto", "gpld", "gpld-released", "dreamerv3", "jacreg", "laptop", "smoke"
    ] = "auto"
    """Values that the other flags start from.
    auto: laptop on a CPU, gpld on an accelerator."""
    steps: Count = 1_000_000
    """Environment steps of the run, all environments together."""
    seed: Annotated[int, Range(0, MAX_COUNT)] = 0
    """Seed of every random choice."""
    seeds: Count = 1
    """Agents trained side by side, with seeds seed, seed+1, ..."""
    sweep: Annotated[str, Joined()] = ""
    """Train agents with several values of a number side by side, each with all --seeds:
    --sweep lambda0=0,0.1,0.5 --sweep learning-rate=1e-4,4e-5."""
    num_envs: Count = 16
    """Environments stepped side by side, for each agent."""
    train_ratio: Annotated[float, Range(0, 1e6, open_low=True)] = 512.0
    """Replayed steps trained on for each decision taken."""
    batch_size: Count = 16
    """Sequences in a batch."""
    batch_length: Annotated[int, Range(2, MAX_COUNT)] = 64
    """Decisions in a sequence."""
    imagination_length: Count = 15
    """Decisions imagined from each state."""
    imagination_starts: Annotated[int, Range(0, MAX_COUNT)] = 0
    """States at the end of each sequence that rollouts are imagined from; 0: all."""
    discount_horizon: Annotated[int, Range(2, MAX_COUNT)] = DREAMERV3.discount_horizon
    """Decisions the return looks ahead: the discount is 1 - 1 / horizon."""
    replay_size: Count = 5_000_000
    """Capacity of the replay buffer in decisions; by default at most those of the run.
    A resumed run keeps its capacity."""
    replay_context: Annotated[int, Range(0, 1)] = 1
    """1: replayed sequences start from stored latent states. 0: from zeros."""
    prefill: Annotated[int, Range(0, MAX_COUNT)] = 1024
    """Decisions before learning starts, all environments together."""
    prefill_policy: Literal["agent", "random"] = "agent"
    """Who takes them: the untrained agent, or uniform random actions."""
    eval_every: Count = 5000
    """Environment steps between evaluations."""
    eval_episodes: Count = 3
    """Episodes of one evaluation."""
    eval_policy: Literal["sample", "mode"] = "mode"
    """Actions of an evaluation: samples of the policy, as in training and as in the
    authors' code, or its mode."""
    eval_max_decisions: Count = MAX_EVAL_DECISIONS
    """An evaluation cuts an episode off after so many decisions, and says so; for
    tasks without a time limit."""
    trust_every: Annotated[int, Range(0, MAX_COUNT)] = 0
    """Environment steps between measurements of how smooth the agent's maps are, logged
    as trust/...; 0 for none (docs/theory-imagination.md)."""
    log_every: Count = 1000
    """Environment steps between two lines of the log."""
    save_every: Count = 20_000
    """Environment steps between checkpoints."""
    keep: Count | None = None
    """Newest checkpoints that are kept. Default: 3, or 2 if one exceeds 512 MiB."""
    keep_at: str = ""
    """Environment steps, separated by commas: a checkpoint is saved at the end of the
    chunk that passes each, and kept permanently, to be forked."""
    keep_every: Count | None = None
    """Environment steps between agents that are kept permanently, without replay buffer
    and optimizer (some MB each). Default: only the newest is kept."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the networks; auto is float32 on a CPU, bfloat16 elsewhere."""
    logdir: str = ""
    """Run directory; by default one under runs/ named after the settings."""
    wandb: str = ""
    """Log to this project of Weights & Biases as well (needs the extra wandb)."""
    resume: Literal["auto", "never", "must"] = "auto"
    """auto: go on from a checkpoint if there is one.
    never: refuse a directory that holds one. must: refuse one without."""
    allow_changes: bool = False
    """Resume even if settings changed that the run was trained with."""
    require_gpu: bool = False
    """Stop instead of running on a CPU."""
    penalty: PenaltyConfig = PenaltyConfig()  # noqa: RUF009 (it is frozen)
    """Jacobian penalty on the latent dynamics."""
    latent: LatentConfig = LatentConfig()
    """Latent variables, and their exogenous error."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer of all networks."""
    loss: LossConfig = LossConfig()
    """Losses."""
    origin: OriginConfig = OriginConfig()
    """Checkpoint or agent to start from."""
    scale: ScaleConfig = ScaleConfig()
    """Devices and processes."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.origin.fork and not self.logdir:
            why = "a fork is a run of its own"
            raise invalid("--fork", self.origin.fork, why, "together with --logdir")
        self._check_latents()
        self._check_probes()
        self._check_lengths()
        _ = self.kept_steps
        if self.sweep:
            check_sweep(self)

    def _check_latents(self) -> None:
        if self.latent.family == "categorical":
            return
        family, penalty = f"--latent {self.latent.family}", self.penalty
        if penalty.active and penalty.target != "core":
            raise invalid(
                "--penalty-target",
                f"{penalty.target} with {family}",
                "these latents have no class probabilities to keep smooth",
                "core, or --penalty none",
                "--penalty-target core",
            )
        if self.loss.unimix != LossConfig.unimix:
            why = f"has no effect with {family}, which has no classes"
            allowed = "with --latent categorical, or leave it out"
            raise invalid("--unimix", self.loss.unimix, why, allowed)

    def _check_probes(self) -> None:
        most, penalty = self.model.classes - 1, self.penalty
        if not penalty.active or penalty.probe_kind != "hadamard":
            return
        if penalty.probes is not None and penalty.probes > most:
            raise invalid(
                "--probes",
                f"{penalty.probes} with --probe-kind hadamard",
                f"size {self.size} has {most + 1} classes, so {most} columns",
                f"an integer in [1, {most}]",
                f"{most} (the same as --probe-kind exact)",
            )

    def _check_lengths(self) -> None:
        if self.loss.straightening and self.batch_length < 3:
            why = "two successive steps are needed for --straightening"
            raise invalid("--batch-length", self.batch_length, why, ">= 3", "3")
        starts = self.imagination_starts
        if starts == 1 or starts > self.batch_length:
            why = f"a sequence has {self.batch_length} states, the value loss needs two"
            allowed = f"2 to {self.batch_length}, or 0 for all"
            raise invalid("--imagination-starts", starts, why, allowed)
        least = self.learning_starts
        flags = (
            f"--num-envs {self.num_envs}, --batch-length {self.batch_length} and "
            f"--prefill {self.prefill}"
        )
        if self.replay_size < least:
            why, near = f"too small for {flags}", str(least)
            raise invalid("--replay-size", self.replay_size, why, f">= {least}", near)
        if self.decisions < least:
            steps = str(least * self.action_repeat)
            why = f"ends before learning starts with {flags}"
            raise invalid("--steps", self.steps, why, f">= {steps}", steps)

    @property
    def starts_of_sequence(self) -> int:
        """States of each sequence that rollouts are imagined from."""
        return self.imagination_starts or self.batch_length

    @property
    def loss_constants(self) -> LossConstants:
        """The constants inside the losses."""
        names = set(LossConstants._fields) - {"discount_horizon"}
        values = {name: getattr(self.loss, name) for name in names}
        return LossConstants(discount_horizon=self.discount_horizon, **values)

    @property
    def model(self) -> ModelSize:
        """Widths of the networks."""
        return SIZES[self.size]

    @property
    def agents(self) -> int:
        """Agents trained side by side: `seeds` for each setting of the sweep."""
        return len(self.variants)

    @functools.cached_property
    def variants(self) -> list[Variant]:
        """Seed and swept values of each agent."""
        return variants(self)

    @property
    def decisions(self) -> int:
        """Decisions of the run, all environments of one agent together."""
        return math.ceil(self.steps / self.action_repeat)

    @property
    def kept_steps(self) -> tuple[int, ...]:
        """The steps of `keep_at`.

        Raises:
            UserError: it is no list of positive integers.
        """
        allowed = "integers >= 1, separated by commas"
        found = []
        for word in filter(None, self.keep_at.split(",")):
            if not word.strip().isdecimal() or not int(word):
                raise invalid("--keep-at", self.keep_at, "no list of steps", allowed)
            found.append(int(word))
        return tuple(found)

    @property
    def learning_starts(self) -> int:
        """Decisions before the first update: `prefill`, or one sequence per
        environment (with its stored latent state) where that is more."""
        sequence = self.num_envs * (self.batch_length + self.replay_context)
        return max(self.prefill, sequence)

    @property
    def replay_capacity(self) -> int:
        """Capacity of one agent's replay buffer, in decisions."""
        return min(self.replay_size, self.decisions)

    @property
    def discount(self) -> float:
        """Discount of one decision."""
        return 1 - 1 / self.discount_horizon


def replay_bytes(config: Config, *, obs_shape: tuple[int, ...], action_dim: int) -> int:
    """Device memory of the replay buffers of all agents, in bytes.

    A decision takes its observation (float32, or uint8 for images), action and reward
    (float32), four flags, and with `replay_context` the latent state (recurrent part
    in bfloat16; one byte for the class of each categorical, or two for a number).
    """
    # Images by their shape: `--obs state` may be an environment of images of one's own.
    obs = math.prod(obs_shape) * (1 if len(obs_shape) == 3 else 4)
    model, each = config.model, config.latent.stored_bytes
    latent = config.replay_context * (2 * model.deter + each * model.stoch)
    row = obs + 4 * action_dim + 4 + 4 + latent
    return config.agents * config.replay_capacity * row
