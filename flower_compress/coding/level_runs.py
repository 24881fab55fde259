"""The positions of each level among those that no earlier level has taken.

Levels are coded one after the other; what a level's entries leave is *open*. The
*index* of an entry of a level is the number of entries before it that are open when its
turn comes, so among the entries of that level and of all later ones. The two pairs of
functions here map symbols to indices and back:

- :func:`peel` and :func:`insert` do one level, in a few passes over what is open;
- :func:`split` and :func:`merge` do many levels at once, in as many passes over their
  entries as their number has bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .bits import BLOCK, Numbers
from .symbols import Integers

__all__ = ["insert", "merge", "peel", "split"]

Index = NDArray[np.int64]


def peel(entries: Integers, level: int, count: int) -> tuple[Numbers, Integers]:
    """Return the `count` indices of `level` in `entries`, and the other entries."""
    # Below 2^30 a sum of two indices is an int32, too.
    dtype = np.dtype(np.int32 if entries.size < 2**30 else np.int64)
    indices: Numbers = np.empty(count, dtype=dtype)
    rest = np.empty(entries.size - count, dtype=entries.dtype)
    found = 0
    for start in range(0, entries.size, BLOCK):
        part = entries[start : start + BLOCK]
        mask = part == level
        at = mask.nonzero()[0]
        np.add(at, start, out=indices[found : found + at.size], casting="same_kind")
        left = start - found
        found += at.size
        np.logical_not(mask, out=mask)
        others = mask.nonzero()[0]
        part.take(others, out=rest[left : left + others.size], mode="clip")
    return indices, rest


def insert(rest: Integers, indices: Numbers, level: int) -> Integers:
    """Return the entries of which :func:`peel` makes `indices` and `rest`."""
    entries = np.full(rest.size + indices.size, level, dtype=rest.dtype)
    starts = range(0, entries.size, BLOCK)
    bounds = indices.searchsorted(np.arange(0, entries.size + BLOCK, BLOCK)).tolist()
    mask = np.empty(BLOCK, dtype=bool)
    for i, start in enumerate(starts):
        part = entries[start : start + BLOCK]
        mask[:] = True
        mask[indices[bounds[i] : bounds[i + 1]] - start] = False
        others = mask[: part.size].nonzero()[0]
        left = start - bounds[i]
        part[others] = rest[left : left + others.size]
    return entries


def split(ranks: Index, outside: Index, num_ranks: int) -> Index:
    """Return for each entry how many of later ranks are before it, by rank.

    Parameters
    ----------
    ranks : NDArray[np.int64]
        Shape (k,), in order of position: 0 is coded first.
    outside : NDArray[np.int64]
        Shape (k,), how many open entries that are not among these are before each.
    num_ranks : int
        All ranks are smaller.

    Returns
    -------
    NDArray[np.int64]
        Shape (k,), ordered by rank and then by position; `outside` included.

    Notes
    -----
    Entries whose ranks agree but for the lowest bits form a group. From the highest bit
    down, those of a group with a zero count the ones before them, which come later,
    and the group is parted in two.
    """
    before = outside
    for bit in range((num_ranks - 1).bit_length() - 1, -1, -1):
        halves = ranks >> bit
        ones = halves & 1
        before = before + _before_in_group(ones, halves >> 1) * (1 - ones)
        order = halves.argsort(kind="stable")
        ranks, before = ranks.take(order), before.take(order)
    return before


def merge(ranks: Index, before: Index, num_ranks: int) -> tuple[Index, Index]:
    """Return ranks and `outside` of which :func:`split` makes `before`.

    `ranks` are those of `before`, ascending; they come back in order of position.
    """
    stride = 2 * (int(before.max(initial=0)) + before.size + 1)
    for bit in range((num_ranks - 1).bit_length()):
        halves = ranks >> bit
        ones = halves & 1
        # A one's index among the later entries against a zero's number of them before.
        index = _before_in_group(np.ones_like(ones), halves)
        keys = (halves >> 1) * stride + 2 * (before + ones * index) + ones
        order = keys.argsort(kind="stable")
        ranks, before, ones = ranks.take(order), before.take(order), ones.take(order)
        before -= _before_in_group(ones, ranks >> (bit + 1)) * (1 - ones)
    return ranks, before


def _before_in_group(bits: Index, groups: Index) -> Index:
    """Return the sum of the bits before each in its group; groups lie together."""
    sums: Index = np.add.accumulate(bits)
    sums -= bits
    starts = (groups[1:] != groups[:-1]).nonzero()[0] + 1
    if starts.size:
        # The sums do not descend: the latest start is the largest.
        at_start = np.zeros_like(sums)
        at_start[starts] = sums.take(starts)
        sums -= np.maximum.accumulate(at_start)
    return sums
