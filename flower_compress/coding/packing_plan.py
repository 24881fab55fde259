"""Which digits a vector's symbols are written in.

The choice is the encoder's alone: a decoder takes any. It is a function of the symbols,
so an encoding can be repeated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from .packing import GROUPS, Packing
from .sampling import sample_runs
from .symbols import Integers, nonzero_mask

__all__ = ["ByteCoder", "plan_all", "plan_packing"]

# Zeros rarer than this are escaped where the alphabet has no zero else.
_RARE_ZERO = 1 / 256
# What the time is worth that it takes to close a gap, in bits a symbol.
_PER_GAP = 0.005
# The bulk of a wide alphabet, all but two tails, is narrowed to 2^7 levels: with ten
# levels to a standard deviation the low bits are uniform to 0.1 %.
_TAIL = 1 / 1024
_BULK_LOG2 = 7
_MORE_SHIFTS = 6
# A histogram has no more levels than this, or twice as many.
_MAX_LEVELS_LOG2 = 18


@dataclass(frozen=True)
class ByteCoder:
    """What a code that works on bytes costs, in bits.

    Time counts too: both ends together take about 13 ns for a byte, in which a network
    of 20 Mbit/s carries a quarter of a bit.

    Parameters
    ----------
    per_byte : float
        The time of a byte, beside that of its bits.
    per_bit : float
        The time of a bit beyond that of a bit that is not coded.
    per_escape : float
        The time of an escape, and what it takes beyond its entropy.
    table_bytes : float
        Length of a table, in bytes per byte value that occurs.
    table_every : float
        Number of bytes for which a table holds.
    whole_bits : bool
        Whether each byte takes a whole number of bits.
    """

    per_byte: float
    per_bit: float
    per_escape: float
    table_bytes: float
    table_every: float
    whole_bits: bool

    def packing_bits(self, group: int, digits: int, top: float, count: int) -> float:
        """Return the cost of a digit beyond its entropy.

        Parameters
        ----------
        group : int
            Number of digits in a byte.
        digits : int
            Number of digits that occur.
        top : float
            Frequency of the most frequent digit.
        count : int
            Number of symbols.
        """
        size = min(count / group, self.table_every)
        tables = 8 * self.table_bytes * min(float(digits) ** group, size) / size
        cost = self.per_byte + tables
        likely = top**group
        if self.whole_bits and 0.4 < likely < 1.0:
            # The most frequent byte takes one bit, however frequent it is.
            rest = 1.0 - likely
            cost += 1 + likely * math.log2(likely) + rest * math.log2(rest)
        return cost / group


def plan_all(values: Integers) -> Packing:
    """Return a packing of `values`, at least one, that needs no escape."""
    lowest, highest = int(values.min()), int(values.max())
    shift = 0
    while (highest >> shift) - (lowest >> shift) > 255:
        shift += 1
    return Packing((highest >> shift) - (lowest >> shift) + 1, lowest >> shift, shift)


def plan_packing(values: Integers, coder: ByteCoder) -> Packing:
    """Return the packing of `values`, at least one, with the least estimated cost."""
    lowest, highest = int(values.min()), int(values.max())
    if lowest == highest:
        return Packing(1, lowest)
    coarse = max(0, (highest - lowest).bit_length() - _MAX_LEVELS_LOG2)
    lowest, highest = lowest >> coarse, highest >> coarse
    sample = sample_runs(values) >> coarse
    # The whole range: a rare level may be missing from the sample.
    counts = _count_levels(sample, lowest, highest - lowest + 1)
    plans = [(False, True, counts)]
    inner = coarse == 0 and lowest < 0 < highest
    if inner and counts[-lowest] < _RARE_ZERO * sample.size:
        covers = np.count_nonzero(nonzero_mask(values)) == values.size
        plans.append((True, covers, np.delete(counts, -lowest)))
    found = [
        _plan_levels(left, lowest, coarse, gap, covers, values.size, coder)
        for gap, covers, left in plans
    ]
    return min(found, key=lambda plan: plan[1])[0]


def _count_levels(sample: Integers, lowest: int, size: int) -> NDArray[np.int64]:
    """Return how often each of `size` levels from the lowest on occurs."""
    fast = compiled("counts", sample.size)
    if fast is not None:
        counts: NDArray[np.int64] = fast.count_levels(sample, lowest, size)
        return counts
    return np.bincount(sample.astype(np.int64) - lowest, minlength=size)


def _plan_levels(
    counts: NDArray[np.int64],
    lowest: int,
    coarse: int,
    gap: bool,
    covers: bool,
    size: int,
    coder: ByteCoder,
) -> tuple[Packing, float]:
    """Return the best packing of `size` symbols with these counts, and its cost.

    `counts` are those of lowest, lowest + 1, ... after `coarse` low bits are taken off;
    `covers` says whether all symbols are among them.
    """
    best, least = (1, lowest, 0, False, False), math.inf
    min_shift, total = _min_shift(counts), counts.sum()
    for shift in range(min_shift, min_shift + _MORE_SHIFTS):
        first, levels = _levels(counts, total, lowest, shift)
        occurring = levels[levels > 0]
        entropy = -float(occurring @ np.log2(occurring))
        base_cost = coarse + shift + (1 + coder.per_bit) * entropy + _PER_GAP * gap
        if base_cost > least:
            break
        sums = np.concatenate(([0.0], levels.cumsum()))
        top = float(levels.max())
        windows: dict[int, tuple[int, float]] = {}
        for group, base in GROUPS:
            escape = not covers or levels.size > base
            window = min(base - escape, levels.size)
            if window == levels.size:
                windows[window] = 0, max(0.0, 1.0 - float(sums[-1]))
            elif window not in windows:
                mass = sums[window:] - sums[: sums.size - window]
                start = int(mass.argmax())
                windows[window] = start, max(0.0, 1.0 - float(mass[start]))
            start, outside = windows[window]
            digits = min(window, occurring.size) + (outside > 0)
            # The entropy of the digits and that of the escaped symbols add up to that
            # of the levels.
            cost = base_cost + outside * (coder.per_escape + coarse + shift)
            cost += coder.packing_bits(group, digits, max(top, outside), size)
            if cost < least:
                least = cost
                low = first + start
                best = window + escape, low, coarse + shift, gap, escape
    return Packing(*best), least


def _min_shift(counts: NDArray[np.int64]) -> int:
    """Return how many low bits to take off so that the bulk spans 128 levels."""
    if counts.size <= 2**_BULK_LOG2:
        return 0
    sums = counts.cumsum()
    tail = int(_TAIL * sums[-1])
    first, last = sums.searchsorted([tail, sums[-1] - tail - 1], side="right")
    return max(0, int(last - first).bit_length() - _BULK_LOG2)


def _levels(
    counts: NDArray[np.int64], total: np.int64, lowest: int, shift: int
) -> tuple[int, NDArray[np.float64]]:
    """Return the least high part and the frequency of each from there on."""
    if not shift:
        return lowest, counts / total
    first = lowest >> shift
    edges = np.arange(first << shift, lowest + counts.size, 1 << shift) - lowest
    return first, np.add.reduceat(counts, np.maximum(edges, 0)) / total
