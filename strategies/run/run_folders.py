"""Which folder a run takes that is started again and again by the same command."""

from __future__ import annotations

import re
from itertools import count
from logging import getLogger
from pathlib import Path
from time import monotonic, sleep

from flower_compress.errors import CheckpointError

from .checkpoint import Checkpoints
from .folder_lock import FolderLock, FolderTakenError

__all__ = ["folder_to_use", "refuse_many_runs"]

_log = getLogger("flwr")
_NAME = re.compile(r"run-(\d{4,})")
_PATIENCE, _BETWEEN = 45.0, 0.5
"""Seconds that a run which is being stopped is given to end: Flower's ServerApp learns
of ``flwr stop`` with its next heartbeat, half a minute later at most (flwr 1.42)."""


def folder_to_use(root: Path) -> tuple[FolderLock, Path]:
    """Return the folder of the run that has not ended, or that of a new one, taken.

    The runs of `root` are in its folders ``run-0001``, ``run-0002`` and so on. The
    newest goes on if it has not ended: its process is gone, or goes within 45 seconds,
    and its newest checkpoint is not that of its last round. Else the next one begins.

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
        If it cannot be written, none of the newest run's checkpoints is intact, or
        `root` is itself the folder of a run.
    """
    # Says at once if it cannot be written.
    if not Checkpoints(root).is_empty():
        raise CheckpointError(
            f'{root} holds checkpoints itself, where resume="auto" expects a folder '
            f"for each run: to go on with that run give resume=True, or move its files "
            f"to {root / 'run-0001'}; else give another checkpoint_dir"
        )
    newest = max(_numbers(root), default=0)
    for number in count(max(newest, 1)):
        folder = root / f"run-{number:04d}"
        checkpoints = Checkpoints(folder)
        try:
            lock = _lock(folder, _PATIENCE if number == newest else 0.0)
        except FolderTakenError as error:
            _log.warning("%s. A new run begins beside it, from its first round", error)
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


def _lock(folder: Path, patience: float) -> FolderLock:
    """Take a folder, whose run may be about to end."""
    deadline, has_told = monotonic() + patience, False
    while True:
        try:
            return FolderLock(folder)
        except FolderTakenError as error:
            if monotonic() >= deadline:
                raise
            if not has_told:
                _log.info("%s. Waiting for up to %.0f s until it ends", error, patience)
                has_told = True
            sleep(_BETWEEN)


def refuse_many_runs(folder: Path) -> None:
    """Raise CheckpointError if `folder`, to be that of one run, has those of many."""
    if numbers := _numbers(folder):
        newest = folder / f"run-{max(numbers):04d}"
        raise CheckpointError(
            f'{folder} holds the folders of runs with resume="auto", and no checkpoint '
            f'itself: give resume="auto", or checkpoint_dir="{newest}"'
        )


def _numbers(root: Path) -> list[int]:
    names = map(_NAME.fullmatch, (path.name for path in root.iterdir()))
    return [int(name[1]) for name in names if name]
