"""How many entries an operator keeps: a number, or a fraction."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import ConfigurationError
from .bucketed import Bucketed
from .checks import check_integer, check_probability

__all__ = ["Count"]


@dataclass(frozen=True, repr=False)
class Count(Bucketed):
    """Either `k` entries of each bucket, or a `fraction` of them, rounded up."""

    k: int | None = None
    fraction: float | None = None

    _wire: ClassVar[struct.Struct] = struct.Struct("<Id")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.k is None) == (self.fraction is None):
            raise ConfigurationError(
                f"give exactly one of k and fraction, got k={self.k} and "
                f"fraction={self.fraction}"
            )
        if self.k is not None:
            check_integer("k", self.k, 2**32 - 1)
        if self.fraction is not None:
            check_probability("fraction", self.fraction)

    def _count(self, width: int) -> int:
        if self.k is not None:
            return min(self.k, width)
        return math.ceil((self.fraction or 0.0) * width)

    def _share(self, width: int) -> float:
        """Return the least fraction kept of any bucket of at most `width` entries.

        The last bucket may keep less than the others: of 10 entries and a fraction of
        1/4 are 3 kept, of the 8 after them 2.
        """
        if self.fraction is None or (self.bucket_size is None and self.per == "model"):
            return self._count(width) / width
        return self.fraction

    def _wire_values(self) -> tuple[Any, ...]:
        return self.k or 0, self.fraction or 0.0

    @classmethod
    def _parameters(cls, *values: Any) -> tuple[Any, ...]:
        k, fraction = values
        return k or None, fraction or None
