"""When a run saves itself, and when it ends itself."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from flwr.serverapp.strategy import Result

from flower_compress.arguments import check_count, folder_of
from flower_compress.errors import (
    CheckpointError,
    ConfigurationError,
    DivergedError,
    FlowerCompressError,
    NonFiniteError,
    RefusedUpdateError,
    RoundFailedError,
    UnknownNameError,
)

from .checkpoint import Arrays, Checkpoint, Checkpoints
from .difference import differences
from .fields import COUNT, INTEGER, TABLE, fields
from .folder_lock import FolderLock
from .metrics_log import MetricsLog
from .run_folders import folder_to_use, refuse_many_runs
from .seldom import Seldom
from .versions import SentVersions

__all__ = [
    "Failures",
    "KeepsClients",
    "Resume",
    "Saving",
    "check_same_run",
    "has_diverged",
    "reading",
]

Resume = bool | Literal["auto"]
"""Whether a run goes on from its checkpoints; see :class:`Saving`."""

_log = getLogger("flwr")
_MOST_DIFFERENCES = 3
_SPOILT = (NonFiniteError.__name__, RefusedUpdateError.__name__)
_UNKNOWN_VERSIONS = 1 << 20
"""How many versions are left out where nobody has noted which ones were sent."""


@runtime_checkable
class KeepsClients(Protocol):
    """A grid that can bring its clients back to where they were."""

    def save_clients(self) -> bytes:
        """Return the state of all clients."""

    def load_clients(self, data: bytes) -> None:
        """Bring all clients back to what :meth:`save_clients` gave."""


class Saving:
    """A run's checkpoints: where, how often, and whether it goes on from them.

    Parameters
    ----------
    folder : path, optional
        Folder of this run only, of many runs with ``"auto"``; None for no checkpoints.
    every : int
        Rounds between checkpoints; the last round is always saved.
    resume : bool or "auto"
        Go on from the newest intact checkpoint, if there is one. With ``"auto"`` each
        run has a folder of its own within `folder`, and only a run that has not ended
        goes on; see :func:`folder_to_use`.

    Raises
    ------
    ConfigurationError
        If `every` is not positive, or there is nothing to resume from.
    UnknownNameError
        If `resume` is another word.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None, every: int, resume: Resume
    ) -> None:
        check_count("checkpoint_every", every, 1)
        if not isinstance(resume, bool) and resume != "auto":
            raise UnknownNameError("resume", resume, ["True", "False", "auto"])
        if resume and folder is None:
            raise ConfigurationError(
                f"resume={resume!r} needs the folder with the checkpoints: give "
                "checkpoint_dir"
            )
        self.every, self.resume = every, resume
        self.folder = folder_of("checkpoint_dir", folder)
        self._checkpoints: Checkpoints | None = None
        self._lock: FolderLock | None = None
        self._failures = Seldom()

    @property
    def metrics_path(self) -> Path | None:
        """Where the metrics of all rounds are, None without a folder."""
        return None if self.folder is None else self._metrics.path

    def begin(self) -> Checkpoint | None:
        """Take the folder, and return the checkpoint to go on from, None for a new run.

        Raises
        ------
        CheckpointError
            If the folder cannot be written, is in use by another run, or holds no
            intact checkpoint.
        ConfigurationError
            If there are checkpoints and the run is not to be resumed.
        """
        self.end()
        if self.folder is None:
            return None
        folder = self.folder
        if self.resume == "auto":
            self._lock, folder = folder_to_use(folder)
        self._checkpoints = Checkpoints(folder)
        self._lock = self._lock or FolderLock(folder)
        self._metrics, self._sent = MetricsLog(folder), SentVersions(folder)
        self._failures.over()
        if self.resume:
            saved = self._checkpoints.latest()
            if saved is None and self.resume != "auto":
                refuse_many_runs(folder)
            return saved
        if not self._checkpoints.is_empty():
            raise ConfigurationError(
                f"{folder} holds the checkpoints of another run: expected an empty "
                "folder, or resume=True to go on with that run"
            )
        return None

    def end(self) -> None:
        """Let other runs have the folder."""
        if self._lock is not None:
            self._lock.release()
        self._lock = self._checkpoints = None

    def after_round(
        self,
        server_round: int,
        is_last: bool,
        result: Result,
        save: Callable[[Arrays], dict[str, Any]],
    ) -> None:
        """Save the round if it is time: what `save` returns, and puts into arrays.

        If it cannot be written, that is logged, the checkpoints before stay as they
        were, and the next one that is due is tried.

        Raises
        ------
        FlowerCompressError
            If there is something that no checkpoint can hold.
        """
        due = is_last or server_round % self.every == 0
        if self._checkpoints is None or not due:
            return
        try:
            mark = self._metrics.append(result, server_round)
            arrays: Arrays = {}
            meta = {"finished": is_last, "metrics": mark, **save(arrays)}
            self._checkpoints.save(server_round, meta, arrays)
        except FlowerCompressError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            self._failures.warn(
                "round %d is not saved: %s. The run goes on, and %s",
                server_round,
                error,
                "has ended without its last checkpoint"
                if is_last
                else f"tries again every {self.every} rounds",
            )
            return
        if missed := self._failures.over():
            _log.info("round %d is saved, after %d in vain", server_round, missed)

    def restore_metrics(self, saved: Checkpoint, result: Result) -> None:
        """Put the metrics that belong to a checkpoint into a result."""
        mark = fields(saved.meta, metrics=TABLE)["metrics"]
        mark = fields(mark, bytes=INTEGER, crc=COUNT)
        self._metrics.restore(
            {"bytes": mark["bytes"], "crc": mark["crc"]}, saved.server_round, result
        )

    def note_sent(self, newest: int) -> None:
        """Note the newest version, before it is sent."""
        if self._checkpoints is not None:
            self._sent.note(newest)

    def newest_sent(self, newest: int) -> int:
        """Return the newest version that the run may have sent.

        Parameters
        ----------
        newest : int
            The newest that the checkpoint knows.
        """
        noted = self._sent.read()
        if noted is None:
            # The checkpoint was copied here without it, and perhaps elsewhere too.
            return newest + _UNKNOWN_VERSIONS + secrets.randbelow(_UNKNOWN_VERSIONS)
        return max(noted, newest)


@dataclass
class Failures:
    """Ends a run in which every answer is an error, several rounds in a row.

    At once, if no answer was ever taken in and all say that the client app cannot work:
    it will not mend itself.

    Parameters
    ----------
    limit : int
        How many such rounds.
    in_a_row : int
        How many there were.
    has_begun : bool
        Whether an answer was ever taken in.
    """

    limit: int
    in_a_row: int = field(default=0)
    has_begun: bool = field(default=False)

    def count(self, num_accepted: int, reasons: list[str]) -> None:
        """Note a round: the answers taken in, and why others were not.

        Raises
        ------
        RoundFailedError
            If the limit is reached, or there is no hope.
        DivergedError
            If the limit is reached, and the model has diverged.
        """
        self.has_begun |= num_accepted > 0
        if num_accepted or not reasons:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        is_hopeless = not self.has_begun and all(
            reason.startswith(ConfigurationError.__name__) for reason in reasons
        )
        if is_hopeless or self.in_a_row >= self.limit:
            distinct = list(dict.fromkeys(reasons))
            often = f", {self.in_a_row} rounds in a row" if self.in_a_row > 1 else ""
            error = DivergedError if has_diverged(reasons) else RoundFailedError
            raise error(
                f"all {len(reasons)} clients that answered reported an error{often}: "
                + " | ".join(distinct[:3])
            )


def has_diverged(reasons: Sequence[str]) -> bool:
    """Whether every client answered NaN, infinity or what is far too large."""
    return bool(reasons) and all(reason.startswith(_SPOILT) for reason in reasons)


def check_same_run(name: str, own: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Raise ConfigurationError if a checkpoint's ``"run"`` differs from `own`.

    Parameters
    ----------
    name : str
        What the strategy is called: the first that is said where they differ.
    own : dict[str, Any]
        What must not change.
    checkpoint : Checkpoint
        The checkpoint.
    """
    run, before = checkpoint.meta.get("run"), checkpoint.meta.get("name")
    saved = run if isinstance(run, dict) else {}
    found = list(differences({key: saved.get(key) for key in own}, own))
    if not found:
        return
    if before != name:
        found.insert(0, f"it was {before} and is {name}")
    raise ConfigurationError(
        f"{checkpoint.path} is of another run: "
        f"{'; '.join(found[:_MOST_DIFFERENCES])}. Give another checkpoint_dir, or the "
        "run's own settings"
    )


@contextmanager
def reading(checkpoint: Checkpoint) -> Iterator[None]:
    """Raise CheckpointError where what is read lacks a field, or has it otherwise."""
    try:
        yield
    except FlowerCompressError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as err:
        raise CheckpointError(
            f"{checkpoint.path} does not hold what this release saves "
            f"({type(err).__name__}: {err}): go on with the release that wrote it, or "
            "start anew in another folder"
        ) from err
