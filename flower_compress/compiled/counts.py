"""How often each level occurs, as the choice of a packing asks for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel

__all__ = ["count_levels"]

_FEW = 1 << 12


@kernel
def count_levels(values: Any, lowest: int, size: int) -> Any:
    """Return how often each of lowest, lowest + 1, ... occurs, `size` of them."""
    # Few levels in four tables: equal neighbours need not wait for each other.
    tables = 4 if size <= _FEW else 1
    counts = np.zeros((tables, size), dtype=np.int64)
    for i in range(values.size):
        level = np.int64(values[i]) - lowest
        if 0 <= level < size:
            counts[i & (tables - 1), level] += 1
    for k in range(1, tables):
        for n in range(size):
            counts[0, n] += counts[k, n]
    return counts[0]
