"""Checkpoints: exact round trips, and each fault done for real."""

import json
import os
import pathlib
import re
import resource
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from train.checkpoint import checkpointer
from train.checkpoint.checkpointer import Checkpointer
from train.checkpoint.disk import check_disk
from train.checkpoint.leaves import tree_bytes
from train.errors import CheckpointMismatch, UserError


class Tree(NamedTuple):
    """A small run: every kind of leaf that a real one has."""

    model: Any
    key: Any
    replay: Any
    empty: Any
    count: Any
    host: Any


def make(width: int = 8, seed: int = 0) -> Tree:
    key = jax.random.key(seed)
    return Tree(
        model=eqx.nn.MLP(3, 2, width, 1, activation=jax.nn.silu, key=key),
        key=jax.random.split(jax.random.key(7), 3),
        replay={
            "deter": jax.random.normal(key, (50, 3), jnp.bfloat16),
            "stoch": jnp.arange(50, dtype=jnp.uint8),
            "first": jnp.array([True, False]),
        },
        empty=jnp.zeros((4, 0), jnp.int32),
        count=jnp.int32(seed),
        host=np.array([np.nan, np.inf, 1e-300]),
    )


def assert_same(a: Any, b: Any) -> None:
    """Bitwise equality, types included."""
    a, b = jax.tree.map(as_bytes, a), jax.tree.map(as_bytes, b)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert jax.tree.leaves(a) == jax.tree.leaves(b)


def as_bytes(leaf: Any) -> Any:
    if callable(leaf):
        return leaf
    dtype = str(leaf.dtype)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return f"{dtype}{leaf.shape}{np.asarray(leaf).tobytes().hex()}"


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def saver(tmp_path, warnings) -> Checkpointer:
    return Checkpointer(tmp_path, warn=warnings.append)


def folder(run: pathlib.Path, step: int) -> pathlib.Path:
    return run / "checkpoints" / f"{step:012d}"


def data_file(run: pathlib.Path, step: int) -> pathlib.Path:
    """The largest file of a step's arrays."""
    files = [p for p in (folder(run, step) / "arrays").rglob("*") if p.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def test_round_trip_is_bitwise(saver, warnings):
    tree = make()
    assert saver.save(5, tree, {"updates": 3, "name": "x"})
    found = saver.restore(make(seed=1))
    assert (found.step, found.metadata) == (5, {"updates": 3, "name": "x"})
    assert_same(found.tree, tree)
    assert warnings == []


def test_keys_go_on_with_the_same_numbers(saver):
    tree = make()
    saver.save(1, tree, {})
    key = saver.restore(make(seed=1)).tree.key[0]
    assert (jax.random.bits(key) == jax.random.bits(tree.key[0])).all()


def test_a_template_of_shapes_is_enough(saver):
    tree = make()
    saver.save(1, tree, {})
    shapes = eqx.filter_eval_shape(lambda: make()._replace(host=None))
    assert_same(saver.restore(shapes._replace(host=tree.host)).tree, tree)


def test_partial_restore_reads_what_is_asked_for(saver):
    tree = make()
    saver.save(1, tree, {})
    deter = {"deter": tree.replay["deter"]}
    wanted = Tree(make(seed=1).model, None, deter, None, None, None)
    found = saver.restore(wanted, partial=True).tree
    assert_same(found.model, tree.model)
    assert_same(found.replay["deter"], tree.replay["deter"])
    with pytest.raises(CheckpointMismatch):
        saver.restore(wanted)


def test_nothing_saved_is_none(saver, tmp_path):
    assert saver.restore(make()) is None and saver.steps() == []
    assert list(tmp_path.iterdir()) == []


def test_the_latest_three_are_kept(saver):
    for step in (1, 20, 300, 4000):
        assert saver.save(step, {"x": jnp.int32(step)}, {})
    assert saver.steps() == [20, 300, 4000]
    assert saver.restore({"x": jnp.int32(0)}).tree["x"] == 4000


def test_a_step_is_replaced(saver):
    saver.save(1, {"x": jnp.int32(1)}, {})
    assert saver.save(1, {"x": jnp.int32(2)}, {})
    assert saver.steps() == [1]
    assert saver.restore({"x": jnp.int32(0)}).tree["x"] == 2


@pytest.mark.parametrize("where", ["start", "middle", "end"])
def test_a_flipped_byte_is_found_and_the_step_before_taken(
    saver, tmp_path, warnings, where
):
    for step in (1, 2):
        saver.save(step, make(seed=step), {})
    path = data_file(tmp_path, 2)
    content = bytearray(path.read_bytes())
    position = {"start": 0, "middle": len(content) // 2, "end": -1}
    content[position[where]] ^= 1
    path.write_bytes(content)
    found = saver.restore(make())
    assert found.step == 1
    assert_same(found.tree, make(seed=1))
    assert len(warnings) == 1
    assert f"{path} is corrupted" in warnings[0] and "trying 1" in warnings[0]


def test_every_single_file_is_watched(saver, tmp_path, warnings):
    saver.save(1, make(), {})
    files = [p for p in folder(tmp_path, 1).rglob("*") if p.is_file()]
    assert len(files) >= 5
    for path in files:
        content = path.read_bytes()
        if content:
            path.write_bytes(content[:-1])
            with pytest.raises(UserError, match="none of the checkpoints"):
                saver.restore(make())
            assert str(path) in warnings[-1]
        path.unlink()
        with pytest.raises(UserError, match="none of the checkpoints"):
            saver.restore(make())
        assert f"{path} is missing" in warnings[-1]
        path.write_bytes(content)
    assert saver.restore(make()).step == 1


def test_a_truncated_file_names_both_sizes(saver, tmp_path, warnings):
    saver.save(1, make(), {})
    saver.save(2, make(), {})
    path = data_file(tmp_path, 2)
    size = path.stat().st_size
    os.truncate(path, size // 2)
    assert saver.restore(make()).step == 1
    assert f"{path} has {size // 2} bytes, {size} were written" in warnings[0]


def test_an_altered_manifest_is_named_itself(saver, tmp_path, warnings):
    saver.save(1, make(), {})
    saver.save(2, make(), {})
    path = folder(tmp_path, 2) / "manifest.json"
    record = json.loads(path.read_text())
    record["files"].popitem()
    path.write_text(json.dumps(record))
    assert saver.restore(make()).step == 1
    assert f"{path} is corrupted" in warnings[0]


def test_never_silently_from_zero(saver, tmp_path, warnings):
    for step in (1, 2):
        saver.save(step, make(), {})
        data_file(tmp_path, step).unlink()
    with pytest.raises(UserError, match=r"none of the checkpoints \[1, 2\]"):
        saver.restore(make())
    assert len(warnings) == 2


def test_saving_goes_on_after_a_fallback(saver, tmp_path):
    for step in (10, 20):
        saver.save(step, {"x": jnp.int32(step)}, {})
    data_file(tmp_path, 20).unlink()
    assert saver.restore({"x": jnp.int32(0)}).step == 10
    assert saver.save(15, {"x": jnp.int32(15)}, {})
    assert saver.steps() == [10, 15]  # the unreadable future is gone
    assert saver.restore({"x": jnp.int32(0)}).step == 15


def test_another_size_ends_in_one_line(saver):
    saver.save(1, make(width=8), {})
    with pytest.raises(CheckpointMismatch) as caught:
        saver.restore(make(width=16))
    message = str(caught.value)
    assert "\n" not in message and isinstance(caught.value, UserError)
    assert ".model.layers[0].weight is float32[8,3]" in message
    assert "float32[16,3] here, and 2 more" in message


@pytest.mark.parametrize(
    ("saved", "wanted", "words"),
    [
        (jnp.zeros(3), jnp.zeros(3, jnp.bfloat16), "float32[3] in"),
        (jnp.zeros(3, jnp.int32), jnp.zeros(3), "int32[3] in"),
        (np.zeros(3), np.zeros(3, np.float32), "float64[3] in"),
        (jnp.zeros((2, 3)), jnp.zeros((3, 2)), "float32[2,3] in"),
        (jax.random.key(0), jnp.zeros(2, jnp.uint32), "key<fry>[] in"),
        (jax.random.key(0), jax.random.key(0, impl="rbg"), "key<rbg>[] here"),
    ],
)
def test_types_and_shapes_are_never_cast(saver, saved, wanted, words):
    saver.save(1, {"good": jnp.zeros(1), "bad": saved}, {})
    with pytest.raises(CheckpointMismatch, match=re.escape(words)) as caught:
        saver.restore({"good": jnp.zeros(1), "bad": wanted})
    assert "leaf ['bad']" in str(caught.value)


def test_a_new_or_a_lost_leaf_is_named(saver):
    saver.save(1, {"a": jnp.zeros(1), "b": jnp.zeros(1)}, {})
    with pytest.raises(CheckpointMismatch, match=r"\['b'\] is float32\[1\].*absent"):
        saver.restore({"a": jnp.zeros(1)})
    with pytest.raises(CheckpointMismatch, match=r"\['c'\] is absent in"):
        saver.restore({k: jnp.zeros(1) for k in "abc"})


def test_numbers_that_are_not_arrays_are_refused(saver):
    with pytest.raises(TypeError, match=r"leaf \['n'\] is 3, of int"):
        saver.save(1, {"n": 3}, {})
    assert saver.steps() == []


@pytest.fixture
def file_limit():
    """Writes beyond 1 MiB in a file fail in this process, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("noticed", ["before", "while"])
def test_a_full_disk_costs_this_save_only(
    saver, tmp_path, warnings, file_limit, monkeypatch, noticed
):
    if noticed == "while":  # another process took the space after we had looked
        monkeypatch.setattr(checkpointer, "reserve", lambda directory, size: None)
    small, large = jnp.zeros(3), jnp.ones(2**20)
    assert saver.save(1, {"x": small}, {})
    assert not saver.save(2, {"x": large}, {})
    assert len(warnings) == 1 and "\n" not in warnings[0]
    assert "checkpoint 2 was not saved" in warnings[0]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["0" * 11 + "1"]
    file_limit()
    assert saver.save(3, {"x": large}, {})
    assert saver.steps() == [1, 3]
    assert_same(saver.restore({"x": large}).tree["x"], large)


def test_a_directory_that_cannot_be_written_costs_this_save_only(tmp_path, warnings):
    (tmp_path / "checkpoints").write_text("in the way")
    saver = Checkpointer(tmp_path, warn=warnings.append)
    assert not saver.save(1, {"x": jnp.zeros(3)}, {})
    assert len(warnings) == 1


def test_warnings_go_to_stderr_by_default(tmp_path, capsys):
    (tmp_path / "checkpoints").write_text("in the way")
    Checkpointer(tmp_path).save(1, {"x": jnp.zeros(3)}, {})
    assert capsys.readouterr().err.startswith("warning: checkpoint 1 was not saved")


def test_keep_is_checked(tmp_path):
    with pytest.raises(ValueError, match="keep=0"):
        Checkpointer(tmp_path, keep=0)


def test_disk_space_is_checked_before_a_run(tmp_path):
    tree = {"x": jax.ShapeDtypeStruct((1000,), jnp.bfloat16), "k": jax.random.key(0)}
    assert tree_bytes(tree) == 2000 + 8
    check_disk(tmp_path / "not" / "yet", tree)
    huge = {"x": jax.ShapeDtypeStruct((2**50,), jnp.float32)}
    with pytest.raises(UserError, match=r"4 checkpoints .* take .* GiB, .* are free"):
        check_disk(tmp_path / "not" / "yet", huge)


def test_bfloat16_is_what_we_think(saver):
    """Guards the byte-wise comparison above: bfloat16 reaches numpy as itself."""
    assert np.asarray(make().replay["deter"]).dtype == ml_dtypes.bfloat16
