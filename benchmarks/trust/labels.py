"""Names and order of what text and picture show."""

from typing import Any

PARTS = ("reward", "dynamics", "continuation", "value")
"""Of a return error; all but the critic's value are the model's."""


def label(agent: dict[str, Any]) -> str:
    """What an agent is called."""
    which = "" if agent["agent"] is None else f", agent {agent['agent']}"
    return f"{agent['run']}{which}"


def strongest(found: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    """Features by the size of their rank correlation with the return's error."""
    known = [(name, rho) for name, rho in found.items() if rho["return"] is not None]
    return sorted(known, key=lambda each: -abs(each[1]["return"]))
