"""The counts of one compiled program."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.gpu.compile import estimate
from benchmarks.gpu.compile.hlo import Hlo, Product
from benchmarks.gpu.compile.thunks import Step, read_steps
from benchmarks.measure.scopes import origins_of

PRODUCTS = 10
"""So many different matrix products are listed, those with most arithmetic first."""

_SPILLS = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for '(?P<target>\S+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.S,
)


def count(folder: Path, program: str, device: str) -> dict[str, Any]:
    """The row of a program that `target.compile_into` left in a folder."""
    text = (folder / "program.txt").read_text(encoding="utf-8")
    hlo = Hlo(text)
    steps = read_steps(folder, hlo)
    found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    reports = (path.read_text(encoding="utf-8") for path in folder.rglob("*.ptxas"))
    return {
        "program": program,
        "device": device,
        **counted(text, steps, hlo, device),
        **found,
        **spills(reports),
    }


def counted(text: str, steps: Iterable[Step], hlo: Hlo, device: str) -> dict[str, Any]:
    """What the program's own files say."""
    costed = [(step, hlo.cost(step.name)) for step in steps]
    launches = [(step, cost) for step, cost in costed if step.is_launch]
    origins = origins_of(text)
    scopes: Counter[str] = Counter()
    loops: Counter[str] = Counter()
    operations: Counter[str] = Counter()
    products: Counter[Product] = Counter()

    def place(name: str) -> str:
        origin = origins.get(name)
        scope = origin.scope if origin and origin.scope else "(none)"
        return f"{scope}, gradient" if hlo.is_gradient(name) else scope

    for step, cost in launches:
        scopes[place(step.name)] += step.times
        around = " / ".join(f"{place(x.name)} × {x.trips}" for x in step.loops)
        loops[around or "(none)"] += step.times
        operations[_family(step)] += step.times
        for product in cost.products:
            products[product] += step.times
    total = lambda weigh: sum(step.times * weigh(cost) for step, cost in launches)
    wide = sum(n for product, n in products.items() if _is_wide(product))
    return {
        "launches": sum(step.times for step, _ in launches),
        "in_graphs": sum(step.times for step, _ in launches if step.in_graph),
        "from_host": sum(step.times for step, _ in costed if _from_host(step)),
        "graph_launches": sum(
            step.times for step, _ in costed if step.kind == "kCommandBuffer"
        ),
        "flops": total(lambda cost: cost.flops),
        "bytes": total(lambda cost: cost.bytes),
        "converts": total(lambda cost: cost.converts),
        "products": sum(products.values()),
        "float32_products": wide,
        "model_ms": round(1e3 * estimate.seconds(costed, device), 3),
        "launches_by_scope": dict(scopes.most_common()),
        "launches_by_loop": dict(loops.most_common()),
        "launches_by_operation": dict(operations.most_common(12)),
        "largest_products": [
            {"product": _words(product), "times": times, "flops": product.flops}
            for product, times in sorted(
                products.items(), key=lambda item: -item[0].flops * item[1]
            )[:PRODUCTS]
        ],
    }


def spills(reports: Iterable[str]) -> dict[str, Any]:
    """Of ptxas' reports the largest spill of a kernel, and the most registers.

    None where there is no report.
    """
    kernels = [match for text in reports for match in _SPILLS.finditer(text)]
    spilled = {
        match["name"]: int(match["stores"])
        for match in kernels
        if int(match["stores"]) > 0
    }
    return {
        "kernels_compiled": len(kernels),
        "spill_bytes": max(spilled.values(), default=0) if kernels else None,
        "spilling": spilled,
        "registers": max((int(match["registers"]) for match in kernels), default=None),
    }


def _from_host(step: Step) -> bool:
    """Whether the host begins it by itself, and not as part of a CUDA graph."""
    return not step.in_graph and (step.is_launch or step.kind == "kCommandBuffer")


def _family(step: Step) -> str:
    """The operation's name without what tells it from others of its kind."""
    name = re.sub(r"(\.(remat|clone)\w*|_rematerialized)*([._]\d+)*$", "", step.name)
    return name or step.kind


def _is_wide(product: Product) -> bool:
    return product.left[0] in ("f32", "f64") or product.right[0] in ("f32", "f64")


def _words(product: Product) -> str:
    shape = lambda of: f"{of[0]}[{', '.join(map(str, of[1]))}]"
    return f"{shape(product.left)} · {shape(product.right)} -> {shape(product.result)}"
