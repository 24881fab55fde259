"""Keep the entries of largest magnitude.

Source: Stich, Cordonnier & Jaggi, "Sparsified SGD with memory" (NeurIPS 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..streams import Draws
from .arrays import Array, ArrayOps
from .count import Count
from .sparse import Sparsifier
from .tables import Part

__all__ = ["TopK"]


@dataclass(frozen=True, repr=False)
class TopK(Count, Sparsifier):
    """C(x) holds the k entries of x of largest magnitude; biased.

    ||C(x) - x||^2 <= (1 - k/d) ||x||^2, so the contraction is k/d. Of equal magnitudes
    the first are kept, and zeros are never sent.

    Parameters
    ----------
    k : int, optional
        How many entries are kept; at most d of them are.
    fraction : float, optional
        Instead of `k`: ceil(fraction * d) entries are kept, 0 < fraction <= 1.
    """

    name: ClassVar[str] = "top-k"
    wire_id: ClassVar[int] = 4

    @property
    def unbiased(self) -> bool:
        """Never."""
        return False

    def _contraction(self, width: int) -> float:
        return self._share(width)

    def _mean_nonzeros(self, width: int) -> float:
        return self._count(width)

    def _compress(
        self, table: Array, draws: Draws, ops: ArrayOps, out: Array | None
    ) -> Part:
        x, kept = table.reshape(-1), self._count(table.shape[1])
        if kept == table.shape[1]:
            positions = ops.positions(x != 0)
            return self._kept(positions, x[positions], ops)
        positions = ops.top_k(table, kept)
        values = x[positions]
        nonzero = values != 0
        if not nonzero.all():
            positions, values = positions[nonzero], values[nonzero]
        return self._kept(positions, values, ops)
