"""XLA's optimized program as text: its operations, and what each computes and moves."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

Shape = tuple[str, tuple[int, ...]]
"""Type and dimensions of an array, as ("bf16", (16, 2048))."""


class Operation(NamedTuple):
    """One line of the program.

    Attributes:
        shapes: of the result, or of its elements if it is a tuple.
        kind: such as `fusion` or `dot`.
        operands: names.
        attributes: the rest of the line.
    """

    name: str
    shapes: tuple[Shape, ...]
    kind: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def bytes(self) -> int:
        """Size of the result."""
        return sum(map(bytes_of, self.shapes))

    def attribute(self, key: str) -> str | None:
        """Such as the name of the computation that a fusion `calls`."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
        return found and found[1]


Computation = dict[str, Operation]


class Product(NamedTuple):
    """A matrix product: its operands, its result, its multiplications and additions."""

    left: Shape
    right: Shape
    result: Shape
    flops: int


class Cost(NamedTuple):
    """What one operation of the program does.

    Attributes:
        bytes: read and written, if nothing stays in a cache.
        products: its matrix products.
        converts: its changes of type.
    """

    bytes: int
    products: tuple[Product, ...] = ()
    converts: int = 0

    @property
    def flops(self) -> int:
        """Of the products."""
        return sum(product.flops for product in self.products)


_BITS = {"pred": 8, "s4": 4, "u4": 4, "token": 0, "f8e4m3fn": 8, "f8e5m2": 8}
_BITS |= {f"{kind}{bits}": bits for kind in "su" for bits in (8, 16, 32, 64)}
_BITS |= {"bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128}
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_MOVES = ("bitcast", "convert", "copy", "reshape", "transpose")
"""What a fusion may do to an array between reading or writing it and the rest."""
_DEPTH = 4


def bytes_of(shape: Shape) -> int:
    """Size of an array."""
    kind, dimensions = shape
    return math.prod(dimensions) * _BITS[kind] // 8


class Hlo:
    """A whole program.

    Args:
        text: of `compiled.as_text()`.
    """

    def __init__(self, text: str) -> None:
        self.computations = dict(_computations(text))
        self._home = {
            name: computation
            for computation in self.computations.values()
            for name in computation
        }

    def trips(self, loop: str) -> int | None:
        """How often a while loop's body runs, if XLA knows."""
        found = re.search(
            r'known_trip_count":\{"n":"(\d+)"', self._find(loop).attributes
        )
        return int(found[1]) if found else None

    def is_gradient(self, name: str) -> bool:
        """Whether JAX made the operation by transposing another."""
        if name not in self._home:
            return False
        path = re.search(r'op_name="([^"]*)"', self._find(name).attributes)
        return path is not None and "transpose(" in path[1]

    def cost(self, name: str) -> Cost:
        """Of an operation outside of all fusions; nothing if the name is not known."""
        if name not in self._home:
            return Cost(0)
        operation, home = self._find(name), self._home[name]
        if calls := operation.attribute("calls"):
            return _fusion(self.computations[calls])
        read = sum(home[each].bytes for each in operation.operands if each in home)
        products = tuple(filter(None, [_library_product(operation, home)]))
        return Cost(read + operation.bytes, products, operation.kind == "convert")

    def _find(self, name: str) -> Operation:
        return self._home[name][name]


def _computations(text: str) -> Iterator[tuple[str, Computation]]:
    current: Computation | None = None
    for line in text.splitlines():
        if not line.startswith(" "):
            head = re.match(r"(?:ENTRY )?%?([\w.\-]+) [({]", line)
            if head and line.endswith("{") and not line.startswith("HloModule"):
                current = {}
                yield head[1], current
        elif current is not None and (operation := _operation(line)):
            current[operation.name] = operation


def _operation(line: str) -> Operation | None:
    head = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not head:
        return None
    rest = line[head.end() :]
    cut = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shapes, rest = rest[:cut], rest[cut:].lstrip()
    kind = re.match(r"([\w\-]+)\(", rest)
    if not kind:
        return None
    close = _closing(rest, kind.end() - 1)
    found = [
        (name, tuple(int(d) for d in dimensions.split(",") if d))
        for name, dimensions in _SHAPE.findall(shapes)
        if name in _BITS
    ]
    inside, after = rest[kind.end() : close], rest[close + 1 :]
    operands = re.findall(r"%([\w.\-]+)", inside) or re.findall(r"[\w.\-]+", inside)
    return Operation(
        head[2], tuple(found), kind[1], tuple(operands), after, bool(head[1])
    )


def _closing(text: str, start: int) -> int:
    """Where the bracket at `start` is closed; brackets in quotes do not count."""
    depth, quoted = 0, False
    for i in range(start, len(text)):
        quoted ^= text[i] == '"'
        if not quoted:
            depth += (text[i] in "([{") - (text[i] in ")]}")
            if depth == 0:
                return i
    return len(text)


def _dot(operation: Operation, home: Computation) -> Product:
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", operation.attributes)
    left, right = (home[name].shapes[0] for name in operation.operands[:2])
    axes = [int(axis) for axis in found[1].split(",") if axis] if found else []
    depth = math.prod(left[1][axis] for axis in axes)
    result = operation.shapes[0]
    return Product(left, right, result, 2 * depth * math.prod(result[1]))


def _library_product(operation: Operation, home: Computation) -> Product | None:
    """Of a call of cuBLAS."""
    if operation.kind == "dot":
        return _dot(operation, home)
    target = re.search(r'custom_call_target="([^"]*)"', operation.attributes)
    if not target or not re.search("gemm|matmul", target[1]):
        return None
    axis = re.search(r'"lhs_contracting_dimensions":\["?(\d+)', operation.attributes)
    left, right = (home[name].shapes[0] for name in operation.operands[:2])
    result = next(shape for shape in operation.shapes if len(shape[1]) >= 2)
    depth = left[1][int(axis[1])] if axis else 0
    return Product(left, right, result, 2 * depth * math.prod(result[1]))


def _fusion(inner: Computation) -> Cost:
    users = defaultdict(list)
    for operation in inner.values():
        for name in operation.operands:
            users[name].append(operation)

    def read(operation: Operation, depth: int = 0) -> int:
        """Bytes of an array that its users take: of a slice only the slice."""
        most = 0
        for user in users[operation.name]:
            first = user.operands[0] == operation.name
            if user.kind in ("dynamic-slice", "slice", "gather") and first:
                most = max(most, user.bytes)
            elif user.kind == "dynamic-update-slice" and first:
                continue  # overwritten in place
            elif user.kind in _MOVES and depth < _DEPTH:
                most = max(most, read(user, depth + 1))
            else:
                return operation.bytes
        return min(most, operation.bytes)

    def written(operation: Operation, depth: int = 0) -> int:
        if operation.kind == "dynamic-update-slice":
            return inner[operation.operands[1]].bytes
        if operation.kind == "scatter":
            return inner[operation.operands[-1]].bytes
        if operation.kind == "tuple":
            return sum(written(inner[name]) for name in operation.operands)
        below = inner.get(operation.operands[0]) if operation.operands else None
        if below is None or operation.kind not in _MOVES or depth == _DEPTH:
            return operation.bytes
        if below.kind in ("dynamic-update-slice", *_MOVES):
            return written(below, depth + 1)
        return operation.bytes

    total = sum(read(x) for x in inner.values() if x.kind == "parameter")
    total += sum(written(x) for x in inner.values() if x.is_root)
    products = tuple(_dot(x, inner) for x in inner.values() if x.kind == "dot")
    return Cost(total, products, sum(x.kind == "convert" for x in inner.values()))
