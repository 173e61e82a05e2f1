"""Weights & Biases as a sink, in its offline mode."""

import importlib.util
import io
import json
import pathlib
from functools import partial
from typing import Any

import numpy as np
import pytest
import wandb
from PIL import Image
from saved_run import configured
from wandb.proto import wandb_internal_pb2

from train.errors import UserError
from train.preflight import setup
from train.run_dir.metrics.logger import Logger
from train.run_dir.metrics.wandb import WandB

# What protobuf generates has no names that a type checker could know.
PROTO: Any = wandb_internal_pb2


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("CONFIG", "CACHE", "DATA"):  # else in the home directory
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))


def log(run_dir: pathlib.Path, **options: Any) -> Logger:
    sink = partial(WandB, project="dreams", config={"rho": 0.5})
    return Logger(run_dir, total_steps=100, console=False, sinks=[sink], **options)


def records_of(path: pathlib.Path) -> list[Any]:
    """The records of a W&B file: pieces in blocks of 32 KiB, as LevelDB's logs."""
    data, position, whole, found = path.read_bytes(), 7, b"", []
    while position + 7 < len(data):
        if 32768 - position % 32768 < 7:  # no header fits: the next block
            position += 32768 - position % 32768
            continue
        size = int.from_bytes(data[position + 4 : position + 6], "little")
        kind, start = data[position + 6], position + 7
        position = start + size
        whole += data[start:position]
        if kind in (1, 4):  # the whole record, or its last piece
            record = PROTO.Record()
            record.ParseFromString(whole)
            found.append(record)
            whole = b""
    return found


def written(directory: pathlib.Path) -> list[list[Any]]:
    """The records of each of an agent's W&B files."""
    wandb.teardown()  # as when the program ends: what is buffered is written
    files = (directory / "wandb").glob("offline-run-*/*.wandb")
    return [records_of(path) for path in sorted(files)]


def history(records: list[Any]) -> list[dict[str, Any]]:
    rows = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            row = {(x.key or ".".join(x.nested_key)): x.value_json for x in items}
            rows.append(
                {k: json.loads(v) for k, v in row.items() if not k.startswith("_")}
            )
    return rows


def test_each_agent_is_a_run(tmp_path):
    with log(tmp_path / "run", agents=["seed_0", "seed_1"]) as logger:
        logger.write(10, {"train/loss/dyn": np.array([1.5, 2.5])})
        logger.write(20, {"eval/return_mean": 7.0})
    for seed, value in enumerate((1.5, 2.5)):
        (records,) = written(tmp_path / "run" / f"seed_{seed}")
        assert history(records) == [
            {"step": 10, "train/loss/dyn": value},
            {"step": 20, "eval/return_mean": 7.0},
        ]
        (run,) = (x.run for x in records if x.WhichOneof("record_type") == "run")
        assert (run.project, run.run_group) == ("dreams", "run")
        assert run.display_name == f"run/seed_{seed}"
        assert {x.key: x.value_json for x in run.config.update}["rho"] == "0.5"


def test_a_resumed_run_is_the_same_run(tmp_path):
    for restored in (None, 10, None):
        with log(tmp_path / "run", restored_step=restored) as logger:
            logger.write((restored or 0) + 10, {"x": 1.0})
    files = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    first, second, third = (path.stem for path in sorted(files, key=_born))
    assert first == second != third


def _born(path: pathlib.Path) -> float:
    return path.stat().st_mtime_ns


def test_a_film_is_kept(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    with log(tmp_path / "run") as logger:
        logger.write_gifs(30, "openloop", [buffer.getvalue()])
    (records,) = written(tmp_path / "run")
    (row,) = history(records)
    assert row["step"] == 30 and row["openloop._type"] == "video-file"


def test_a_missing_package_is_named_before_the_run(monkeypatch):
    config = configured("--wandb dreams")
    setup.check_wandb(config)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--wandb dreams: the package wandb is not"):
        setup.check_wandb(config)
    setup.check_wandb(configured(""))
