"""A run as a file of JSON lines."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, TextIO

from flwr.serverapp.strategy import Result

from flower_compress.errors import WrongTypeError

from .base import Callback, ClientEvent, RoundMetrics, RunInfo

__all__ = ["JsonLines"]

_START = "start"


class JsonLines(Callback):
    """Appends a JSON object a line to a file: rounds, events, starts and ends.

    ``kind`` says what a line is of: ``"start"``, ``"round"``, ``"event"`` or ``"end"``.
    Each is in the file when the next step of the run begins, so that it can be followed
    with ``tail -f``. NaN and infinity, which JSON does not have, are null.

    A new run goes behind what there is, from its ``"start"`` on. A resumed one goes on
    where its checkpoint stands: lines on later rounds, and a torn last one, are cut
    out, for these rounds come again.

    Parameters
    ----------
    path : path
        The file; missing folders are made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise WrongTypeError("path", "the path of a file", path)
        self.path = Path(path)
        self._file: TextIO | None = None

    def on_start(self, run: RunInfo) -> None:
        """Open the file, and write who begins."""
        self._close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._cut(run.resumed_from)
        self._file = self.path.open("a", encoding="utf-8")
        self._write(
            {
                "kind": _START,
                "round": run.resumed_from,
                "strategy": run.name,
                "session": run.session,
                "num_rounds": run.num_rounds,
            }
        )

    def on_round(self, server_round: int, metrics: RoundMetrics) -> None:
        """Write a round."""
        self._write(
            {
                "kind": "round",
                "round": server_round,
                "seconds": metrics.seconds,
                "train": dict(metrics.train),
                "evaluate": dict(metrics.evaluate),
                "server": dict(metrics.evaluate_at_server),
                "uplink": metrics.uplink.numbers(),
                "downlink": metrics.downlink.numbers(),
                "clients": dict(metrics.clients),
            }
        )

    def on_event(self, event: ClientEvent) -> None:
        """Write an event."""
        self._write(
            {
                "kind": "event",
                "round": event.server_round,
                "event": event.kind,
                "identity": event.identity,
                "node": event.node_id,
                "reason": event.reason,
            }
        )

    def on_end(self, result: Result, error: BaseException | None) -> None:
        """Write how it ended, and close the file."""
        told = None if error is None else f"{type(error).__name__}: {error}"
        self._write({"kind": "end", "error": told})
        self._close()

    def _write(self, row: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(_plain(row), allow_nan=False) + "\n")
            self._file.flush()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _cut(self, last_round: int) -> None:
        """Leave out what comes again: of the newest run, what is after a round."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n")]
        if last_round:
            rows = [json.loads(line) for line in kept]
            begun = max(
                (
                    i
                    for i, row in enumerate(rows)
                    if row["kind"] == _START and not row["round"]
                ),
                default=0,
            )
            kept = [
                line
                for i, (line, row) in enumerate(zip(kept, rows, strict=True))
                if i < begun or row.get("round", 0) <= last_round
            ]
        if kept != lines:
            changed = self.path.with_name(f"{self.path.name}.part")
            changed.write_text("".join(kept), encoding="utf-8")
            changed.replace(self.path)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
