"""A client's state in a file, for devices that restart."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from pathlib import Path
from struct import Struct

if sys.platform != "win32":
    import fcntl

__all__ = ["StateFile", "tidy"]

_CRC = Struct("<I")
_STATE = re.compile(r"((?:client|node)--?\d+)(?:-[0-9a-f]{8})?\.state")
_TEMPORARY = re.compile(r"(?:client|node)-.*\.state(?:\..*\.tmp|[a-z0-9_]{8})")
_SECONDS_TO_LOCK = 10.0
_SECONDS_TO_WRITE = 3600.0
_MOST_KEPT = 4
_DAY = 86400.0
_DAYS_KEPT, _DAYS_OF_MORE = 30, 1


class StateFile:
    """Bytes that survive the process, replaced whole or not at all.

    The file is the bytes and their CRC-32. It is written beside the old one, flushed
    to the disk, and takes its place: a device that loses power has the one or the
    other.

    Parameters
    ----------
    folder : Path
        Folder of the file, made when it is first written.
    identity : int
        The client's own number; several clients may share a folder.
    session : int
        The session's id; so may several runs. A resumed run keeps its session.
    kind : str
        What the file's name begins with.
    """

    def __init__(
        self, folder: Path, identity: int, session: int, kind: str = "client"
    ) -> None:
        self.path = folder / f"{kind}-{identity}-{session:08x}.state"

    def read(self) -> memoryview | None:
        """Return the bytes written last, None if there are none, or damaged ones."""
        try:
            data = memoryview(self.path.read_bytes())
        except OSError:
            return None
        content, crc = data[: -_CRC.size], data[-_CRC.size :]
        return content if crc == _CRC.pack(zlib.crc32(content)) else None

    def saved_at(self) -> int | None:
        """Return when they were written, in nanoseconds; None if there are none."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return None

    def write(self, content: bytes) -> None:
        """Replace the bytes.

        Raises
        ------
        OSError
            If the folder cannot be written; the file stays as it was.
        """
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            prefix=f"{self.path.name}.", suffix=".tmp", dir=folder
        )
        try:
            with os.fdopen(handle, "wb") as file:
                _lock(file.fileno())  # Until the file is closed, or the process gone.
                file.write(content)
                file.write(_CRC.pack(zlib.crc32(content)))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def tidy(folder: Path, keep: Path) -> None:
    """Remove what nobody will read again; what cannot be removed stays.

    Temporary files of processes that were killed: those that no process has locked, or
    are an hour old where there are no locks. And states of runs that are over, which is
    told by when they were written, since a run writes with every message: of each
    client those not written for 30 days, and of more than four the older ones after one
    day. A run that comes back later than that costs its client one dense model.

    Parameters
    ----------
    folder : Path
        The folder.
    keep : Path
        A file that stays, whatever the clock says.
    """
    states: dict[str, list[tuple[float, Path]]] = defaultdict(list)
    now = time.time()
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        try:
            age, path = now - entry.stat().st_mtime, Path(entry.path)
            if found := _STATE.fullmatch(entry.name):
                states[found[1]].append((age, path))
            elif _TEMPORARY.fullmatch(entry.name) and _is_orphan(path, age):
                path.unlink()
        except OSError:
            continue
    for files in states.values():
        for place, (age, path) in enumerate(sorted(files)):
            days = _DAYS_KEPT if place < _MOST_KEPT else _DAYS_OF_MORE
            if age > days * _DAY and path != keep:
                _remove(path)


def _is_orphan(path: Path, age: float) -> bool:
    """Whether the process that wrote a temporary file is gone."""
    if age > _SECONDS_TO_WRITE:
        return True
    if age < _SECONDS_TO_LOCK or sys.platform == "win32":
        return False
    with path.open("r+b") as file:
        return _lock(file.fileno())


def _lock(handle: int) -> bool:
    """Take an exclusive lock on a file and say whether there is one now."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError:
        return
