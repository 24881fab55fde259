"""Keep each entry with a fixed probability."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar

from ..streams import Draws
from .arrays import Array, ArrayOps
from .checks import check_probability, require_scales
from .sparse import Sparsifier
from .tables import Part

__all__ = ["RandomSparsifier"]


@dataclass(frozen=True, repr=False)
class RandomSparsifier(Sparsifier):
    """C(x)_i = x_i / p with probability p, else 0; omega = (1 - p) / p.

    Parameters
    ----------
    p : float
        Probability in (0, 1] that an entry is kept.
    """

    p: float = 0.1

    name: ClassVar[str] = "random-sparsifier"
    wire_id: ClassVar[int] = 3
    entrywise: ClassVar[bool] = True
    _wire: ClassVar[struct.Struct] = struct.Struct("<d")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability("p", self.p)

    def _omega(self, width: int) -> float:
        return (1.0 - self.p) / self.p

    def _mean_nonzeros(self, width: int) -> float:
        return self.p * width

    def _compress(
        self, table: Array, draws: Draws, ops: ArrayOps, out: Array | None
    ) -> Part:
        """Draw the support; zeros are never sent."""
        x = table.reshape(-1)
        positions = ops.positions(ops.bernoulli(self.p, len(x), draws) & (x != 0))
        values = ops.divide(ops.float64(x[positions]), self.p)
        require_scales(values, ops)
        return self._kept(positions, ops.float32(values), ops)
