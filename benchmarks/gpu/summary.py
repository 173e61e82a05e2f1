"""A stage of `benchmarks.gpu` in a few lines, for the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any


def summary(parts: Mapping[str, Any]) -> str:
    """What was found: how each part ended, and a line or more for every entry."""
    lines = [f"{name}: {part['ended']}" for name, part in parts.items()]
    for name, part in parts.items():
        for item, entry in part["entries"].items():
            lines += _entry(f"{name}: {item}", entry)
    return "\n".join(lines)


def _entry(title: str, entry: Mapping[str, Any]) -> Iterator[str]:
    if "error" in entry:
        yield f"{title}: {entry['error'].splitlines()[0][:150]}"
    elif "passed" in entry:
        worst = [x for x in entry["arrays"] if not x["passed"]]
        told = "passed" if entry["passed"] else f"FAILED {worst[0]}"
        yield f"{title}: {told}"
    else:
        yield ", ".join([title, *_words(entry)])
    timed = entry.get("implementations") or entry.get("programs") or {}
    for name, found in timed.items():
        yield _timed(name, found)


def _words(entry: Mapping[str, Any]) -> Iterator[str]:
    """The figures that matter, of whichever stage the entry is."""
    # control steps of a batch of environments
    if isinstance(entry.get("steps_per_second"), Mapping):
        yield f"{entry['steps_per_second']['median']:,.0f} control steps/s"
    for name, text in {
        "step_ratio": "{:.3f}× the step without penalty",
        "overhead": "penalty {:.3f}×",
        "ratio": "{:.3f}× as usual",
        "over_one_run": "{:.2f}× one run",
        "over_heads_at_once": "{:.2f}× heads at once",
    }.items():
        if name in entry and entry.get("against") is None:
            yield text.format(entry[name]["median"])
    if "against" in entry:
        yield f"{entry['ratio']['median']:.3f}× {entry['against']}"
    if "updates_per_second_of_the_cycle" in entry:
        yield f"{entry['updates_per_second_of_the_cycle']:.1f} updates/s"
        yield f"{entry['decisions_per_second_of_the_cycle']:.0f} decisions/s"
    if "share_of_product" in entry:
        yield f"{100 * entry['share_of_product']:.0f}% of a large product's rate"
    for name, ratio in entry.get("over_targets", {}).items():
        yield f"{ratio:.2f}× {name}"
    if "trace" in entry:
        found = entry["trace"]
        each = found["operations"] / entry["updates"]
        busy = 100 * found["busy_share"]
        yield f"device busy {busy:.0f}%, {each:.0f} operations an update"
    if "from_step" in entry:
        yield f"step {entry['from_step']:,} to {entry['step']:,}"
        if "updates_per_second" in entry:
            yield f"{entry['updates_per_second']:.1f} updates/s of each agent"
            yield f"{entry['steps_per_second']:.0f} environment steps/s of each agent"
    if "same_bits_again" in entry:
        yield "the same bits again" if entry["same_bits_again"] else "OTHER BITS again"
    for name in ("same_program_again", "compiled_again", "last_checkpoint"):
        if name in entry:
            same = "the same bits" if entry[name]["bitwise"] else "OTHER BITS"
            yield f"{name.replace('_', ' ')}: {same}"


def _timed(name: str, found: Mapping[str, Any]) -> str:
    text = f"    {name:24} {1e6 * found['seconds']['median']:9.1f} µs"
    if "speedup_over_xla" in found:
        text += f", {found['speedup_over_xla']['median']:.2f}× xla"
    if "floor" in found:
        text += f", {100 * found['floor']['fraction']:.0f}% of the floor"
    return text
