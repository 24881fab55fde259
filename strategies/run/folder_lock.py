"""One run at a time in a folder."""

from __future__ import annotations

import errno
import os
import socket
from logging import getLogger
from pathlib import Path
from typing import BinaryIO

from flower_compress.errors import CheckpointError

from .checkpoint import private_file

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["FolderLock", "FolderTakenError"]

_log = getLogger("flwr")
_NAME = "run.lock"
_TAKEN = (errno.EACCES, errno.EAGAIN)


class FolderTakenError(CheckpointError):
    """Another run has the folder."""


class FolderLock:
    """Keeps a folder for one process, until that ends, however it does.

    The system holds the lock (``flock``) and gives it up with the process: what a dead
    one has left behind is no obstacle. Where there is no such lock (Windows, some
    network drives) nothing is kept, and two runs are the operator's to avoid.

    Parameters
    ----------
    folder : Path
        The folder, which exists. The file ``run.lock`` in it says who has it.
    name : str
        What errors call the argument that names it.

    Raises
    ------
    FolderTakenError
        If another run has it; the error names its process and its host.
    CheckpointError
        If the file cannot be opened.
    """

    def __init__(self, folder: Path, name: str = "checkpoint_dir") -> None:
        path = folder / _NAME
        self._file: BinaryIO | None = None
        if fcntl is None:
            return
        try:
            file = private_file(path, "a+b")
        except OSError as error:
            raise CheckpointError(
                f"cannot open {path} ({error}): let the files of the folder belong to "
                f"the user that runs this, or give another {name}"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                file.seek(0)
                holder = file.read().decode(errors="replace").strip() or "another run"
                file.close()
                raise FolderTakenError(
                    f"{folder} is in use by {holder}: expected one run at a time in a "
                    f"folder; end that one, or give another {name}"
                ) from error
            _log.warning(
                "%s cannot be locked (%s): see to it that no other run uses it",
                folder,
                error,
            )
            file.close()
            return
        self._file, self._pid = file, os.getpid()
        os.register_at_fork(after_in_child=self._forget)
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            file.flush()
        except OSError:  # A full disk: nobody will know who has it.
            pass

    def release(self) -> None:
        """Let others have the folder."""
        if self._file is not None and fcntl is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._forget()

    def _forget(self) -> None:
        """Close the file: in a forked process, which else keeps the lock alive."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
