"""Vectors of one length, in RAM up to a budget and above it in a temporary file."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import FileIO
from pathlib import Path

import numpy as np

from flower_compress.compressors import Vector
from flower_compress.errors import ConfigurationError, LayoutMismatchError

from ..run.checkpoint import Arrays, Checkpoint, LazyArray
from ..run.seldom import Seldom

__all__ = ["Slot", "SpillError", "VectorStore"]


class SpillError(ConfigurationError):
    """The file cannot take a vector, or give it back."""


class VectorStore:
    """Places for vectors, of which only so many bytes stay in RAM.

    A vector goes to RAM while the budget has room for it, else to a file. The file is
    made when it is first needed and has no name where the system allows that (POSIX),
    so that not even a killed process leaves it behind. It is as long as its content
    ever was, and one vector: places given back are filled first, and a new vector is
    written beside the one that it replaces.

    It is read and written, not mapped: a full disk raises an error where a store into
    a mapping would kill the process (SIGBUS), and nothing of it stays resident.

    Not for several threads at once.

    Parameters
    ----------
    dim : int
        Length d of every vector.
    budget : int | None
        Bytes of vectors kept in RAM, 4 d each; None for no limit.
    folder : Path | None
        Where the file lies, made if missing; None for the system's temporary folder,
        which on some systems is itself in RAM (tmpfs) and then saves nothing.

    Raises
    ------
    ConfigurationError
        If the budget is negative.
    """

    def __init__(
        self, dim: int, budget: int | None, folder: Path | None = None
    ) -> None:
        if budget is not None and budget < 0:
            raise ConfigurationError(f"budget must be 0 bytes or more, got {budget}")
        self._dim, self._budget, self._folder = dim, budget, folder
        self._vector_bytes = dim * np.dtype(np.float32).itemsize
        self._num_in_ram = self._num_places = 0
        self._free_places: list[int] = []
        self._file: FileIO | None = None
        self._failures = Seldom()

    @property
    def num_bytes_in_ram(self) -> int:
        """Bytes of the vectors in RAM."""
        return self._num_in_ram * self._vector_bytes

    @property
    def num_bytes_on_disk(self) -> int:
        """Bytes of the vectors in the file."""
        return (self._num_places - len(self._free_places)) * self._vector_bytes

    def slot(self) -> Slot:
        """Return an empty place."""
        return Slot(self)

    def close(self) -> None:
        """Close the file: what lies in it is gone, and no slot can use it any more.

        Happens by itself when the store and its slots are no longer referenced.
        """
        if self._file is not None:
            self._file.close()

    def _check(self, vector: Vector) -> None:
        if vector.shape != (self._dim,) or vector.dtype != np.float32:
            raise LayoutMismatchError(
                f"expected a vector of shape ({self._dim},) and dtype float32, got "
                f"shape {vector.shape} and dtype {vector.dtype}"
            )

    def _put(self, vector: Vector, before: Vector | int | None) -> Vector | int:
        """Return the vector if it may stay in RAM, else its place in the file.

        What it replaces is given back, once nothing can fail any more.
        """
        room = self.num_bytes_in_ram + self._vector_bytes
        if before is not None and not isinstance(before, int):
            room -= self._vector_bytes
        if self._budget is None or room <= self._budget:
            self._release(before)
            self._num_in_ram += 1
            held = vector.view()
            held.flags.writeable = False
            return held
        if not self._free_places:
            self._free_places.append(self._num_places)
            self._num_places += 1
        with self._at(self._free_places[-1]) as file:
            _repeat(file.write, np.ascontiguousarray(vector))
        place = self._free_places.pop()
        self._release(before)
        return place

    def _get(self, place: int) -> Vector:
        vector = np.empty(self._dim, dtype=np.float32)
        with self._at(place) as file:
            _repeat(file.readinto, vector)
        vector.flags.writeable = False
        return vector

    def _release(self, held: Vector | int | None) -> None:
        if isinstance(held, int):
            self._free_places.append(held)
        elif held is not None:
            self._num_in_ram -= 1

    @contextmanager
    def _at(self, place: int) -> Iterator[FileIO]:
        """Give the file, at a place, and say what to do if it cannot be used."""
        try:
            if self._file is None:
                if self._folder is not None:
                    self._folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(  # noqa: SIM115 - kept open
                    buffering=0, dir=self._folder
                )
                weakref.finalize(self, self._file.close)
            self._file.seek(place * self._vector_bytes)
            yield self._file
        except OSError as error:
            raise SpillError(
                f"cannot keep vectors of {self._vector_bytes} bytes in "
                f"{self._folder or tempfile.gettempdir()} ({error}): give another "
                f"folder, or a budget above {self._budget} bytes of RAM"
            ) from error


class Slot:
    """A place for one vector of a store, made by :meth:`VectorStore.slot`.

    What it holds counts until it is replaced or set to None, not until the slot itself
    is dropped.
    """

    __slots__ = ("_held", "_store")

    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self._held: Vector | int | None = None

    @property
    def vector(self) -> Vector | None:
        """The vector, shape (d,), float32, read-only; None if the slot is empty.

        In RAM it is the array that was set, not a copy, so do not write to that one
        any more. From the file it is a new array each time.

        Setting it raises LayoutMismatchError on another shape or dtype, and SpillError
        if the file cannot take it; the slot is left as it was.
        """
        held = self._held
        return self._store._get(held) if isinstance(held, int) else held

    @vector.setter
    def vector(self, vector: Vector | None) -> None:
        if vector is None:
            self._store._release(self._held)
            self._held = None
            return
        self._store._check(vector)
        self._held = self._store._put(vector, self._held)

    def keep(self, vector: Vector) -> bool:
        """Set the vector; if the file cannot take it, log that and return False."""
        try:
            self.vector = vector
        except SpillError as error:
            self._store._failures.warn(
                "a client's memory stays as it was, on both ends: %s", error
            )
            return False
        self._store._failures.over()
        return True

    def save(self, arrays: Arrays, name: str) -> None:
        """Add the vector to `arrays`, unless the slot is empty.

        To be written before the slot changes: from the file it is read only then.
        """
        held = self._held
        if isinstance(held, int):
            load = partial(self._store._get, held)
            arrays[name] = LazyArray((self._store._dim,), np.float32, load)
        elif held is not None:
            arrays[name] = held

    def restore(self, checkpoint: Checkpoint, name: str) -> None:
        """Take over what :meth:`save` gave; empty the slot if that was nothing."""
        self.vector = checkpoint.find(name, (self._store._dim,), np.float32)


def _repeat(transfer: Callable[[memoryview], int | None], vector: Vector) -> None:
    """Read or write until all bytes are through: one call may do only a part."""
    data = vector.view(np.uint8).data
    while data:
        done = transfer(data)
        if not done:
            raise OSError(f"{len(data)} bytes are missing")
        data = data[done:]
