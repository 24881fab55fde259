"""Checkpoints: one file each, written at once or not at all, checked when read.

A file holds, one after the other:

- the magic line, which ends with the format version;
- the length of the header, 8 bytes, little-endian, and the header, a JSON object:
  ``server_round``, ``meta``, and ``arrays``, for each name the dtype and the shape;
- the arrays in the order of the header, C-contiguous and little-endian, each at the
  next multiple of 64 bytes from the start of the file;
- the SHA-256 of all bytes before it, 32 bytes.

The digest finds damage. It is no signature: it does not tell who wrote the file. Only
the file's owner can read it (mode 0600), where the system has such modes: what clients
have sent is private.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from flower_compress.errors import CheckpointError, ConfigurationError

__all__ = ["Arrays", "Checkpoint", "Checkpoints", "LazyArray", "private_file"]

_log = getLogger("flwr")
_KIND = b"flower-compress checkpoint "
_MAGIC = _KIND + b"2\n"
_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 64
_DIGEST_BYTES = hashlib.sha256().digest_size
_BLOCK_BYTES = 1 << 20
_DTYPES = frozenset(np.dtype(code).newbyteorder("<").str for code in "?bhiqBHIQefdFD")
_NAME = re.compile(r"round-(\d{8,})\.ckpt")
_TEMPORARY_NAME = "unfinished.ckpt.tmp"
_PRIVATE = 0o600


@dataclass(frozen=True, slots=True)
class LazyArray:
    """An array to save that is made only when its turn comes.

    Parameters
    ----------
    shape : tuple[int, ...]
        Its shape.
    dtype : DTypeLike
        Its dtype.
    load : Callable[[], NDArray]
        Returns the array; called once for each save.
    """

    shape: tuple[int, ...]
    dtype: DTypeLike
    load: Callable[[], NDArray[Any]]


Arrays = dict[str, NDArray[Any] | LazyArray]
"""What a checkpoint is to hold, by name."""


@dataclass(frozen=True, slots=True)
class _Row:
    """Where an array lies in the file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose digest was right when it was opened; arrays are read lazily.

    Attributes
    ----------
    path : Path
        The file.
    server_round : int
        The round after which it was saved.
    meta : dict[str, Any]
        What was saved beside the arrays, as JSON gives it back: tuples are lists, keys
        are strings.
    """

    path: Path
    server_round: int
    meta: dict[str, Any]
    _rows: Mapping[str, _Row]

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Read a file once, block by block, and check it.

        Raises
        ------
        CheckpointError
            If it cannot be read, is torn or altered, or has another format.
        """
        try:
            with path.open("rb") as file:
                end = os.fstat(file.fileno()).st_size - _DIGEST_BYTES
                _check_digest(file, end)
                file.seek(len(_MAGIC))
                header = _read_header(file, end)
                start = file.tell()
            match header:
                case {
                    "server_round": int(server_round),
                    "meta": dict(meta),
                    "arrays": dict(table),
                }:
                    rows = dict(_read_table(table, start, end))
                    return cls(path, server_round, meta, rows)
            raise ValueError("its header lacks a field")
        except PermissionError as error:
            raise CheckpointError(
                f"cannot read {path} ({error}): let the files of the folder belong to "
                "the user that runs this, or give another folder"
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} is no intact checkpoint: {error}") from error

    def names(self) -> list[str]:
        """Return the names of the arrays, in the order in which they were saved."""
        return list(self._rows)

    def array(
        self,
        name: str,
        shape: tuple[int, ...] | None = None,
        dtype: DTypeLike | None = None,
    ) -> NDArray[Any]:
        """Read an array, in its own shape and dtype.

        Parameters
        ----------
        name : str
            The array.
        shape : tuple[int, ...], optional
            The shape that it must have.
        dtype : DTypeLike, optional
            The dtype that it must have.

        Raises
        ------
        CheckpointError
            If there is none of this name, it has another shape or dtype than it must,
            NumPy has no arrays of its shape, or the file was removed or cut off since
            it was opened.
        """
        if name not in self._rows:
            raise CheckpointError(f"{self.path} has no array {name!r}")
        row = self._rows[name]
        wanted = (
            row.shape if shape is None else shape,
            row.dtype if dtype is None else _little_endian(dtype),
        )
        if (row.shape, row.dtype) != wanted:
            raise CheckpointError(
                f"{self.path} is of another model: expected array {name!r} of shape "
                f"{wanted[0]} and dtype {wanted[1]}, got {row.shape} and {row.dtype}"
            )
        size = math.prod(row.shape)
        try:
            array = np.fromfile(self.path, row.dtype, size, offset=row.offset)
            array = array.reshape(row.shape)
        except (OSError, OverflowError, ValueError) as error:
            raise CheckpointError(
                f"cannot read array {name!r} of {self.path}: {error}"
            ) from error
        return array.astype(row.dtype.newbyteorder("="), copy=False)

    def find(
        self,
        name: str,
        shape: tuple[int, ...] | None = None,
        dtype: DTypeLike | None = None,
    ) -> NDArray[Any] | None:
        """Read an array as :meth:`array` does; None if there is none of this name."""
        return self.array(name, shape, dtype) if name in self._rows else None


class Checkpoints:
    """The checkpoints of one run in a folder, ``round-00000123.ckpt`` and so on.

    Parameters
    ----------
    folder : Path
        Where they lie; made if missing. For one run at a time.
    keep : int
        How many to keep, at least 1. With 2, damage to the newest costs no more than
        the rounds since the one before it.

    Raises
    ------
    CheckpointError
        If the folder cannot be made, or no file can be written to it.
    ConfigurationError
        If keep is less than 1.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        if keep < 1:
            raise ConfigurationError(f"keep must be at least 1, got {keep}")
        self._folder, self._keep = folder, keep
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise CheckpointError(
                f"cannot write checkpoints to {folder} ({error}): give another folder, "
                "or mend its permissions"
            ) from error

    def save(
        self,
        server_round: int,
        meta: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any] | LazyArray],
    ) -> Path:
        """Write a checkpoint, then remove the older ones beyond `keep`.

        Until the new file is complete and on disk the older ones stay as they are,
        whatever happens. Files of later rounds are left alone.

        Parameters
        ----------
        server_round : int
            The round it is of, from 0; a file of the same round is replaced.
        meta : Mapping[str, Any]
            Anything that JSON can hold.
        arrays : Mapping[str, NDArray | LazyArray]
            Arrays of numbers or booleans by name; lazy ones are in RAM one at a time.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        CheckpointError
            If it cannot be written, or an array is not what JSON and bytes can hold:
            of another dtype, or not of the shape and dtype its LazyArray says.
        TypeError
            If JSON cannot hold `meta`.
        """
        path = self._folder / f"round-{server_round:08d}.ckpt"
        temporary = self._folder / _TEMPORARY_NAME
        header = _make_header(server_round, meta, arrays)
        try:
            try:
                temporary.unlink(missing_ok=True)  # Of a killed run, of any mode.
                with private_file(temporary, "wb") as file:
                    _write(file, header, arrays)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(self._folder)
            rounds = self._rounds()
            for old in [r for r in rounds if r <= server_round][: -self._keep]:
                rounds[old].unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"cannot write {path} ({error}): make room, or give another folder"
            ) from error
        return path

    def latest(self) -> Checkpoint | None:
        """Open the newest intact checkpoint; log a warning for each that is not.

        Returns
        -------
        Checkpoint | None
            None if there is no file at all.

        Raises
        ------
        CheckpointError
            If there are files, and none is intact, or the newest that may be is not
            for this user to read: to go on from one before it would lose rounds that
            are there.
        """
        rounds = self._rounds()
        reasons = []
        for path in reversed(rounds.values()):
            try:
                return Checkpoint.open(path)
            except CheckpointError as error:
                if isinstance(error.__cause__, PermissionError):
                    raise
                _log.warning("Skipped a checkpoint: %s", error)
                reasons.append(str(error))
        if reasons:
            raise CheckpointError(
                f"none of the {len(rounds)} checkpoints in {self._folder} is intact: "
                "put a good copy there, or start anew in another folder. The newest: "
                + reasons[0]
            )
        return None

    def is_empty(self) -> bool:
        """Whether there is no checkpoint, intact or not."""
        return not self._rounds()

    def _rounds(self) -> dict[int, Path]:
        """Return the files by round, oldest first."""
        names = map(_NAME.fullmatch, os.listdir(self._folder))
        rounds = sorted((int(name[1]), name[0]) for name in names if name)
        return {number: self._folder / name for number, name in rounds}


def private_file(path: Path, mode: str) -> BinaryIO:
    """Open a binary file that only its owner can read, if it is made now."""
    return cast(
        BinaryIO,
        open(path, mode, opener=lambda name, flags: os.open(name, flags, _PRIVATE)),
    )


def _make_header(
    server_round: int,
    meta: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any] | LazyArray],
) -> bytes:
    table = {}
    for name, array in arrays.items():
        dtype = _little_endian(array.dtype)
        if dtype.str not in _DTYPES:
            raise CheckpointError(
                f"array {name!r} has dtype {dtype}: expected numbers or booleans"
            )
        table[name] = {"dtype": dtype.str, "shape": [int(n) for n in array.shape]}
    header = {"server_round": server_round, "meta": dict(meta), "arrays": table}
    return json.dumps(header).encode()


def _write(
    file: BinaryIO, header: bytes, arrays: Mapping[str, NDArray[Any] | LazyArray]
) -> None:
    digest = hashlib.sha256()

    def put(data: bytes | memoryview) -> None:
        file.write(data)
        digest.update(data)

    put(_MAGIC + _LENGTH.pack(len(header)) + header)
    for name, source in arrays.items():
        put(bytes(-file.tell() % _ALIGNMENT))
        put(_raw_bytes(name, source))
    file.write(digest.digest())


def _raw_bytes(name: str, source: NDArray[Any] | LazyArray) -> memoryview:
    array = source.load() if isinstance(source, LazyArray) else source
    dtype = _little_endian(source.dtype)
    if array.shape != tuple(source.shape) or _little_endian(array.dtype) != dtype:
        raise CheckpointError(
            f"array {name!r} was announced with shape {source.shape} and dtype "
            f"{source.dtype}, and came with {array.shape} and {array.dtype}"
        )
    return np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data


def _check_digest(file: BinaryIO, end: int) -> None:
    """Check the magic line, and that the digest of the bytes before `end` follows."""
    magic = file.read(len(_MAGIC))
    if magic != _MAGIC:
        if magic.startswith(_KIND):
            raise ValueError(
                f"it is of format version {_version(magic)}, and this release reads "
                f"{_version(_MAGIC)}: go on with the release that wrote it, or start "
                "anew from its model in another folder"
            )
        raise ValueError("it does not begin as one of any format version does")
    digest = hashlib.sha256(magic)
    left = end - len(magic)
    while left > 0 and (block := file.read(min(left, _BLOCK_BYTES))):
        digest.update(block)
        left -= len(block)
    if file.read(_DIGEST_BYTES) != digest.digest():
        raise ValueError("it is torn or altered, its SHA-256 does not match")


def _version(magic: bytes) -> str:
    return magic[len(_KIND) :].decode(errors="replace").strip()


def _read_header(file: BinaryIO, end: int) -> object:
    prefix = file.read(_LENGTH.size)
    if file.tell() > end:
        raise ValueError("it ends before its header")
    (length,) = _LENGTH.unpack(prefix)
    if length > end - file.tell():
        raise ValueError("its header is longer than the file")
    return json.loads(file.read(length))


def _read_table(
    table: dict[str, Any], start: int, end: int
) -> Iterator[tuple[str, _Row]]:
    """Yield where each array lies; together they must fill `start` to `end`."""
    for name, entry in table.items():
        match entry:
            case {"dtype": str(code), "shape": list(shape)} if code in _DTYPES and all(
                type(n) is int and n >= 0 for n in shape
            ):
                row = _Row(np.dtype(code), tuple(shape), start + -start % _ALIGNMENT)
            case _:
                raise ValueError(f"the header's entry of array {name!r} is not valid")
        start = row.offset + math.prod(shape) * row.dtype.itemsize
        yield name, row
    if start != end:
        raise ValueError("its arrays do not fill it")


def _little_endian(dtype: DTypeLike) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def _sync_folder(folder: Path) -> None:
    """Put the folder's entries on disk, as fsync does with a file's content."""
    if os.name == "nt":  # Windows does not open folders.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
