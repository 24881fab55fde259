"""Entries beside the positions of a set, which NumPy finds by a mask."""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel

__all__ = ["fill_around"]


@kernel
def fill_around(positions: Any, other: int, inner: Any, out: Any) -> None:
    """Write `other` at ascending `positions` of `out`, and `inner` in order around."""
    place = taken = 0
    for i in range(positions.size):
        end = np.int64(positions[i])
        while place < end:
            out[place] = inner[taken]
            place += 1
            taken += 1
        out[place] = other
        place += 1
    while place < out.size:
        out[place] = inner[taken]
        place += 1
        taken += 1
