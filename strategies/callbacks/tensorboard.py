"""A run in TensorBoard."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from flwr.serverapp.strategy import Result

from flower_compress.errors import MissingExtraError, WrongTypeError

from .base import Callback, ClientEvent, RoundMetrics, RunInfo

__all__ = ["TensorBoard"]


class TensorBoard(Callback):
    """Writes every number of :meth:`RoundMetrics.scalars`, and events as text.

    Needs the extra ``tensorboard`` (``tensorboardX`` writes the files, without torch;
    ``tensorboard --logdir`` shows them). A resumed run goes on in the same folder; what
    is there of rounds after its checkpoint is hidden.

    Parameters
    ----------
    log_dir : path
        The folder, one for each run.

    Raises
    ------
    MissingExtraError
        If ``tensorboardX`` is not installed.
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        if not isinstance(log_dir, (str, os.PathLike)) or not os.fspath(log_dir):
            raise WrongTypeError("log_dir", "the path of a folder", log_dir)
        self.log_dir = os.fspath(log_dir)
        try:
            self._make = import_module("tensorboardX").SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboardX", "tensorboard") from error
        self._writer: Any = None

    def on_start(self, run: RunInfo) -> None:
        """Open a file in the folder."""
        first = run.resumed_from + 1 if run.resumed_from else None
        self._writer = self._make(self.log_dir, purge_step=first)

    def on_round(self, server_round: int, metrics: RoundMetrics) -> None:
        """Write the numbers of a round."""
        for name, number in metrics.scalars():
            self._writer.add_scalar(name, number, server_round)
        self._writer.flush()

    def on_event(self, event: ClientEvent) -> None:
        """Write the line of an event."""
        self._writer.add_text(f"clients/{event.kind}", str(event), event.server_round)

    def on_end(self, result: Result, error: BaseException | None) -> None:
        """Close the file."""
        self._writer.close()
