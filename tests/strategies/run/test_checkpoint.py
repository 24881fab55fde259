"""A checkpoint is whole or it is none; the one before is there until the new one is."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from flower_compress.errors import CheckpointError, ConfigurationError
from flower_compress.strategies.run.checkpoint import (
    Arrays,
    Checkpoint,
    Checkpoints,
    LazyArray,
)
from flower_compress.strategies.server.vector_store import VectorStore

MAGIC = b"flower-compress checkpoint 2\n"
META = {"seed": 3, "losses": [0.5, None], "who": {"name": "Zoë"}}


def arrays() -> dict[str, NDArray[Any]]:
    return {
        "model": np.arange(6, dtype=np.float32).reshape(2, 3),
        "step": np.array(7, dtype=np.int64),
        "none": np.empty((0, 4), dtype=np.float64),
        "mask": np.array([True, False, True]),
    }


def assert_holds(checkpoint: Checkpoint | None, server_round: int) -> None:
    assert checkpoint is not None
    assert checkpoint.server_round == server_round
    assert checkpoint.meta == META
    assert checkpoint.names() == list(arrays())
    for name, expected in arrays().items():
        array = checkpoint.array(name)
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(array, expected)


def forge(
    header: object, body: bytes | None = None, length: int | None = None
) -> bytes:
    """Return a file of any content whose digest is right."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    data = MAGIC + struct.pack("<Q", length) + text
    if body is not None:
        data += bytes(-len(data) % 64) + body
    return data + hashlib.sha256(data).digest()


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "new" / "folder")
    assert checkpoints.is_empty()
    assert checkpoints.latest() is None
    path = checkpoints.save(123, META, arrays())
    assert path.name == "round-00000123.ckpt"
    assert not checkpoints.is_empty()
    assert_holds(checkpoints.latest(), 123)
    assert_holds(Checkpoint.open(path), 123)


def test_the_format_is_the_one_described(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(
        1, {"a": 2}, {"x": np.array([1, 2], dtype=">u2"), "y": np.array([0.5], "f4")}
    )
    table = {
        "x": {"dtype": "<u2", "shape": [2]},
        "y": {"dtype": "<f4", "shape": [1]},
    }
    header = {"server_round": 1, "meta": {"a": 2}, "arrays": table}
    body = struct.pack("<HH60xf", 1, 2, 0.5)
    assert path.read_bytes() == forge(header, body)


@settings(deadline=None)
@given(
    array=npst.arrays(
        st.one_of(
            npst.boolean_dtypes(),
            npst.integer_dtypes(endianness="?"),
            npst.floating_dtypes(endianness="?"),
            npst.complex_number_dtypes(endianness="?", sizes=(64, 128)),
        ).filter(lambda dtype: dtype.itemsize <= 8 or dtype.kind == "c"),
        npst.array_shapes(min_dims=0, min_side=0, max_side=4),
    ),
    transposed=st.booleans(),
)
def test_any_array_of_numbers_comes_back(array: NDArray[Any], transposed: bool) -> None:
    array = array.T if transposed else array
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint.open(Checkpoints(Path(folder)).save(0, {}, {"": array}))
        read = checkpoint.array("")
    assert read.dtype == array.dtype.newbyteorder("=")
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array)


def test_lazy_arrays_are_made_one_at_a_time(tmp_path: Path) -> None:
    store = VectorStore(8, 0)
    slots = [store.slot() for _ in range(20)]
    for number, slot in enumerate(slots):
        slot.vector = np.full(8, number, dtype=np.float32)
    calls = []

    def load(number: int) -> NDArray[Any]:
        calls.append((number, (tmp_path / "unfinished.ckpt.tmp").exists()))
        held = slots[number].vector
        assert held is not None
        return held

    lazy: Arrays = {
        str(number): LazyArray((8,), np.float32, partial(load, number))
        for number in range(20)
    }
    checkpoint = Checkpoint.open(Checkpoints(tmp_path).save(1, {}, lazy))
    assert calls == [(number, True) for number in range(20)]
    for number in range(20):
        np.testing.assert_array_equal(checkpoint.array(str(number)), np.full(8, number))


@pytest.mark.parametrize(
    "array",
    [np.array(["text"]), np.array([None]), np.zeros(1, "f4,f4"), np.zeros(1, "M8[s]")],
    ids=["text", "object", "record", "date"],
)
def test_other_dtypes_are_refused(array: NDArray[Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'x' has dtype .* expected numbers or"):
        Checkpoints(tmp_path).save(1, {}, {"x": array})


@pytest.mark.parametrize("came", [np.zeros(3, np.float32), np.zeros(2, np.float64)])
def test_a_lazy_array_is_what_it_says(came: NDArray[Any], tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, META, arrays())
    with pytest.raises(CheckpointError, match="announced"):
        checkpoints.save(2, {}, {"x": LazyArray((2,), np.float32, lambda: came)})
    assert [path.name for path in tmp_path.iterdir()] == ["round-00000001.ckpt"]


def test_meta_that_is_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        Checkpoints(tmp_path).save(1, {"x": object()}, {})


def test_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    (tmp_path / "notes.txt").touch()
    for server_round in (8, 9, 99_999_999, 100_000_000):
        checkpoints.save(server_round, META, arrays())
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["notes.txt", "round-100000000.ckpt", "round-99999999.ckpt"]
    assert_holds(checkpoints.latest(), 100_000_000)


def test_the_one_just_saved_stays_beside_later_rounds(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    later = checkpoints.save(9, META, arrays())
    later.write_bytes(b"torn")
    checkpoints.save(5, META, arrays())
    checkpoints.save(6, META, arrays())
    assert_holds(checkpoints.latest(), 6)


def test_a_round_saved_again_replaces_the_first(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {}, {})
    checkpoints.save(1, META, arrays())
    assert_holds(checkpoints.latest(), 1)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return Checkpoints(tmp_path / "saved").save(1, META, arrays())


def test_a_file_torn_anywhere_is_found(saved: Path) -> None:
    data = saved.read_bytes()
    for length in range(len(data)):
        saved.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="no intact checkpoint"):
            Checkpoint.open(saved)


def test_any_altered_byte_is_found(saved: Path) -> None:
    data = saved.read_bytes()
    for place in range(len(data)):
        altered = bytearray(data)
        altered[place] ^= 1 << place % 8
        saved.write_bytes(altered)
        with pytest.raises(CheckpointError, match="no intact checkpoint"):
            Checkpoint.open(saved)


def test_added_bytes_are_found(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="torn or altered"):
        Checkpoint.open(saved)


HEADER = {"server_round": 1, "meta": {}, "arrays": {}}


def table(dtype: object, shape: object) -> dict[str, object]:
    return HEADER | {"arrays": {"x": {"dtype": dtype, "shape": shape}}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "format version"),
        (
            forge(HEADER).replace(b"checkpoint 2", b"checkpoint 1"),
            "version 1, and .* 2",
        ),
        (MAGIC + hashlib.sha256(MAGIC).digest(), "ends before its header"),
        (forge(HEADER, length=2**64 - 1), "longer than the file"),
        (forge(HEADER, length=len(json.dumps(HEADER)) + 1), "longer than the file"),
        (forge(b"{"), "no intact"),
        (forge(b'"\xff"'), "no intact"),
        (forge(b"[" * 100_000), "no intact"),
        (forge(b"9" * 10_000), "no intact"),
        (forge([]), "lacks a field"),
        (forge({"meta": {}, "arrays": {}}), "lacks a field"),
        (forge(HEADER | {"server_round": "1"}), "lacks a field"),
        (forge(HEADER | {"meta": []}), "lacks a field"),
        (forge(HEADER, b"more"), "do not fill"),
        (forge(table("<f4", [2]), b"1234"), "do not fill"),
        (forge(table("<f4", [10**15]), b"1234"), "do not fill"),
        (forge(table("<f4", [10**4000]), b"1234"), "do not fill"),
        (forge(table("<f4", [-1]), b"1234"), "entry of array 'x'"),
        (forge(table("<f4", [True]), b"1234"), "entry of array 'x'"),
        (forge(table("<f4", 1), b"1234"), "entry of array 'x'"),
        (forge(table("|O", [1]), b"12345678"), "entry of array 'x'"),
        (forge(table("f4,f4", [1]), b"12345678"), "entry of array 'x'"),
        (forge(table("V999999999999", [0]), b""), "entry of array 'x'"),
    ],
)
def test_a_hostile_file_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "round-00000001.ckpt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(path)


@pytest.mark.parametrize("shape", [[0, 10**30], [0, 2**62, 2**62], [0] * 100])
def test_a_shape_that_numpy_lacks_is_refused(shape: list[int], tmp_path: Path) -> None:
    path = tmp_path / "round-00000001.ckpt"
    path.write_bytes(forge(table("<f4", shape), b""))
    with pytest.raises(CheckpointError, match="cannot read array 'x'"):
        Checkpoint.open(path).array("x")


def test_an_array_of_another_model_is_refused(saved: Path) -> None:
    checkpoint = Checkpoint.open(saved)
    assert checkpoint.array("model", (2, 3), np.float32).shape == (2, 3)
    for shape, dtype in (((6,), np.float32), ((2, 3), np.float64)):
        with pytest.raises(CheckpointError, match="is of another model"):
            checkpoint.array("model", shape, dtype)


@pytest.mark.skipif(os.name == "nt", reason="no modes")
def test_only_the_owner_can_read_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "unfinished.ckpt.tmp").touch(0o644)  # left by a killed run
    path = Checkpoints(tmp_path).save(1, META, arrays())
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_unknown_array_is_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="no array 'weights'"):
        Checkpoint.open(saved).array("weights")
    assert Checkpoint.open(saved).find("weights") is None


def test_a_file_that_goes_after_opening_is_noticed(saved: Path) -> None:
    checkpoint = Checkpoint.open(saved)
    os.truncate(saved, saved.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="cannot read array 'mask'"):
        checkpoint.array("mask")
    saved.unlink()
    with pytest.raises(CheckpointError, match="cannot read array 'model'"):
        checkpoint.array("model")


def test_a_damaged_newest_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, META, arrays())
    newest = checkpoints.save(2, META, arrays())
    os.truncate(newest, newest.stat().st_size - 1)
    assert_holds(checkpoints.latest(), 1)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(newest) in record.getMessage()


def test_nothing_intact_is_an_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for server_round in (1, 2):
        checkpoints.save(server_round, META, arrays()).write_bytes(b"torn")
    expected = r"none of the 2 checkpoints .* is intact: .*newest: .*round-00000002"
    with pytest.raises(CheckpointError, match=expected):
        checkpoints.latest()
    assert not checkpoints.is_empty()


@pytest.mark.parametrize("call", ["os.fsync", "os.replace"])
def test_a_failed_save_leaves_the_former(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, META, arrays())

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(call, fail)
    with pytest.raises(CheckpointError, match="round-00000002.* give another folder"):
        checkpoints.save(2, META, arrays())
    assert [path.name for path in tmp_path.iterdir()] == ["round-00000001.ckpt"]
    assert_holds(checkpoints.latest(), 1)


def test_a_full_disk_leaves_the_former(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, META, arrays())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(CheckpointError, match="make room"):
            checkpoints.save(2, META, {"x": np.zeros(4096)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["round-00000001.ckpt"]
    assert_holds(checkpoints.latest(), 1)


KILLED = """
import os
import signal
import sys
from pathlib import Path

from flower_compress.strategies.run.checkpoint import Checkpoints

os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
Checkpoints(Path(sys.argv[1]), keep=1).save(2, {}, {})
"""


def test_a_kill_before_the_replace_leaves_the_former(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, META, arrays())
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    assert_holds(checkpoints.latest(), 1)
    checkpoints.save(3, META, arrays())
    assert [path.name for path in tmp_path.iterdir()] == ["round-00000003.ckpt"]
    assert_holds(checkpoints.latest(), 3)


def test_content_and_name_are_synced_before_the_former_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order in which the disk must see it: content, name, removal."""
    seen = []
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, META, arrays())
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        seen.append(sorted(path.name for path in tmp_path.iterdir()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    checkpoints.save(2, META, arrays())
    assert seen == [
        ["round-00000001.ckpt", "unfinished.ckpt.tmp"],
        ["round-00000001.ckpt", "round-00000002.ckpt"],
    ]


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="give another folder, or mend its perm"):
        Checkpoints(tmp_path / "file" / "folder")


def test_a_read_only_folder_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Simulated: permissions do not stop the superuser.
    def fail(**_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    with pytest.raises(CheckpointError, match=r"Permission denied.*mend its permissio"):
        Checkpoints(tmp_path)


def test_a_checkpoint_of_another_user_is_not_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before it is intact, and of fewer rounds."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, META, arrays())
    newest, path_open = checkpoints.save(2, META, arrays()), Path.open

    # Simulated: permissions do not stop the superuser.
    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == newest:
            raise PermissionError(13, "Permission denied", str(self))
        return path_open(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match=r"cannot read .*2\.ckpt.* belong to"):
        checkpoints.latest()


def test_keeping_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="at least 1, got 0"):
        Checkpoints(tmp_path, keep=0)
