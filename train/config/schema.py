"""Every number of a run, as frozen dataclasses; each field is a flat flag.

Nothing here imports JAX: a mistyped flag must be answered before JAX starts. The
units are those of the whole project: one *environment step* is one control step of
the simulator, and one *decision* is `action_repeat` of them.
"""

import dataclasses
import math
from typing import Annotated, Literal

from tyro.conf import arg

from core.constants import LossConstants  # needs no JAX
from core.sizes import SIZES, ModelSize
from train.config.fields import Range, check_fields, invalid
from train.config.origin import OriginConfig
from train.errors import UserError

# Counters on the device are 32-bit integers.
MAX_COUNT = 2**31 - 1
# Decisions after which an evaluation cuts an episode off (no time limit, say).
MAX_EVAL_DECISIONS = 10_000
Count = Annotated[int, Range(1, MAX_COUNT)]
Positive = Annotated[float, Range(0, open_low=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 1, open_high=True)]


@dataclasses.dataclass(frozen=True)
class PenaltyConfig:
    """The Jacobian penalty on the latent dynamics (GPLD, Algorithms 1 and 2)."""

    implementation: Annotated[
        Literal["none", "reference", "xla", "pallas"], arg(name="penalty")
    ] = "xla"
    """Which code computes the penalty; none trains plain DreamerV3.
    reference: the definition by vector-Jacobian products, slow.
    xla: the Gram form, fast everywhere; pallas: the fused GPU kernel."""
    target: Annotated[
        Literal["posterior", "prior", "both", "core"], arg(name="penalty-target")
    ] = "posterior"
    """Which map the penalty keeps smooth; core is the recurrent map h, z, a -> h'."""
    rho: Fraction = 0.5
    """Fraction of the batch's states that are penalized, in (0, 1]."""
    lambda0: NonNegative = 0.5
    """Coefficient of the penalty at the first update; .01 with target core."""
    lambda0_prior: NonNegative | None = None
    """The same for the prior, with target prior or both; none is --lambda0."""
    lambda_min: NonNegative = 0.001
    """The coefficient never decays below this; --lambda0 with target core."""
    decay_scale: Positive = 1000.0
    """c in lambda = max(lambda0 / sqrt(1 + updates / c), lambda_min)."""
    normalization: Literal["sampled", "batch"] = "sampled"
    """sampled: mean over the sampled states (Algorithm 1).
    batch: their sum over all states, so that the weight is lambda * rho
    (what the authors' released code does)."""
    probe_kind: Literal["rademacher", "hadamard", "exact"] = "rademacher"
    """rademacher: random signs (the paper).
    hadamard: distinct random columns of an orthogonal basis.
    exact: the whole basis, which gives the exact squared Frobenius norm."""
    probes: Count | None = None
    """Probes per state, for rademacher and hadamard; none is 1."""
    core_carry: bool = True
    """With target core: whether the gate's direct path from h to h' counts."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.implementation == "none":
            return
        if self.rho == 0:
            raise UserError(
                f"--rho 0 with --penalty {self.implementation}: nothing would be "
                "penalized; allowed: a value in (0, 1], or --penalty none"
            )
        if self.probe_kind == "exact" and self.probes is not None:
            raise UserError(
                f"--probes {self.probes} with --probe-kind exact: exact uses the whole "
                "basis; allowed: leave --probes out, or --probe-kind hadamard"
            )
        if self.target == "core":
            if self.implementation == "pallas":
                raise UserError(
                    "--penalty pallas with --penalty-target core: the kernel covers "
                    "the posterior and prior heads only; allowed for core: "
                    "reference, xla; nearest valid: --penalty xla"
                )
            if self.probe_kind != "rademacher":
                raise UserError(
                    f"--probe-kind {self.probe_kind} with --penalty-target core: the "
                    "recurrent map has no class rows to build a basis on; allowed: "
                    "rademacher"
                )
        if self.lambda0_prior is not None and self.target not in ("prior", "both"):
            raise UserError(
                f"--lambda0-prior {self.lambda0_prior:g} with --penalty-target "
                f"{self.target}: it would have no effect; allowed with the targets: "
                "prior, both"
            )
        start = {"--lambda0": self.lambda0}
        if self.target in ("prior", "both") and self.lambda0_prior is not None:
            start["--lambda0-prior"] = self.lambda0_prior
            if self.target == "prior":
                del start["--lambda0"]
        for name, value in start.items():
            if self.lambda_min > value:
                raise UserError(
                    f"--lambda-min {self.lambda_min:g} exceeds {name} {value:g}, where "
                    f"the decay starts; allowed: a value in [0, {value:g}]; nearest "
                    f"valid: --lambda-min {value:g}"
                )

    @property
    def active(self) -> bool:
        """Whether any penalty is computed."""
        return self.implementation != "none"

    @property
    def resolved_lambda0_prior(self) -> float:
        """The prior's coefficient at the first update, with its default filled in."""
        return self.lambda0 if self.lambda0_prior is None else self.lambda0_prior


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
    """Smallest parameter norm that the clipping reckons with."""
    beta1: Decay = 0.9
    """Decay of the momentum."""
    beta2: Decay = 0.999
    """Decay of the mean squared gradient."""
    eps: Positive = 1e-20
    """Added to the root of the mean squared gradient."""

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
    free_nats: NonNegative = 1.0
    """KL divergences below this many nats are not reduced further."""
    unimix: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.01
    """Share of the uniform distribution mixed into the latent categoricals."""
    return_lambda: Fraction = 0.95
    """Mixing of n-step returns."""
    entropy: NonNegative = 3e-4
    """Weight of the policy's entropy."""
    slow_rate: Annotated[float, Range(0, 1, open_low=True)] = 0.02
    """Share of the value network that its slow copy takes over per update."""
    slow_regularizer: NonNegative = 1.0
    """Weight of the loss that holds the value near its slow copy."""
    return_norm_rate: Annotated[float, Range(0, 1, open_low=True)] = 0.01
    """Rate at which the percentiles of the returns are tracked."""
    return_norm_limit: Positive = 1.0
    """Return ranges below this are not scaled up."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class ScaleConfig:
    """How many devices and processes train; nothing of what is trained."""

    devices: Annotated[int | None, Range(1, MAX_COUNT)] = None
    """Devices that share the work, over all processes; none is one, with several
    processes all they have, and with several seeds on a CPU its cores. On a CPU, parts
    of it stand for devices."""
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
    size: Literal["1m", "12m", "25m", "50m", "100m", "200m", "dreamerv2"] = "12m"
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
    discount_horizon: Annotated[int, Range(2, MAX_COUNT)] = 333
    """Decisions the return looks ahead: the discount is 1 - 1 / horizon."""
    replay_size: Count = 5_000_000
    """Largest number of decisions kept; never more than the run takes."""
    replay_context: Annotated[int, Range(0, 1)] = 1
    """1: replayed sequences start from stored latent states. 0: from zeros."""
    prefill: Annotated[int, Range(0, MAX_COUNT)] = 1024
    """Decisions before learning starts, all environments together."""
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
    log_every: Count = 1000
    """Environment steps between two lines of the log."""
    save_every: Count = 20_000
    """Environment steps between checkpoints."""
    keep: Count | None = None
    """Newest checkpoints that are kept; none is 3, or 2 of more than 512 MiB."""
    keep_every: Count | None = None
    """Environment steps between agents that are kept for ever, without what training
    needs to go on (some MB each); none keeps only the newest."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the networks; auto is float32 on a CPU, bfloat16 elsewhere."""
    logdir: str = ""
    """Run directory; by default one under runs/ named after the settings."""
    resume: Literal["auto", "never", "must"] = "auto"
    """auto: go on from a checkpoint if there is one.
    never: refuse a directory that holds one. must: refuse one without."""
    allow_changes: bool = False
    """Resume even if settings changed that the run was trained with."""
    require_gpu: bool = False
    """Stop instead of running on a CPU."""
    penalty: PenaltyConfig = PenaltyConfig()
    """Jacobian penalty on the latent dynamics."""
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
        self._check_probes()
        self._check_lengths()

    def _check_probes(self) -> None:
        penalty, classes = self.penalty, self.model.classes
        if not penalty.active or penalty.probe_kind != "hadamard":
            return
        if penalty.probes is not None and penalty.probes > classes - 1:
            raise UserError(
                f"--probes {penalty.probes} with --probe-kind hadamard: size "
                f"{self.size} has {classes} classes, so {classes - 1} columns; "
                f"allowed: an integer in [1, {classes - 1}]; nearest valid: "
                f"{classes - 1} (the same as --probe-kind exact)"
            )

    def _check_lengths(self) -> None:
        if self.replay_size < self.learning_starts:
            raise UserError(
                f"--replay-size {self.replay_size}: too small for --num-envs "
                f"{self.num_envs}, --batch-length {self.batch_length} and --prefill "
                f"{self.prefill}; allowed: >= {self.learning_starts}; nearest valid: "
                f"{self.learning_starts}"
            )
        if self.decisions < self.learning_starts:
            least = self.learning_starts * self.action_repeat
            raise UserError(
                f"--steps {self.steps}: ends before learning starts with --num-envs "
                f"{self.num_envs}, --batch-length {self.batch_length} and --prefill "
                f"{self.prefill}; allowed: >= {least}; nearest valid: {least}"
            )

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
    def decisions(self) -> int:
        """Decisions of the run, all environments of one agent together."""
        return math.ceil(self.steps / self.action_repeat)

    @property
    def learning_starts(self) -> int:
        """Decisions before the first update: `prefill`, or one sequence per
        environment (with its stored latent state) where that is more."""
        sequence = self.num_envs * (self.batch_length + self.replay_context)
        return max(self.prefill, sequence)

    @property
    def replay_capacity(self) -> int:
        """Decisions the replay of one agent holds."""
        return min(self.replay_size, self.decisions)

    @property
    def discount(self) -> float:
        """Discount of one decision."""
        return 1 - 1 / self.discount_horizon


def replay_bytes(config: Config, *, obs_shape: tuple[int, ...], action_dim: int) -> int:
    """Device memory of the replay of all agents, in bytes.

    A decision takes its observation (float32, or uint8 for images), action and reward
    (float32), four flags, and with `replay_context` the latent state (recurrent part
    in bfloat16, one byte for the class of each categorical).
    """
    # Images by their shape: `--obs state` may be an environment of images of one's own.
    obs = math.prod(obs_shape) * (1 if len(obs_shape) == 3 else 4)
    latent = config.replay_context * (2 * config.model.deter + config.model.stoch)
    row = obs + 4 * action_dim + 4 + 4 + latent
    return config.seeds * config.replay_capacity * row
