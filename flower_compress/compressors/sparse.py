"""What every operator that keeps some entries shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..coding import Symbols
from ..errors import ConfigurationError
from .base import Compressed, Vector

__all__ = ["scatter", "support"]


def support(dim: int, positions: NDArray[np.int64]) -> Symbols:
    """Return the 0/1 vector that is 1 at `positions`."""
    return Symbols(dim, 0, 1, np.ones(positions.size, dtype=np.int8), positions)


def scatter(compressed: Compressed) -> Vector:
    """Return the vector with the values at its support, zero elsewhere."""
    if compressed.symbols is None:
        raise ConfigurationError("a sparse vector needs its support")
    result = np.zeros(compressed.dim, dtype=np.float32)
    result[compressed.symbols.sparse()[0]] = compressed.values
    return result
