"""Which folder a run takes that is started again and again by the same command."""

from __future__ import annotations

import re
from itertools import count
from logging import getLogger
from pathlib import Path

from flower_compress.errors import CheckpointError

from .checkpoint import Checkpoints
from .folder_lock import FolderLock

__all__ = ["folder_to_use"]

_log = getLogger("flwr")
_NAME = re.compile(r"run-(\d{4,})")


def folder_to_use(root: Path) -> tuple[FolderLock, Path]:
    """Return the folder of the run that has not ended, or that of a new one, taken.

    The runs of `root` are in its folders ``run-0001``, ``run-0002`` and so on. The
    newest goes on if it has not ended: its process is gone, and its newest checkpoint
    is not that of its last round. Else the next one begins.

    Flower's own record of what belongs together cannot say so: each ``flwr run`` is a
    run series of its own, and what a ServerApp leaves in its ``Context.state`` is
    dropped when it ends, and lost when it is killed (flwr 1.42).

    Parameters
    ----------
    root : Path
        The folder of all runs.

    Raises
    ------
    CheckpointError
        If it cannot be written, or none of the newest run's checkpoints is intact.
    """
    Checkpoints(root)  # Says at once if it cannot be written.
    names = map(_NAME.fullmatch, (path.name for path in root.iterdir()))
    newest = max((int(name[1]) for name in names if name), default=0)
    for number in count(max(newest, 1)):
        folder = root / f"run-{number:04d}"
        checkpoints = Checkpoints(folder)
        try:
            lock = FolderLock(folder)
        except CheckpointError as error:
            _log.info("%s", error)
            continue
        try:
            saved = checkpoints.latest()
        except CheckpointError:
            lock.release()
            raise
        if saved is None or not saved.meta.get("finished"):
            return lock, folder
        _log.info("The run in %s has ended: a new one begins", folder)
        lock.release()
    raise AssertionError("unreachable: there is always a next number")
