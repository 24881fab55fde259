"""The largest magnitudes of a NumPy table."""

from __future__ import annotations

from typing import Any

import numpy as np

from .numpy_blocks import BLOCK
from .ops import Array

__all__ = ["top_k"]

_SAMPLE = 1 << 14


def top_k(table: Array, k: int) -> Array:
    """Return :meth:`ArrayOps.top_k`."""
    rows, width = table.shape
    if rows == 1:
        return _of_one_row(table[0], k)
    magnitudes = np.abs(table)
    magnitudes.partition(width - k, axis=1)
    thresholds = magnitudes[:, width - k, None].copy()
    np.abs(table, out=magnitudes)
    kept = magnitudes > thresholds
    missing = k - np.count_nonzero(kept, axis=1)
    ties = magnitudes == thresholds
    kept |= ties & (ties.cumsum(axis=1) <= missing[:, None])
    return np.flatnonzero(kept)


def _of_one_row(x: Array, k: int) -> Array:
    """Positions of the k largest magnitudes of a long vector, ascending.

    A sample gives a threshold that a few more than k entries are likely to pass; only
    those are partitioned. If fewer than k pass, all are.
    """
    dim = x.size
    candidates, magnitudes = None, None
    if dim >= 8 * _SAMPLE and 8 * k <= dim:
        sample = np.abs(x[:: dim // _SAMPLE])
        expected = sample.size * k / dim
        # Six standard deviations of how many of the k lie in the sample.
        rank = int(expected + 6.0 * expected**0.5 + 6.0)
        if rank < sample.size:
            sample.partition(sample.size - rank)
            candidates = _above(x, sample[sample.size - rank])
            if candidates.size < k:
                candidates = None
    magnitudes = np.abs(x if candidates is None else x[candidates])
    ordered = np.partition(magnitudes, magnitudes.size - k)
    threshold = ordered[magnitudes.size - k]
    kept = np.flatnonzero(magnitudes > threshold)
    missing = k - kept.size
    if missing:
        ties = np.flatnonzero(magnitudes == threshold)[:missing]
        kept = np.sort(np.concatenate((kept, ties)))
    return kept if candidates is None else candidates[kept]


def _above(x: Array, threshold: Any) -> Array:
    """Positions where |x| >= threshold, block by block."""
    parts = []
    for start in range(0, x.size, BLOCK):
        found = np.flatnonzero(np.abs(x[start : start + BLOCK]) >= threshold)
        parts.append(found + start)
    return np.concatenate(parts)
