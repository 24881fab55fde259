"""A run's metrics beside its checkpoints: appended, never written twice."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path
from typing import Any, TypedDict

from flwr.app import MetricRecord
from flwr.serverapp.strategy import Result

from flower_compress.errors import CheckpointError

from .checkpoint import private_file

__all__ = ["Mark", "MetricsLog"]

_log = getLogger("flwr")
_NAME = "metrics.jsonl"


class Mark(TypedDict):
    """How far the file belongs to a checkpoint: its first bytes, with their CRC-32."""

    bytes: int
    crc: int


class MetricsLog:
    """The file ``metrics.jsonl`` of a run: a JSON object a line, oldest round first.

    ``{"kind": "train", "round": 3, "metrics": {...}}``, of kind ``"train"``,
    ``"evaluate"`` or ``"evaluate_at_server"``. What a round adds is appended before the
    checkpoint is written, which says how far the file belongs to it: what a run that
    was killed between the two, or went back to an earlier checkpoint, has written
    beyond is cut off.

    Parameters
    ----------
    folder : Path
        The folder of the checkpoints.

    Attributes
    ----------
    path : Path
        The file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / _NAME
        self._mark: Mark = {"bytes": 0, "crc": 0}
        self._saved_round = -1

    def append(self, result: Result, server_round: int) -> Mark:
        """Add the metrics since the last call; return the mark for the checkpoint.

        Raises
        ------
        CheckpointError
            If they cannot be written; the next call writes them too.
        """
        try:
            with private_file(self.path, "a+b") as file:
                size = file.seek(0, os.SEEK_END)
                if size < self._mark["bytes"]:  # Somebody has removed it.
                    self._mark, self._saved_round = {"bytes": 0, "crc": 0}, -1
                file.truncate(self._mark["bytes"])
                rows = _rows(result, self._saved_round + 1, server_round)
                data = b"".join(rows)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CheckpointError(
                f"cannot write {self.path} ({error}): make room, or give another folder"
            ) from error
        self._mark = {
            "bytes": self._mark["bytes"] + len(data),
            "crc": zlib.crc32(data, self._mark["crc"]),
        }
        self._saved_round = server_round
        return self._mark

    def read(self, mark: Mark) -> list[tuple[str, int, dict[str, Any]]]:
        """Return kind, round and metrics of every row that belongs to a checkpoint.

        Raises
        ------
        CheckpointError
            If the file is not there, or does not hold what belongs to it.
        """
        try:
            with self.path.open("rb") as file:
                data = file.read(mark["bytes"])
            if len(data) < mark["bytes"] or zlib.crc32(data) != mark["crc"]:
                raise ValueError("it was cut off or altered")
            lines = [json.loads(line) for line in data.splitlines()]
            return [(line["kind"], line["round"], line["metrics"]) for line in lines]
        except FileNotFoundError:
            if not mark["bytes"]:
                return []
            reason = "there is none"
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error)
        raise CheckpointError(
            f"{self.path} does not hold the {mark['bytes']} bytes of metrics that "
            f"belong to the checkpoint ({reason}): copy it together with the "
            "checkpoints"
        )

    def restore(self, mark: Mark, server_round: int, result: Result) -> None:
        """Put the rows of a checkpoint into a result, and go on after them.

        If they are lost, that is logged, and the run goes on without them.
        """
        try:
            rows = self.read(mark)
        except CheckpointError as error:
            _log.warning("The metrics of earlier rounds are lost: %s", error)
            return
        tables = _tables(result)
        for kind, number, metrics in rows:
            tables[kind][number] = MetricRecord(metrics)
        self._mark, self._saved_round = mark, server_round


def _rows(result: Result, first: int, last: int) -> Iterator[bytes]:
    tables = _tables(result)
    for number in range(first, last + 1):
        for kind, table in tables.items():
            if number in table:
                row = {"kind": kind, "round": number, "metrics": dict(table[number])}
                yield json.dumps(row).encode() + b"\n"


def _tables(result: Result) -> dict[str, dict[int, MetricRecord]]:
    return {
        "train": result.train_metrics_clientapp,
        "evaluate": result.evaluate_metrics_clientapp,
        "evaluate_at_server": result.evaluate_metrics_serverapp,
    }
