"""The newest version that a run has sent, on disk before it is sent."""

from __future__ import annotations

import os
from pathlib import Path

from .checkpoint import private_file
from .seldom import Seldom

__all__ = ["SentVersions"]

_NAME = "versions.sent"
_FORM = "{:020d}\n"


class SentVersions:
    """A number in a file, replaced in place: that needs no room on a full disk.

    A server that is killed between two checkpoints has sent versions that none of them
    knows. The one that goes on must use none of those again: a client would take the
    one for the other.

    Parameters
    ----------
    folder : Path
        The folder of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        self._newest = 0
        self._failures = Seldom()

    def read(self) -> int | None:
        """Return the number, None if there is none."""
        try:
            return int(self._path.read_bytes())
        except (OSError, ValueError):
            return None

    def note(self, newest: int) -> None:
        """Write a number, unless it is written; if that fails, log it and go on."""
        if newest <= self._newest:
            return
        try:
            exists = self._path.exists()
            with private_file(self._path, "r+b" if exists else "wb") as file:
                file.write(_FORM.format(newest).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._failures.warn(
                "%s cannot be written (%s): if this server is killed now, the one that "
                "goes on may use versions again that clients have seen; mend the disk",
                self._path,
                error,
            )
            return
        self._newest = newest
        self._failures.over()
