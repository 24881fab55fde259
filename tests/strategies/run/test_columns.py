"""Columns of a checkpoint give back what they were given, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flower_compress.errors import CheckpointError
from flower_compress.strategies.run.checkpoint import Arrays, Checkpoint, Checkpoints
from flower_compress.strategies.run.columns import (
    restore_integers,
    restore_rows,
    save_integers,
    save_rows,
)

KINDS = {"count": "u4", "weight": "f8", "held": "i8", "told": "?"}
LARGEST = 2**32 - 1


@dataclass
class Row:
    count: int
    weight: float
    held: int | None
    told: bool

    @property
    def values(self) -> tuple[Any, ...]:
        return self.count, self.weight, self.held, self.told


ROWS = [Row(0, 0.1, None, True), Row(LARGEST, 2.0**100, LARGEST, False)]


def saved(arrays: Arrays, folder: Path) -> Checkpoint:
    return Checkpoint.open(Checkpoints(folder).save(1, {}, arrays))


def test_rows_come_back_or_are_refused(tmp_path: Path) -> None:
    for rows in (ROWS, []):
        arrays: Arrays = {}
        save_rows(rows, KINDS, arrays, "a")
        checkpoint = saved(arrays, tmp_path)
        back = list(restore_rows(checkpoint, KINDS, "a", len(rows)))
        assert back == [row.values for row in rows]
        assert [list(map(type, row)) for row in back] == [
            list(map(type, row.values)) for row in rows
        ]
        with pytest.raises(CheckpointError, match="another model"):
            list(restore_rows(checkpoint, KINDS, "a", len(rows) + 1))
    for name, column in (
        ("a/weight", np.array([1.0, np.nan])),
        ("a/held", np.array([-2, 0])),
        ("a/held", np.array([2**32, 0])),
    ):
        arrays = {}
        save_rows(ROWS, KINDS, arrays, "a")
        arrays[name] = column
        with pytest.raises(ValueError, match=name):
            list(restore_rows(saved(arrays, tmp_path), KINDS, "a", 2))


def test_integers_of_any_size_come_back(tmp_path: Path) -> None:
    for numbers, is_array in (
        ([], True),
        ([-(2**63), 2**63 - 1], True),
        ([0, 2**64 - 1], True),
        ([-1, 2**63], False),
        ([10**30], False),
    ):
        arrays: Arrays = {}
        meta = save_integers(numbers, arrays, "n")
        assert (meta == []) == is_array
        assert restore_integers(meta, saved(arrays, tmp_path), "n") == numbers
    with pytest.raises(ValueError, match="whole numbers as n"):
        restore_integers([1.5], saved({}, tmp_path), "n")
