"""When a run saves itself, and what every run saves of its metrics."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, runtime_checkable

from flwr.app import MetricRecord
from flwr.serverapp.strategy import Result

from flower_compress.arguments import check_number, folder_of
from flower_compress.errors import CheckpointError, ConfigurationError, RoundFailedError

from .checkpoint import Arrays, Checkpoint, Checkpoints
from .difference import differences

__all__ = [
    "VERSIONS_A_RESUME",
    "Failures",
    "KeepsClients",
    "Saving",
    "check_same_run",
    "restore_metrics",
    "save_metrics",
]

VERSIONS_A_RESUME = 1 << 20
"""How many versions a resumed run skips: clients may have seen newer ones."""

_MOST_DIFFERENCES = 3
_MAX_RESUMES = (1 << 32) // VERSIONS_A_RESUME - 1


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
        Folder of this run only; None for no checkpoints.
    every : int
        Rounds between checkpoints; the last round is always saved.
    resume : bool
        Go on from the newest intact checkpoint, if there is one.

    Raises
    ------
    ConfigurationError
        If `every` is not positive, or there is nothing to resume from.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None, every: int, resume: bool
    ) -> None:
        check_number("checkpoint_every", every, "be positive", lambda n: n >= 1)
        if resume and folder is None:
            raise ConfigurationError(
                "resume=True needs the folder with the checkpoints: give checkpoint_dir"
            )
        self.every, self.resume = every, resume
        self.folder = folder_of("checkpoint_dir", folder)
        self._checkpoints: Checkpoints | None = None

    def begin(self) -> Checkpoint | None:
        """Return the checkpoint to go on from, None for a new run.

        Raises
        ------
        CheckpointError
            If the folder cannot be written, or holds no intact checkpoint.
        ConfigurationError
            If there are checkpoints and the run is not to be resumed.
        """
        if self.folder is None:
            return None
        self._checkpoints = Checkpoints(self.folder)
        if self.resume:
            return self._checkpoints.latest()
        if not self._checkpoints.is_empty():
            raise ConfigurationError(
                f"{self.folder} holds the checkpoints of another run: "
                "expected an empty folder, or resume=True to go on with that run"
            )
        return None

    def after_round(
        self,
        server_round: int,
        is_last: bool,
        save: Callable[[Arrays], dict[str, Any]],
    ) -> None:
        """Save the round if it is time: what `save` returns, and puts into arrays.

        Raises
        ------
        CheckpointError
            If no checkpoint can be written.
        """
        due = is_last or server_round % self.every == 0
        if self._checkpoints is not None and due:
            arrays: Arrays = {}
            meta = save(arrays)
            self._checkpoints.save(server_round, meta, arrays)

    def count_resume(self, saved: Checkpoint, before: int) -> int:
        """Return how often the run has gone on without its clients' states.

        Raises
        ------
        CheckpointError
            If that was too often for the numbers of versions.
        """
        logged = 0
        if self._checkpoints is not None:
            logged = self._checkpoints.log_resume(saved.server_round)
        count = max(before + 1, logged)
        if count > _MAX_RESUMES:
            raise CheckpointError(
                f"a run can be resumed {_MAX_RESUMES} times: start a new one with the "
                "model of this checkpoint"
            )
        return count


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
            raise RoundFailedError(
                f"all {len(reasons)} clients that answered reported an error{often}: "
                + " | ".join(distinct[:3])
            )


def check_same_run(own: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Raise ConfigurationError if a checkpoint's ``"run"`` differs from `own`."""
    saved = {name: checkpoint.meta["run"].get(name) for name in own}
    found = list(islice(differences(saved, own), _MOST_DIFFERENCES))
    if found:
        raise ConfigurationError(
            f"{checkpoint.path} is of another run: {'; '.join(found)}. Give another "
            "checkpoint_dir, or the run's own settings"
        )


def save_metrics(result: Result) -> dict[str, list[list[Any]]]:
    """Return all metrics of a result, for JSON."""
    return {
        name: [[number, dict(row)] for number, row in rows.items()]
        for name, rows in _metrics_of(result).items()
    }


def restore_metrics(result: Result, saved: dict[str, list[list[Any]]]) -> None:
    """Put what :func:`save_metrics` gave into a result."""
    for name, rows in _metrics_of(result).items():
        for number, row in saved[name]:
            rows[number] = MetricRecord(row)


def _metrics_of(result: Result) -> dict[str, dict[int, MetricRecord]]:
    return {
        "train": result.train_metrics_clientapp,
        "evaluate": result.evaluate_metrics_clientapp,
        "evaluate_at_server": result.evaluate_metrics_serverapp,
    }
