"""A run as a file of JSON lines."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from flwr.serverapp.strategy import Result

from flower_compress.errors import WrongTypeError

from .base import Callback, ClientEvent, RoundMetrics, RunInfo

__all__ = ["JsonLines"]

_START = "start"
_BEGINNING = '{"kind": "'
"""How each line begins, by which a torn one is known from what others wrote."""


class JsonLines(Callback):
    """Appends a JSON object a line to a file: rounds, events, starts and ends.

    ``kind`` says what a line is of: ``"start"``, ``"round"``, ``"event"`` or ``"end"``.
    Each is in the file when the next step of the run begins, so that it can be followed
    with ``tail -f``. NaN and infinity, which JSON does not have, are null.

    A new run goes behind what there is, from its ``"start"`` on. A resumed one goes on
    where its checkpoint stands: its lines on later rounds are cut out, for these rounds
    come again, and so is a torn last one. Lines of other runs stay as they are.

    Parameters
    ----------
    path : path
        The file; missing folders are made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise WrongTypeError("path", "the path of a file", path)
        self.path = Path(path)
        self._file: TextIO | None = None

    def on_start(self, run: RunInfo) -> None:
        """Open the file, and write who begins."""
        self._close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._cut(run)
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

    def _cut(self, run: RunInfo) -> None:
        """Leave out what comes again: what the run told after its checkpoint."""
        if not self.path.is_file():  # Of a pipe or a terminal, which end never, too.
            return
        found = self.path.read_text(encoding="utf-8")
        lines = found.splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            last = lines.pop()
            if not _BEGINNING.startswith(last[: len(_BEGINNING)]):
                lines.append(f"{last}\n")
        if run.resumed_from:
            lines = list(_without(lines, run))
        kept = "".join(lines)
        if kept != found:
            changed = self.path.with_name(f"{self.path.name}.part")
            changed.write_text(kept, encoding="utf-8")
            changed.replace(self.path)


def _without(lines: list[str], run: RunInfo) -> Iterator[str]:
    session = None
    for line in lines:
        row = _read(line)
        if row.get("kind") == _START:
            session = row.get("session")
        if session != run.session or row.get("round", 0) <= run.resumed_from:
            yield line


def _read(line: str) -> dict[str, Any]:
    """Return what a line says, nothing if it is not one of ours."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) and "kind" in row else {}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
