"""What a folder of results holds, read back: for pages that join several of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flower_compress.errors import ConfigurationError

from ..records import RecordsError, RoundRecord, Summary, is_decentralized, read_rounds

__all__ = ["Result", "read_result"]


@dataclass(frozen=True, eq=False)
class Result:
    """An experiment's files.

    Attributes
    ----------
    name : str
        Of the folder.
    summary : Summary
        Its ``summary.json``.
    records : list[RoundRecord]
        Its ``rounds.csv``.
    """

    name: str
    summary: Summary
    records: list[RoundRecord]

    @property
    def title(self) -> str:
        """What it shows."""
        return str(self._settings.get("experiment", self.name))

    @property
    def source(self) -> str:
        """The paper, and its table or figure; empty if it is of none."""
        return str(self._settings.get("source", ""))

    @property
    def decentralized(self) -> bool:
        """Whether there is no server."""
        return is_decentralized(self.summary)

    @property
    def clients_per_round(self) -> float:
        """How many clients share the bytes of a round.

        Raises
        ------
        ConfigurationError
            If the settings do not tell.
        """
        for key in ("clients-per-round", "num-clients", "clients"):
            value = self._settings.get(key)
            if isinstance(value, int | float) and value > 0:
                return float(value)
        raise ConfigurationError(
            f"{self.name}: expected the settings to tell how many clients share the "
            "bytes of a round, got none: leave this folder out"
        )

    @property
    def _settings(self) -> Mapping[str, Any]:
        return self.summary["settings"]


def read_result(folder: Path) -> Result:
    """Read the files of an experiment that has ended.

    Raises
    ------
    ConfigurationError
        If they are not there, or are those of something else.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        records = read_rounds(folder / "rounds.csv")
        if not (summary["algorithms"] and isinstance(summary["settings"], dict)):
            raise ValueError("a summary of no runs")
    except (OSError, ValueError, KeyError, TypeError, RecordsError) as error:
        raise ConfigurationError(
            f"expected {folder} to hold summary.json and rounds.csv of an experiment "
            f"that has ended, got {error}"
        ) from error
    return Result(folder.resolve().name, cast(Summary, summary), records)
