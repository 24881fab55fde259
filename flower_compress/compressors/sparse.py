"""What every operator that keeps some entries shares."""

from __future__ import annotations

from ..streams import Draws
from .arrays import Array, ArrayOps
from .bucketed import Bucketed
from .tables import Part

__all__ = ["Sparsifier"]


class Sparsifier(Bucketed):
    """Keeps some entries: the symbol is 1 where one is kept, the values are they."""

    def alphabet(self, dim: int) -> tuple[int, int]:
        """1 where an entry is kept."""
        return 0, 1

    @staticmethod
    def _kept(positions: Array, values: Array, ops: ArrayOps) -> Part:
        """Return the values and a support of that many ones."""
        return Part(values, ops.narrow(positions >= 0, 0, 1), positions)

    def _decompress(
        self, part: Part, rows: int, width: int, draws: Draws | None, ops: ArrayOps
    ) -> Array:
        return ops.scatter(rows * width, _support(part, ops), part.values)

    def _num_values(
        self, rows: int, width: int, entries: Array | None, ops: ArrayOps
    ) -> int:
        return 0 if entries is None else ops.count(entries != 0)


def _support(part: Part, ops: ArrayOps) -> Array:
    if part.positions is not None:
        return part.positions
    return ops.positions(part.symbols().reshape(-1))
