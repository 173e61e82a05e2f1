"""Curves and films for TensorBoard, as one sink of the log."""

import pathlib
import socket
import time
from collections.abc import Mapping
from typing import Any

_FLUSH_SECONDS = 60  # each flush waits for the disk


class TensorBoard:
    """Metrics as TensorBoard scalars, under `directory/tensorboard`.

    Written in this thread: tensorboardX's own `SummaryWriter` hands events to a
    thread, and when that dies of a full disk, waits for it for ever.
    """

    def __init__(self, directory: pathlib.Path, restored_step: int | None) -> None:
        # Only here: a broken installation must cost this sink alone.
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import RecordWriter

        # What protobuf generates has no names that a type checker could know.
        events: Any = event_pb2
        self._event, self._summary = events.Event, getattr(summary_pb2, "Summary")  # noqa: B009
        folder = directory / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        # The name sorts by time, as TensorBoard wants it.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._file = RecordWriter(str(folder / name))
        self._flushed = time.monotonic()
        self._put(file_version="brain.Event:2")
        if restored_step is not None:
            # TensorBoard then hides what the interrupted run had logged beyond this.
            start = events.SessionLog(status=events.SessionLog.START)
            self._put(step=restored_step + 1, session_log=start)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        value = self._summary.Value
        self._add(step, [value(tag=k, simple_value=v) for k, v in metrics.items()])

    def write_gif(self, step: int, name: str, gif: bytes) -> None:
        """Show a film among the images."""
        # The header of a GIF has its width and height.
        width, height = (int.from_bytes(gif[i : i + 2], "little") for i in (6, 8))
        image = self._summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=gif
        )
        self._add(step, [self._summary.Value(tag=name, image=image)])

    def close(self) -> None:
        """Write what is buffered."""
        self._file.close()

    def _add(self, step: int, values: list[Any]) -> None:
        self._put(step=step, summary=self._summary(value=values))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def _put(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._file.write(event.SerializeToString())
