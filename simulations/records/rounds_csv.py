"""``rounds.csv``: one row per logged round, written while the run goes on."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TextIO

from flower_compress.errors import ConfigurationError, FlowerCompressError

from .csv_field import to_field
from .record import RoundRecord

__all__ = ["RecordsError", "RoundsCsv", "read_rounds"]

_ELSEWHERE: Final = ("nodes", "seconds")
_HEADER: Final = tuple(f.name for f in fields(RoundRecord) if f.name not in _ELSEWHERE)
_OPTIONAL: Final = (
    "uplink_entropy_bits",
    "downlink_entropy_bits",
    "uplink_formula_bits",
    "downlink_formula_bits",
)
_EARLIER: Final = tuple(name for name in _HEADER if name not in _OPTIONAL)
_FLOATS: Final = ("loss", "accuracy")
_INTEGERS: Final = (
    "seed",
    "round",
    "uplink_bytes",
    "downlink_bytes",
    "uplink_bits",
    "downlink_bits",
)


class RecordsError(FlowerCompressError, ValueError):
    """A rounds file that cannot be read."""


class RoundsCsv:
    """``rounds.csv``, written row by row. A context manager.

    The header is the names of :class:`RoundRecord`'s fields, in their order. Floats
    are written with the digits that give the same float back, what is not known is an
    empty field. Each row is on its way to the disk when :meth:`write` returns.

    Parameters
    ----------
    path : Path or str
        The file, replaced if it exists; missing folders are made.

    Examples
    --------
    >>> with RoundsCsv(out / "rounds.csv") as rounds:  # doctest: +SKIP
    ...     rounds.write(record)
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w", encoding="utf-8", newline="")
        self._write_row(_HEADER)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, record: RoundRecord) -> None:
        """Append one row.

        Raises
        ------
        ConfigurationError
            The file is not open.
        """
        self._write_row([to_field(getattr(record, name)) for name in _HEADER])

    def _write_row(self, row: Sequence[str]) -> None:
        if self._file is None:
            raise ConfigurationError(
                f"{self._path} is not open: write inside `with RoundsCsv(path) as "
                f"rounds:`"
            )
        csv.writer(self._file, lineterminator="\n").writerow(row)
        self._file.flush()


def read_rounds(path: Path | str) -> list[RoundRecord]:
    """Read the rows that :class:`RoundsCsv` wrote, in their order.

    Files of versions without entropy and formula bits lack those columns. A last row
    that an interrupted run left unfinished (no end of line) is dropped.

    Raises
    ------
    RecordsError
        The header or a row is not one of a rounds file.
    """
    text = Path(path).read_text(encoding="utf-8")
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    if tuple(rows.fieldnames or ()) not in (_HEADER, _EARLIER):
        raise RecordsError(
            f"{path}: expected the header {','.join(_HEADER)}, came "
            f"{','.join(rows.fieldnames or ())!r}: pass the rounds.csv of a run"
        )
    records = []
    for row in rows:
        try:
            records.append(_from_row(row))
        except (TypeError, ValueError) as error:
            raise RecordsError(
                f"{path}, line {rows.line_num}: expected numbers under "
                f"{','.join(_HEADER[1:])}, came {list(row.values())}: {error}"
            ) from error
    return records


def _from_row(row: Mapping[str, str]) -> RoundRecord:
    values: dict[str, Any] = {name: int(row[name]) for name in _INTEGERS}
    values |= {name: float(row[name]) for name in _FLOATS}
    values |= {name: int(row[name]) for name in _OPTIONAL if row.get(name)}
    excess = row["excess_loss"]
    values["excess_loss"] = float(excess) if excess else None
    return RoundRecord(algorithm=row["algorithm"], **values)
