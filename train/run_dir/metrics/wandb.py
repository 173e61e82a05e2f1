"""Curves and films for Weights & Biases, as one sink of the log."""

import contextlib
import io
import pathlib
import uuid
from collections.abc import Mapping
from typing import Any


class WandB:
    """Metrics of one agent as a run of a W&B project.

    The axis of all curves is the environment step. A resumed run goes on in the same
    W&B run; what was logged beyond the checkpoint stays there beside what is logged
    again. Mode, entity and key come from W&B's own environment variables, such as
    WANDB_MODE=offline.

    Args:
        directory: the agent's log directory; W&B's files go into its `wandb/`.
        restored_step: step of the checkpoint the run goes on from; None for a new run.
        project: name of the W&B project.
        config: the settings to show beside the curves.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        restored_step: int | None,
        *,
        project: str,
        config: Mapping[str, Any],
    ) -> None:
        # Only here: a broken installation must cost this sink alone.
        import wandb

        self._video = wandb.Video
        directory = directory.resolve()
        run_dir = directory.parent if directory.name.startswith("seed_") else directory
        settings = wandb.Settings(console="off", silent=True)
        self._run = wandb.init(
            project=project,
            id=_identifier(directory, new=restored_step is None),
            name=str(directory.relative_to(run_dir.parent)),
            group=run_dir.name,
            dir=str(directory),
            config=dict(config),
            resume="allow",
            reinit="create_new",  # each agent has a run of its own
            settings=settings,
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        self._run.log({"step": step, **metrics})

    def write_gif(self, step: int, name: str, gif: bytes) -> None:
        """Show a film among the media."""
        film = self._video(io.BytesIO(gif), format="gif")
        self._run.log({"step": step, name: film})

    def close(self) -> None:
        """Send, or write for later, what is buffered."""
        self._run.finish()


def _identifier(directory: pathlib.Path, *, new: bool) -> str:
    """The W&B run's identifier, kept in the directory for when the run is resumed."""
    path = directory / "wandb" / "identifier"
    if not new:
        with contextlib.suppress(OSError):
            return path.read_text(encoding="utf-8").strip()
    identifier = uuid.uuid4().hex[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(identifier + "\n", encoding="utf-8")
    return identifier
