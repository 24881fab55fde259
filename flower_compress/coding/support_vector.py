"""MALCOM's code: the counts of the levels, then where each level is among the rest.

Source: MALCOM-PSGD, algorithm 3 and equation (13). In the paper's line 11 the last run
of a level is not encoded; here every run is, else there is nothing to decode. In its
line 6 the sum runs over the levels coded so far and the present one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptPacket
from .bit_code import BitCode
from .bit_reader import BitReader
from .bits import BLOCK, BitWriter, Numbers
from .golomb import (
    positions_num_bits,
    put_positions,
    put_varying_runs,
    take_positions,
    take_varying_runs,
    varying_runs_num_bits,
)
from .level_plan import LevelPlan, plan_levels
from .level_runs import insert, merge, peel, split
from .symbols import Integers, Symbols, symbol_dtype
from .universal import omegas_num_bits, put_omegas, take_omegas

__all__ = ["LevelPlan", "SupportVector", "plan_levels"]

Integer = NDArray[np.int64]

_LIGHT = 8


class SupportVector(BitCode):
    """The count of each level, then the runs of each level, commonest left out.

    For counts t of the levels low..high, which add up to d:

    1. t + 1 of each level, in ascending order, in Elias omega, as
       :mod:`~flower_compress.coding.universal` stores arrays.

    The levels that occur are ordered by descending count, of equal counts the lower
    level first. The first is implicit. The others are coded in that order; all entries
    are open at first, and those of a coded level are not any more. With n entries open,
    a level has t runs, each of the open entries between two of its own, Golomb-coded
    (:mod:`~flower_compress.coding.golomb`) with M = max(1, round(ln2 (n - t) / t)):

    2. one array of runs for each of the first levels, as long as t >= 4096 and
       128 t >= n;
    3. one array of the runs of all further levels, if any, one level after the other,
       each with its own M.

    The length is that of algorithm 3: the bits of every omega and Golomb code.
    """

    name: ClassVar[str] = "support-vector"
    wire_id: ClassVar[int] = 5

    def _write(self, symbols: Symbols, writer: BitWriter) -> None:
        counts = _counts(symbols)
        plan = plan_levels(counts, symbols.low, symbols.dim)
        put_omegas(writer, counts + 1)
        for numbers, parameter in _arrays(plan, symbols.dense()):
            if isinstance(parameter, int):
                put_positions(writer, numbers, parameter)
            else:
                put_varying_runs(writer, numbers, parameter)

    def _read(self, reader: BitReader, dim: int, low: int, high: int) -> Symbols:
        counts = take_omegas(reader, high - low + 1, dim + 1) - 1
        if int(counts.sum()) != dim:
            raise CorruptPacket(
                f"the counts add up to {int(counts.sum())}, expected {dim}"
            )
        plan = plan_levels(counts, low, dim)
        common = []
        num_open = dim
        for level, count, parameter in plan.common:
            indices = take_positions(reader, count, num_open, parameter)
            common.append((indices, level))
            num_open -= count
        rare = _take_rare(reader, plan, num_open)
        dtype = symbol_dtype(low, high)
        if int(counts[-low]) == dim:
            none = np.zeros(0, dtype=np.int64)
            return Symbols(dim, low, high, none.astype(dtype), none)
        entries = np.full(num_open, plan.implicit, dtype=dtype)
        if rare is not None:
            ranks, indices = rare
            entries[indices] = plan.levels[ranks]
        for indices, level in reversed(common):
            entries = insert(entries, indices, level)
        return Symbols(dim, low, high, entries)

    def num_bits(self, symbols: Symbols) -> int:
        """Return the exact length of the code in bits, without writing it."""
        counts = _counts(symbols)
        plan = plan_levels(counts, symbols.low, symbols.dim)
        total = omegas_num_bits(counts + 1)
        for numbers, parameter in _arrays(plan, symbols.dense()):
            if isinstance(parameter, int):
                total += positions_num_bits(numbers, parameter)
            else:
                total += varying_runs_num_bits(numbers, parameter)
        return total


def _counts(symbols: Symbols) -> Integer:
    """Return how often each level occurs, shape (high - low + 1,)."""
    low, size = symbols.low, symbols.high - symbols.low + 1
    counts = np.zeros(size, dtype=np.int64)
    entries = symbols.entries
    for start in range(0, entries.size, BLOCK):
        part = entries[start : start + BLOCK].astype(np.int64)
        part -= low
        found = np.bincount(part)
        counts[: found.size] += found
    if entries.size < symbols.dim:
        counts[-low] += symbols.dim - entries.size
    return counts


def _arrays(
    plan: LevelPlan, entries: Integers
) -> Iterator[tuple[Numbers, int | Integer]]:
    """Yield the indices and M of each level of step 2, then runs and M of step 3."""
    common = list(plan.common)
    # Below, levels of few entries cost less without the implicit ones in between.
    while common and _LIGHT * common[0][1] >= entries.size:
        level, count, parameter = common.pop(0)
        indices, entries = peel(entries, level, count)
        yield indices, parameter
    if not common and plan.levels.size == 0:
        return
    at = (entries != plan.implicit).nonzero()[0]
    levels = entries.take(at)
    outside = at - np.arange(at.size)
    for level, _, parameter in common:
        mask = levels == level
        at = mask.nonzero()[0]
        yield outside.take(at) + at, parameter
        at = np.logical_not(mask, out=mask).nonzero()[0]
        levels, outside = levels.take(at), outside.take(at)
    if plan.levels.size:
        yield _rare_runs(plan, levels, outside), plan.run_parameters()


def _rare_runs(plan: LevelPlan, levels: Integers, outside: Integer) -> Integer:
    """Return the runs of step 3; `outside` implicit entries are before each level."""
    lowest = int(plan.levels.min())
    table = np.zeros(int(plan.levels.max()) - lowest + 1, dtype=np.int64)
    table[plan.levels - lowest] = np.arange(plan.levels.size)
    ranks = table.take(levels.astype(np.int64) - lowest)
    before = split(ranks, outside, plan.levels.size)
    runs = before.copy()
    runs[1:] -= before[:-1]
    firsts = plan.counts.cumsum() - plan.counts
    runs[firsts] = before[firsts]
    return runs


def _take_rare(
    reader: BitReader, plan: LevelPlan, num_open: int
) -> tuple[Integer, Integer] | None:
    """Return the rank and the index of each entry of step 3, by position."""
    if plan.levels.size == 0:
        return None
    ends = plan.counts.cumsum()
    starts, others = ends - plan.counts, num_open - ends
    reader.require(int(ends[-1]))
    runs = take_varying_runs(reader, plan.run_parameters(), num_open)
    # In float64, because the sum of runs of strangers may overflow an int64.
    if (np.add.reduceat(runs, starts, dtype=np.float64) > others).any():
        raise CorruptPacket("a run leads beyond the end of the vector")
    sums = np.concatenate(([0], runs.cumsum()))
    before = sums[1:] - sums[starts].repeat(plan.counts)
    ranks, before = merge(plan.ranks(), before, plan.levels.size)
    before += np.arange(before.size)
    return ranks, before
