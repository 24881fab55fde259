"""No compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..streams import Draws
from .arrays import Array, ArrayOps
from .bucketed import Bucketed
from .tables import Part

__all__ = ["Identity"]


@dataclass(frozen=True, repr=False)
class Identity(Bucketed):
    """C(x) = x as float32; omega = 0."""

    name: ClassVar[str] = "identity"
    wire_id: ClassVar[int] = 1
    lossless: ClassVar[bool] = True
    entrywise: ClassVar[bool] = True

    def alphabet(self, dim: int) -> None:
        """There are no symbols."""
        return

    def _omega(self, width: int) -> float:
        return 0.0

    def _compress(
        self, table: Array, draws: Draws, ops: ArrayOps, out: Array | None
    ) -> Part:
        return Part(table.reshape(-1))

    def _decompress(
        self, part: Part, rows: int, width: int, draws: Draws | None, ops: ArrayOps
    ) -> Array:
        return part.values

    def _num_values(
        self, rows: int, width: int, entries: Array | None, ops: ArrayOps
    ) -> int:
        return rows * width
