"""What an evaluation found: a line for each score, and all of it as JSON."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.errors import UserError, tell


class Report:
    """Collects scores. Each is in the JSON file before its line is printed.

    Args:
        path: of the JSON file; None for none.
        head: what the file says beside the scores.
    """

    def __init__(self, path: str | None, head: dict[str, Any]) -> None:
        self._path = path
        self._content = dict(head)
        self._refused = ""

    def add(self, name: str, scores: Sequence[Any], **entry: Any) -> None:
        """One player's score, where there are no conditions.

        Args:
            name: of the player.
            scores: exactly one `Score`.
            entry: what the file says beside the score of a trained agent; nothing for
                the random policy.
        """
        (score,) = scores
        if entry:
            self._content.setdefault("agents", []).append(entry | score.record())
        else:
            self._content[name] = score.record()
        self._write()
        say(name, "", score)

    def add_table(self, name: str, scores: Sequence[Any], conditions: Any) -> None:
        """One player's scores under all conditions."""
        rows = self._content.setdefault("conditions", [])
        for index, score in enumerate(scores):
            gravity = None
            if conditions.gravity is not None:
                gravity = float(conditions.gravity[index])
            row = {"player": name, "condition": conditions.labels[index]}
            row |= {"gravity": gravity, "perturb": conditions.perturbs[index]}
            rows.append(row | score.record())
        self._write()
        width = max(len(text) for text in conditions.labels)
        for text, score in zip(conditions.labels, scores, strict=True):
            say(name, f"{text:<{width}} ", score)

    def end(self) -> None:
        """Say what went wrong with the file, now that all scores are printed.

        Raises:
            UserError: it could not be written.
        """
        if self._refused:
            raise UserError(f"--json {self._path}: cannot be written ({self._refused})")

    def _write(self) -> None:
        if self._path is None:
            return
        try:
            Path(self._path).write_text(json.dumps(self._content, indent=1) + "\n")
            self._refused = ""
        except OSError as error:
            self._refused = error.strerror or str(error)


def say(name: str, condition: str, score: Any) -> None:
    """Print one line of the table."""
    line = " ".join(filter(None, (f"{name:<12}", condition, str(score))))
    tell(line, sys.stdout)
