"""Keep the entries of largest magnitude.

Source: Stich, Cordonnier & Jaggi, "Sparsified SGD with memory" (NeurIPS 2018).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..errors import ConfigurationError
from ..streams import Stream
from .base import (
    Compressed,
    Compressor,
    Vector,
    check_integer,
    check_probability,
    require_finite,
)
from .sparse import scatter, support

__all__ = ["TopK"]


@dataclass(frozen=True)
class TopK(Compressor):
    """C(x) holds the k entries of x of largest magnitude; biased.

    ||C(x) - x||^2 <= (1 - k/d) ||x||^2, so the contraction is k/d.

    Parameters
    ----------
    k : int, optional
        How many entries are kept; at most d of them are.
    fraction : float, optional
        Instead of `k`: ceil(fraction * d) entries are kept, 0 < fraction <= 1.
    """

    k: int | None = None
    fraction: float | None = None

    name: ClassVar[str] = "top-k"
    wire_id: ClassVar[int] = 4
    unbiased: ClassVar[bool] = False
    _wire: ClassVar[struct.Struct] = struct.Struct("<Id")

    def __post_init__(self) -> None:
        if (self.k is None) == (self.fraction is None):
            raise ConfigurationError(
                f"give exactly one of k and fraction, got k={self.k} and "
                f"fraction={self.fraction}"
            )
        if self.k is not None:
            check_integer("k", self.k, 2**32 - 1)
        if self.fraction is not None:
            check_probability("fraction", self.fraction)

    def compress(self, x: Vector, stream: Stream) -> Compressed:
        """Select the support; zeros are never sent."""
        require_finite(x)
        kept = self._count(x.size)
        if kept < x.size:
            order = np.argpartition(np.abs(x), x.size - kept)
            positions = np.sort(order[x.size - kept :])
        else:
            positions = np.arange(x.size)
        positions = positions[x[positions] != 0]
        return Compressed(x.size, x[positions], support(x.size, positions))

    def decompress(self, compressed: Compressed) -> Vector:
        """Return the kept entries in their places."""
        return scatter(compressed)

    def alphabet(self) -> tuple[int, int]:
        """1 where an entry is kept."""
        return 0, 1

    def num_values(self, dim: int, num_nonzero: int) -> int:
        """One value a kept entry."""
        return num_nonzero

    def contraction(self, dim: int) -> float:
        """Return k / d."""
        return self._count(dim) / dim if dim else 1.0

    def _count(self, dim: int) -> int:
        if self.k is not None:
            return min(self.k, dim)
        return math.ceil((self.fraction or 0.0) * dim)

    def _wire_values(self) -> tuple[Any, ...]:
        return self.k or 0, self.fraction or 0.0

    @classmethod
    def _from_wire_values(cls, *values: Any) -> TopK:
        k, fraction = values
        return cls(k or None, fraction or None)
