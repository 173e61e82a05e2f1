"""The flags of a run in groups, for the help.

`Config` has its own numbers in one row and those of its parts (penalty, optimizer, ...)
in dataclasses; here the numbers in the row are in groups as well.
"""

import ast
import dataclasses
import inspect
import typing
from typing import Annotated, Any

import tyro

from train.config.schema import Config

GROUPS = {
    "environment": (
        "The task, and what the agent sees of it.",
        ("env", "obs", "augment", "action_repeat", "num_envs"),
    ),
    "run": (
        "What the other flags start from, and where the run goes on from.",
        ("preset", "steps", "seed", "seeds", "sweep", "resume", "allow_changes"),
    ),
    "model": ("Networks and arithmetic.", ("size", "precision", "require_gpu")),
    "training": (
        "Batches, imagination and replay buffer.",
        (
            "train_ratio",
            "batch_size",
            "batch_length",
            "imagination_length",
            "imagination_starts",
            "discount_horizon",
            "replay_size",
            "replay_context",
            "prefill",
            "prefill_policy",
        ),
    ),
    "evaluation": (
        "Episodes and measurements beside the training.",
        (
            "eval_every",
            "eval_episodes",
            "eval_policy",
            "eval_max_decisions",
            "trust_every",
        ),
    ),
    "logging": (
        "Logs, checkpoints and where they are.",
        (
            "logdir",
            "log_every",
            "wandb",
            "save_every",
            "keep",
            "keep_at",
            "keep_every",
        ),
    ),
}
"""The flags that are fields of `Config` itself: what a group is, and its fields."""


def grouped(config: Config) -> tuple[type, Any]:
    """`Config` for tyro, with every field in a group.

    Returns:
        A dataclass of dataclasses, and the same with the values of `config`.
    """
    documented = dict(_documentation())
    hints = typing.get_type_hints(Config, include_extras=True)
    explained = lambda kind, text: Annotated[kind, tyro.conf.arg(help=text)]
    parts: dict[str, tuple[Any, Any]] = {}
    for name, (about, names) in GROUPS.items():
        kind = dataclasses.make_dataclass(
            name,
            [(field, explained(hints[field], documented[field])) for field in names],
        )
        kind.__doc__ = about
        values = kind(*(getattr(config, field) for field in names))
        parts[name] = explained(kind, about), values
    for field in dataclasses.fields(Config):
        if dataclasses.is_dataclass(hints[field.name]):
            kind = explained(hints[field.name], documented[field.name])
            parts[field.name] = kind, getattr(config, field.name)
    whole = dataclasses.make_dataclass(
        "Flags", [(name, kind) for name, (kind, _) in parts.items()]
    )
    return whole, whole(*(value for _, value in parts.values()))


def _documentation() -> list[tuple[str, str]]:
    """Each field of `Config` with the text below it."""
    (tree,) = ast.parse(inspect.getsource(Config)).body
    assert isinstance(tree, ast.ClassDef)
    return [
        (field.target.id, inspect.cleandoc(text.value.value))
        for field, text in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    ]
