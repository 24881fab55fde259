"""No compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..streams import Stream
from .base import Compressed, Compressor, Vector, require_finite

__all__ = ["Identity"]


@dataclass(frozen=True)
class Identity(Compressor):
    """C(x) = x as float32; omega = 0."""

    name: ClassVar[str] = "identity"
    wire_id: ClassVar[int] = 1
    lossless: ClassVar[bool] = True

    def compress(self, x: Vector, stream: Stream) -> Compressed:
        """Return `x` itself."""
        require_finite(x)
        return Compressed(x.size, x)

    def decompress(self, compressed: Compressed) -> Vector:
        """Return x."""
        return compressed.values

    def alphabet(self) -> None:
        """There are no symbols."""
        return

    def num_values(self, dim: int, num_nonzero: int) -> int:
        """One value an entry."""
        return dim

    def omega(self, dim: int) -> float:
        """Return 0."""
        return 0.0
