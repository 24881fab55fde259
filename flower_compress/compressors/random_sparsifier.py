"""Keep each entry with a fixed probability."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..streams import Stream
from .base import Compressed, Compressor, Vector, check_probability, require_finite
from .sparse import scatter, support

__all__ = ["RandomSparsifier"]


@dataclass(frozen=True)
class RandomSparsifier(Compressor):
    """C(x)_i = x_i / p with probability p, else 0; omega = (1 - p) / p.

    Parameters
    ----------
    p : float
        Probability in (0, 1] that an entry is kept, rounded up to a multiple of
        2^-24, as fine as the uniforms are.
    """

    p: float = 0.1

    name: ClassVar[str] = "random-sparsifier"
    wire_id: ClassVar[int] = 3
    _wire: ClassVar[struct.Struct] = struct.Struct("<d")

    def __post_init__(self) -> None:
        check_probability("p", self.p)

    def compress(self, x: Vector, stream: Stream) -> Compressed:
        """Draw the support with one uniform an entry; zeros are never sent."""
        require_finite(x)
        p = math.ceil(self.p * 2**24) / 2**24
        kept = (stream.uniforms(x.size) < np.float32(p)) & (x != 0)
        positions = np.flatnonzero(kept)
        with np.errstate(over="ignore"):
            values = (x[positions] / np.float64(p)).astype(np.float32)
        require_finite(values)
        return Compressed(x.size, values, support(x.size, positions))

    def decompress(self, compressed: Compressed) -> Vector:
        """Return the kept entries in their places."""
        return scatter(compressed)

    def alphabet(self) -> tuple[int, int]:
        """1 where an entry is kept."""
        return 0, 1

    def num_values(self, dim: int, num_nonzero: int) -> int:
        """One value a kept entry."""
        return num_nonzero

    def omega(self, dim: int) -> float:
        """Return (1 - p) / p."""
        return (1.0 - self.p) / self.p
