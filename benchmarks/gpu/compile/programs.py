"""The programs that are compiled: what a training run on a GPU would execute."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

import envs
from benchmarks.gpu.kernel import tilings
from benchmarks.gpu.kernel_checks import rows_inputs
from benchmarks.gpu.overhead import settings
from benchmarks.measure.device_time import chained
from benchmarks.measure.rollouts import make
from benchmarks.overhead.op.cases import (
    SHAPES,
    HeadShape,
    penalty_program,
    probe_families,
    random_inputs,
)
from core.penalty import PenaltyOptions
from core.transition import Transition
from kernels import Implementation
from kernels.pallas import kernel, tiling
from train.config import Config
from train.program.chunk import Schedule, make_chunk, make_prefill
from train.program.penalty import choose_penalty
from train.program.state import compute_dtype, init_learner, init_run
from train.program.update import UpdateOptions, update
from train.rollout.player import make_evaluate

PenaltyName = Literal["none", "xla", "pallas"]


class Built(NamedTuple):
    """A function to compile.

    Attributes:
        args: shapes and types of its arguments.
        donate: which of them it may overwrite.
    """

    label: str
    fn: Callable[..., Any]
    args: tuple[PyTree, ...]
    donate: tuple[int, ...] = ()


STATES = 512
"""Half of a batch's states: what the penalty is computed at by default."""

WIDTHS = (64, 128, 192, 256, 320)
TASKS = {
    "walker": "walker-walk",
    "cheetah": "cheetah-run",
    "quadruped": "quadruped-walk",
}


def kernels() -> Iterator[Built]:
    """The fused kernel for every hidden width and type that it has, and the op."""
    key = jax.random.key(0)
    for dtype in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)):
        for h in WIDTHS:
            shape = SHAPES["12m"]._replace(h=h)
            if tiling.shared_bytes(h, shape.c, dtype) > tiling.SHARED_BYTES:
                continue
            args = jax.eval_shape(
                lambda key, s=shape, d=dtype: rows_inputs(key, s, STATES, d), key
            )
            widest = {
                cut.columns: cut for cut in reversed(tilings(shape, STATES, dtype))
            }
            for cut in widest.values():
                label = f"kernel H={h} {dtype.name} {cut.columns}x{cut.rows}"
                run = partial(kernel.row_arrays, dtype=dtype, tiling=cut)
                yield Built(label, run, tuple(args))
    names: tuple[Implementation, ...] = ("pallas", "xla", "reference")
    for name in names:
        yield _op(name, SHAPES["12m"], key)


def _op(name: Implementation, shape: HeadShape, key: jax.Array) -> Built:
    inputs = partial(random_inputs, shape=shape, n=STATES, dtype=jnp.bfloat16)
    args = (*jax.eval_shape(inputs, key), key)
    probes = probe_families(shape.c)[0]
    fn = penalty_program(name, probes, classes=shape.c, gradient=True, reuse=True)
    return Built(f"penalty op {name}", fn, args)


class OpCase(NamedTuple):
    """The penalty op, value and gradients, `calls` times in one program.

    Attributes:
        size: of the posterior head, of `SHAPES`.
        states: N.
        family: which of `probe_families`.
        exact_products: in float32 with products in full precision, once: what the
            others are compared with.
    """

    implementation: Implementation
    size: str
    states: int
    family: int
    exact_products: bool = False

    @property
    def what(self) -> str:
        """All but the implementation."""
        probes = probe_families(SHAPES[self.size].c)[self.family]
        return f"{self.size} N={self.states} {probes.label}"

    @property
    def label(self) -> str:
        """The program's label."""
        name = "float32" if self.exact_products else self.implementation
        return f"op {self.what} {name}"

    @property
    def calls(self) -> int:
        """Calls in one program."""
        return 1 if self.exact_products else 64

    def inputs(self) -> tuple[PyTree, PyTree, jax.Array]:
        """The states, pre-activations and head; one key a call."""
        shape = SHAPES[self.size]
        found = random_inputs(jax.random.key(0), shape, self.states, jnp.bfloat16)
        if self.exact_products:
            found = jax.tree.map(lambda x: x.astype(jnp.float32), found)
        u, a, head = found
        # The last key is the same, whatever the number of calls.
        keys = jax.random.split(jax.random.key(7), 64)[-self.calls :]
        return u, (a, head), keys

    def program(self, u: PyTree, inputs: PyTree, keys: jax.Array) -> PyTree:
        """The results of the last call: value, gradients of `a` and of the head."""
        shape = SHAPES[self.size]
        probes = probe_families(shape.c)[self.family]
        options: dict[str, Any] = {"gradient": True, "reuse": True}
        fn = penalty_program(self.implementation, probes, classes=shape.c, **options)
        precision = "highest" if self.exact_products else None
        with jax.default_matmul_precision(precision):
            calls = chained(lambda x, key: fn(u, *x, key), lambda found: found[1:])
            return calls(inputs, keys)[1]


OPS = tuple(
    case
    for size, states, family in (
        ("12m", 512, 0),
        ("12m", 1024, 2),
        ("1m", 512, 0),
    )
    for case in (
        OpCase("pallas", size, states, family),
        OpCase("xla", size, states, family),
        OpCase("reference", size, states, family),
        OpCase("reference", size, states, family, exact_products=True),
    )
)
"""One Rademacher probe at half of a batch's states, the exact penalty at all."""


def ops() -> Iterator[Built]:
    """The op as it is timed."""
    for case in OPS:
        yield Built(case.label, case.program, jax.eval_shape(case.inputs))


def updates(penalty: PenaltyName, size: str) -> Iterator[Built]:
    """One update of the paper's configuration."""
    config = settings(size)
    env = envs.VectorEnv(envs.make(config.env), config.num_envs)
    learner = jax.eval_shape(partial(init_learner, config, env), jax.random.key(0))
    dtype = compute_dtype(config, "gpu")
    options = UpdateOptions(_penalty(config, penalty), dtype)

    def step(learner, initial, batch, key):
        return update(config, learner, initial, batch, key=key, options=options)

    initial = jax.eval_shape(
        lambda: learner.agent.model.rssm.initial(config.batch_size)
    )
    args = (learner, initial, _batch(config, env), jax.random.key(0))
    yield Built(f"update-{penalty}-{size}", step, args, (0,))


def _penalty(config: Config, name: PenaltyName) -> PenaltyOptions | None:
    if name == "none":
        return None
    options = choose_penalty(config, "gpu").options
    assert options is not None
    return dataclasses.replace(options, implementation=name)


def _batch(config: Config, env: envs.VectorEnv) -> Transition:
    rows = config.batch_length, config.batch_size

    def zeros() -> Transition:
        flags = jnp.zeros(rows, bool)
        return Transition(
            jnp.zeros((*rows, *env.spec.obs_shape)),
            jnp.zeros((*rows, env.spec.action_dim)),
            jnp.zeros(rows),
            flags,
            flags,
            flags,
        )

    return jax.eval_shape(zeros)


def chunk(penalty: PenaltyName = "xla") -> Iterator[Built]:
    """Acting, replay and updates: one cycle of `train.main`'s program."""
    config, env, schedule = one_cycle()
    dtype = compute_dtype(config, "gpu")
    fn = make_chunk(config, env, schedule, _penalty(config, penalty), dtype)
    run = jax.eval_shape(partial(init_run, config, env), jax.random.key(0))
    yield Built("chunk" if penalty == "xla" else f"chunk-{penalty}", fn, (run,), (0,))


def one_cycle() -> tuple[Config, envs.VectorEnv, Schedule]:
    """What `chunk` and `before_training` are of."""
    config = settings()
    env = envs.VectorEnv(make(config.env), config.num_envs)
    return config, env, Schedule.of(config)._replace(cycles=1)


def before_training() -> Iterator[Built]:
    """What `train.main` runs before the first chunk: its state, a filled replay."""
    config, env, schedule = one_cycle()
    start = partial(init_run, config, env)
    run = jax.eval_shape(start, jax.random.key(0))
    yield Built("start", start, (jax.random.key(0),))
    yield Built("prefill", make_prefill(config, env, schedule), (run,), (0,))


def evaluation() -> Iterator[Built]:
    """The episodes of one evaluation."""
    config = settings()
    vector = envs.VectorEnv(make(config.env), config.eval_episodes)
    learner = jax.eval_shape(partial(init_learner, config, vector), jax.random.key(0))
    yield Built("evaluation", make_evaluate(vector), (learner.agent, jax.random.key(0)))


def simulation(task: str, batch: int) -> Iterator[Built]:
    """One decision of a batch of environments."""
    env = make(TASKS[task])
    vector = envs.VectorEnv(env, batch)
    state = jax.eval_shape(lambda key: vector.reset(key)[0], jax.random.key(0))
    action = jax.ShapeDtypeStruct((batch, env.spec.action_dim), jnp.float32)
    yield Built(f"mjx-{task}-{batch}", vector.step, (state, action), (0,))


PROGRAMS: dict[str, Callable[[], Iterator[Built]]] = {
    "kernel": kernels,
    **{
        f"update-{penalty}-{size}": partial(updates, penalty, size)
        for size in ("1m", "12m")
        for penalty in get_args(PenaltyName)
    },
    **{f"mjx-{task}-16": partial(simulation, task, 16) for task in TASKS},
    "op": ops,
    "before-training": before_training,
    "chunk": chunk,
    "chunk-none": partial(chunk, "none"),
    "evaluation": evaluation,
}
"""By the name that `--only` takes."""
