"""Arithmetic on long vectors, in blocks that stay in the processor's cache.

The numbers are those of the plain NumPy expression, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from flower_compress.compressors import Vector
from flower_compress.wire.mail import Estimate

__all__ = ["add_scaled", "averaged", "difference", "scaled"]

_BLOCK = 1 << 15


def scaled(vector: NDArray[np.floating], weight: float) -> Estimate:
    """Return weight * vector in float64, shape (d,)."""
    result: Estimate = np.multiply(vector, weight, dtype=np.float64)
    return result


def add_scaled(total: Estimate, vector: NDArray[np.floating], weight: float) -> None:
    """Add weight * vector to `total` in place, in float64."""
    scratch = np.empty(min(_BLOCK, total.size))
    for block in _blocks(total.size):
        part = scratch[: block.stop - block.start]
        np.multiply(vector[block], weight, out=part, dtype=np.float64)
        total[block] += part


def difference(z: Vector, y: Estimate) -> Vector:
    """Return z - y, taken in float64, rounded to float32."""
    result = np.empty(z.size, np.float32)
    scratch = np.empty(min(_BLOCK, z.size))
    for block in _blocks(z.size):
        part = scratch[: block.stop - block.start]
        np.subtract(z[block], y[block], out=part, dtype=np.float64)
        result[block] = part
    return result


def averaged(
    z: Vector, s: Estimate, y: NDArray[np.floating], weight: float, gamma: float
) -> Vector:
    """Return z + gamma (s - weight y), in float64, rounded to float32."""
    result = np.empty(z.size, np.float32)
    scratch = np.empty(min(_BLOCK, z.size))
    for block in _blocks(z.size):
        part = scratch[: block.stop - block.start]
        np.multiply(y[block], weight, out=part, dtype=np.float64)
        np.subtract(s[block], part, out=part)
        part *= gamma
        part += z[block]
        result[block] = part
    return result


def _blocks(size: int) -> Iterator[slice]:
    for start in range(0, size, _BLOCK):
        yield slice(start, min(start + _BLOCK, size))
