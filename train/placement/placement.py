"""Where a run's arrays live: on one device, or sharded over several.

One agent: environments, replay buffer and batches are sharded along their environment
or batch axis, parameters are replicated, and XLA sums the gradients. Several agents
(`--seeds`, `--sweep`): every device trains its own agents, without cross-device
communication. The cores of a CPU are devices then.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from train.checkpoint.leaves import is_key, storable
from train.config import Config
from train.errors import UserError, counted
from train.placement.agents import one_by_one, side_by_side
from train.processes import coordination
from train.program.compiler import compiler_options
from train.program.state import RunState

Device = Any  # pyright cannot read `jax.Device`

AXIS = "data"
WHOLE = PartitionSpec()
ROWS = PartitionSpec(AXIS)
"""Divided along the first axis."""
SECOND = PartitionSpec(None, AXIS)


class Placement:
    """The devices of a run, and what each holds.

    Args:
        devices: at least one.
        agents: number of agents.

    Attributes:
        by_agent: there are several agents, whole on one device each.
        in_turn: the agents of a device are computed one after another.
        mesh: of the devices; None with one.
    """

    def __init__(self, devices: list[Device], *, agents: int = 1) -> None:
        self.devices = devices
        self.by_agent = agents > 1
        self.in_turn = devices[0].platform == "cpu"
        self.mesh = None
        if len(devices) > 1:
            self.mesh = Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))

    @classmethod
    def of(cls, config: Config) -> "Placement":
        """The devices that a configuration asks for.

        Raises:
            UserError: there are not so many, or the work does not divide among them.
        """
        return cls(choose_devices(config), agents=config.agents)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """What is compiled or called inside uses these devices."""
        if self.mesh is None:
            yield
        else:
            with jax.set_mesh(self.mesh):
                yield

    def specs(self, run: RunState) -> RunState:
        """How every leaf of a run's state is divided (`jax.sharding.PartitionSpec`)."""
        if self.by_agent:
            return jax.tree.map(lambda _: ROWS, run)
        rows = lambda x: ROWS if x.ndim else WHOLE
        whole = lambda tree: jax.tree.map(lambda _: WHOLE, tree)
        ring = jax.tree.map(lambda _: SECOND, run.replay.rows)
        return RunState(
            whole(run.learner),
            jax.tree.map(rows, run.collector),
            whole(run.replay)._replace(rows=ring),
            whole(run.key),
        )

    def template(self, run: RunState) -> RunState:
        """Shapes of a state (`jax.eval_shape`), each with where its array belongs."""

        def place(x: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        return jax.tree.map(place, run, self.shardings(run))

    def shardings(self, run: RunState) -> PyTree:
        """The shardings of a state's leaves."""
        mesh = self.mesh
        if mesh is None:
            only = jax.sharding.SingleDeviceSharding(self.devices[0])
            return jax.tree.map(lambda _: only, run)
        return jax.tree.map(
            lambda spec: NamedSharding(mesh, spec),
            self.specs(run),
            is_leaf=lambda x: isinstance(x, PartitionSpec),
        )

    def compile(
        self,
        function: Callable[..., Any],
        *,
        donate: bool = False,
        out: Any = None,
        brief: bool = False,
    ) -> "Program":
        """`jax.jit` of a function of one agent, on these devices.

        Args:
            function: with several agents it is mapped over the first axis of all its
                arguments and results.
            donate: give the first argument's memory away. It is a state then, the
                only argument, and the first result is the state that follows it.
            out: shardings of the result, as `jax.jit` takes them.
            brief: it runs once, see `compiler_options`.
        """
        given = (0,) if donate else ()
        function = self.mapped(function, in_place=donate)
        options: dict[str, Any] = {
            "donate_argnums": given,
            "compiler_options": dict(
                compiler_options(self.devices[0].platform, brief=brief)
            ),
        }
        if self.mesh is not None:
            options["out_shardings"] = out
        return Program(jax.jit(function, **options), self)

    def mapped(
        self, function: Callable[..., Any], *, in_place: bool = False
    ) -> Callable[..., Any]:
        """A function of one agent as that of all of them, on their devices.

        Args:
            function: returned as it is where there is one agent.
            in_place: see `train.placement.agents.one_by_one`.
        """
        if not self.by_agent:
            return function
        if self.in_turn:
            function = one_by_one(function, in_place=in_place)
        else:
            function = side_by_side(function)
        if self.mesh is None:
            return function
        # No device sees another's agents: loops end when its own agents' do.
        return jax.shard_map(function, in_specs=ROWS, out_specs=ROWS, check_vma=False)

    def shapes(self, function: Callable[..., Any], *args: Any) -> Any:
        """Shapes of what `compile` would compute (`jax.eval_shape`)."""
        return jax.eval_shape(
            side_by_side(function) if self.by_agent else function, *args
        )

    def put(self, tree: PyTree, *, divided: bool = False) -> PyTree:
        """Arrays that all processes hold alike, to these devices.

        Args:
            divided: along the first axis; otherwise whole on every device.
        """
        if self.mesh is None:
            return jax.device_put(tree, self.devices[0])
        sharding = NamedSharding(self.mesh, ROWS if divided else WHOLE)
        if jax.process_count() == 1:
            return jax.device_put(tree, sharding)

        def place(x: jax.Array) -> jax.Array:
            data = np.asarray(storable(x))
            placed = jax.make_array_from_callback(
                data.shape, sharding, lambda index: data[index]
            )
            return jax.random.wrap_key_data(placed) if is_key(x) else placed

        return jax.tree.map(place, tree)


class Program:
    """A jitted function on the devices of a placement; made by `Placement.compile`.

    Attributes:
        jitted: what `jax.jit` made.
    """

    def __init__(self, jitted: Any, placement: Placement) -> None:
        self.jitted = jitted
        self._placement = placement
        self._together: Any = None

    def prepare(self, *args: Any) -> None:
        """Compile for arguments like these, without running anything.

        Calls with such arguments find the compiled program; nothing is traced or
        compiled twice. Of several processes all must prepare: none begins to run
        before each has compiled, which may take longer than they wait for each other.
        """
        with self._placement.active():
            compiled = self.jitted.lower(*args).compile()
        if jax.process_count() > 1 and self._together is None:
            self._together = compiled
            coordination.meet()

    def __call__(self, *args: Any) -> Any:
        if jax.process_count() > 1 and self._together is None:
            self.prepare(*args)
        with self._placement.active():
            return (self._together or self.jitted)(*args)


def choose_devices(config: Config) -> list[Device]:
    """The devices of a run: the same number of every process.

    Raises:
        UserError: there are not so many, or the work does not divide among them.
    """
    found, processes = jax.devices(), jax.process_count()
    usual = len(found) if processes > 1 else 1
    if processes == 1 and found[0].platform == "cpu":
        usual = coordination.cpu_devices(config.agents, len(found))
    count = config.scale.devices or usual
    if count > len(found):
        kind = found[0].platform.upper()
        raise UserError(
            f"--devices {count}: JAX sees {len(found)} ({kind}); allowed: an integer "
            f"in [1, {len(found)}]; nearest valid: {len(found)}"
        )
    if count % processes:
        near = math.ceil(count / processes) * processes
        raise UserError(
            f"--devices {count} with {processes} processes: counts the devices of all "
            f"processes together, as many of each; nearest valid: {near}"
        )
    check_division(config, count)
    each = count // processes
    local = [[d for d in found if d.process_index == p] for p in range(processes)]
    if min(map(len, local)) < each:
        raise UserError(
            f"--devices {count} with {processes} processes: one of them has only "
            f"{counted(min(map(len, local)), 'device')}; nearest valid: "
            f"{min(map(len, local)) * processes}"
        )
    return [device for own in local for device in own[:each]]


def check_division(config: Config, devices: int) -> None:
    """Refuse work that does not divide among the devices.

    Raises:
        UserError: the batch or the environments of one agent, or the agents.
    """
    if config.agents > 1:
        name = "--seeds" if not config.sweep else "--seeds times values swept:"
        parts = {name: config.agents}
    else:
        parts = {"--batch-size": config.batch_size, "--num-envs": config.num_envs}
    for name, size in parts.items():
        if size % devices:
            common = math.gcd(*parts.values())
            fits = max(n for n in range(1, devices) if common % n == 0)
            above = -(-size // devices) * devices
            raise UserError(
                f"--devices {devices} with {name} {size}: every device takes the same "
                f"share; allowed: a {name} that {devices} divides, as {above}; nearest "
                f"valid: --devices {fits}"
            )
