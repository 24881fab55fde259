"""Golomb codes of runs, and sets of positions by their runs.

Source: Golomb, "Run-length encodings" (1966); Gallager & Van Voorhis, "Optimal source
codes for geometrically distributed integer alphabets" (1975).

A run r >= 0 with parameter M >= 1 is its quotient r // M in unary (zeros and a one),
then its remainder s = r mod M in truncated binary: with b = ceil(log2 M) and
c = 2^b - M, b - 1 bits s if s < c, else b bits s + c. The length is
b + (r + M - c) // M bits.

An array of runs is stored as all quotients, then the first b - 1 bits of all remainders
as bit planes, then the last bits of those remainders that have b bits. M may differ
from run to run: then plane j has the runs with b - 1 > j.

Ascending positions are stored as runs: before each one, how many positions there are
since the one before.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptPacket
from .bit_reader import BitReader
from .bits import BLOCK, FEW, Bits, BitWriter, Numbers, unsigned_dtype
from .universal import floor_log2

__all__ = [
    "golomb_parameter",
    "positions_num_bits",
    "put_positions",
    "put_varying_runs",
    "take_positions",
    "take_varying_runs",
    "varying_runs_num_bits",
]

Positions = NDArray[np.int64]

_SHORT = 1024


@lru_cache(maxsize=1024)
def golomb_parameter(count: int, dim: int) -> int:
    """Return M for k = `count` >= 1 positions in [0, n), n = `dim`.

    The best M for geometric runs is the smallest with (1-p)^M + (1-p)^(M+1) <= 1 for
    p = k / n, which is close to ln2 / p + 0.153 + 0.083 p, rounded down. In integers,
    so that both ends agree on

    M = max(1, (45426 n^2 + 10055 n k + 5450 k^2) // (65536 n k)).

    No code of geometric runs is longer than with the best M by more than 0.01 %.
    """
    k, n = count, dim
    return max(1, (45426 * n * n + 10055 * n * k + 5450 * k * k) // (65536 * n * k))


def put_positions(writer: BitWriter, positions: Numbers, M: int) -> None:
    """Write the runs before each of `positions`, Golomb-coded with M."""
    if M == 1:
        _put_ones(writer, positions)
        return
    if positions[-1] < _SHORT:
        _put_short(writer, positions, M)
        return
    b = (M - 1).bit_length()
    c = (1 << b) - M
    firsts: list[Numbers] = []
    lasts: list[Bits] = []
    last = -1
    for start in range(0, positions.size, BLOCK):
        part = positions[start : start + BLOCK]
        words = _words(_gaps(part, last), M)
        last = part[-1]
        writer.put_unary(words[0])
        firsts.append(words[1])
        if c:
            lasts.append(words[2][words[3]])
    writer.put_planes(np.concatenate(firsts), b - 1 if c else b)
    for bits in lasts:
        writer.put(bits)


def _gaps(positions: Numbers, last: int) -> Numbers:
    """Return how far each position is from the one before, the first from `last`."""
    gaps = positions.copy()
    gaps[1:] -= positions[:-1]
    gaps[0] -= last
    return gaps


def _put_short(writer: BitWriter, positions: Numbers, M: int) -> None:
    """Write runs before `positions` below _SHORT from tables: faster for a few."""
    lengths, bits = _short_words(M)
    gaps = _gaps(positions, -1)
    writer.put_unary(lengths.take(gaps))
    words = bits.take(gaps, axis=1)
    writer.put(words[:-2].reshape(-1))
    writer.put(words[-2][words[-1].view(bool)])


def _words(gaps: Numbers, M: int) -> list[NDArray[Any]]:
    """Return the parts of the codewords of the runs r = `gaps` - 1.

    They are r // M + 1 and the first b - 1 bits of the remainder; its last bit and
    whether there is one; without the latter two if c = 0, then all b bits.
    """
    b = (M - 1).bit_length()
    c = (1 << b) - M
    remainders = gaps + (M - 1)
    lengths = remainders // M
    remainders -= lengths * M
    remainders = remainders.astype(unsigned_dtype(b))
    if c == 0:
        return [lengths, remainders]
    shifted = remainders + remainders.dtype.type(c)
    lasts = (shifted & 1).astype(np.uint8, copy=False)
    # s < (s + c) / 2 where s < c.
    return [lengths, np.minimum(remainders, shifted >> 1), lasts, remainders >= c]


@lru_cache(maxsize=256)
def _short_words(M: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the codewords of all gaps up to _SHORT.

    They are r // M + 1, and in columns the first bits of the remainder, its last bit,
    and whether there is one.
    """
    lengths, firsts, *lasts = _words(np.arange(_SHORT + 1), M)
    width = (M - 1).bit_length() - len(lasts) // 2
    planes = [firsts >> plane & 1 for plane in range(width - 1, -1, -1)]
    rows = [*planes, *(lasts or [np.zeros_like(lengths)] * 2)]
    return lengths, np.array(rows, dtype=np.uint8)


@lru_cache(maxsize=256)
def _short_lengths(M: int) -> NDArray[np.int64]:
    """Return the length of the codeword of each gap up to _SHORT."""
    b = (M - 1).bit_length()
    runs = np.arange(-1, _SHORT)
    return b + (runs + (2 * M - (1 << b))) // M


def take_positions(reader: BitReader, count: int, dim: int, M: int) -> Positions:
    """Read `count` positions in [0, dim), Golomb-coded with M.

    Raises
    ------
    CorruptPacket
        If a position lies outside, or the bits are cut off.
    """
    positions = reader.take_unary(count, count + (dim - count) // M)
    if M == 1 or count == 0:
        return positions
    b = (M - 1).bit_length()
    c = (1 << b) - M
    firsts = reader.take_planes(count, b - 1 if c else b)
    table = _short_steps(M) if count <= FEW and M <= _SHORT else None
    carry = M - 1
    # With s the remainders, the j-th end is j + sum_(i <= j) (r_i - s_i) / M.
    for start in range(0, count, BLOCK):
        part, first = positions[start : start + BLOCK], firsts[start : start + BLOCK]
        steps = _steps(first, M) if table is None else table.take(first)
        if c:
            long = (first >= c).nonzero()[0]
            steps[long] += reader.take(long.size)
        steps[0] += carry
        np.add.accumulate(steps, out=steps)
        part *= M
        part += steps
        carry = steps[-1]
    if int(positions[-1]) >= dim:
        raise CorruptPacket(
            f"position {int(positions[-1])} lies outside a vector of length {dim}"
        )
    return positions


def _steps(firsts: Numbers, M: int) -> NDArray[np.int64]:
    """Return the remainders less M - 1, without their last bits if c > 0."""
    b = (M - 1).bit_length()
    c = (1 << b) - M
    remainders = firsts.astype(unsigned_dtype(b))
    if c:
        # 2 s - c < s where s < c.
        doubled = remainders << 1
        remainders += remainders.dtype.type(c)
        np.maximum(remainders, doubled, out=remainders)
        remainders -= remainders.dtype.type(c)
    return remainders.astype(np.int64) - (M - 1)


@lru_cache(maxsize=256)
def _short_steps(M: int) -> NDArray[np.int64]:
    """Return :func:`_steps` of all first bits there are."""
    return _steps(np.arange(M), M)


def positions_num_bits(positions: Numbers, M: int) -> int:
    """Return the length of :func:`put_positions` in bits."""
    if positions.size == 0:
        return 0
    if M == 1:
        return int(positions[-1]) + 1
    if int(positions[-1]) < _SHORT:
        lengths = _short_lengths(M)
        gaps = positions[1:] - positions[:-1]
        return int(lengths[positions[0] + 1] + np.add.reduce(lengths.take(gaps)))
    b = (M - 1).bit_length()
    c = (1 << b) - M
    total = positions.size * b + (int(positions[0]) + M - c) // M
    for start in range(1, positions.size, BLOCK):
        part = positions[start - 1 : start + BLOCK]
        gaps = part[1:] - part[:-1]
        # (r + M - c) // M of the runs r = gaps - 1.
        if M - c > 1:
            gaps += M - c - 1
        gaps //= M
        total += int(np.add.reduce(gaps))
    return total


def put_varying_runs(
    writer: BitWriter, runs: Numbers, parameters: NDArray[np.int64]
) -> None:
    """Write runs, each Golomb-coded with its own M."""
    b, c = _truncation(parameters)
    quotients = runs // parameters
    remainders = runs - quotients * parameters
    writer.put_unary(quotients + 1)
    long = (remainders >= c) & (b > 0)
    remainders[long] += c[long]
    writer.put_varying_planes(remainders >> long, np.maximum(b - 1, 0))
    writer.put((remainders[long] & 1).astype(np.uint8))


def take_varying_runs(
    reader: BitReader, parameters: NDArray[np.int64], dim: int
) -> NDArray[np.int64]:
    """Read one run for each M, of which none is longer than `dim` + M.

    Raises
    ------
    CorruptPacket
        If one is longer, or the bits are cut off.
    """
    b, c = _truncation(parameters)
    quotients = reader.take_unary(b.size, b.size + b.size * dim)
    quotients[1:] -= quotients[:-1] + 1
    if (quotients > dim // parameters).any():
        raise CorruptPacket(f"a run leads beyond the end of a vector of length {dim}")
    remainders = reader.take_varying_planes(np.maximum(b - 1, 0))
    long = ((remainders >= c) & (b > 0)).nonzero()[0]
    remainders[long] = remainders[long] * 2 + reader.take(long.size) - c[long]
    return quotients * parameters + remainders


def varying_runs_num_bits(runs: Numbers, parameters: NDArray[np.int64]) -> int:
    """Return the length of :func:`put_varying_runs` in bits."""
    b, c = _truncation(parameters)
    return int((b + (runs + parameters - c) // parameters).sum())


def _truncation(
    parameters: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return b = ceil(log2 M) and c = 2^b - M for each M."""
    b = floor_log2(2 * parameters - 1)
    return b, np.left_shift(1, b) - parameters


def _put_ones(writer: BitWriter, positions: Numbers) -> None:
    bits = np.zeros(int(positions[-1]) + 1, dtype=np.uint8)
    bits[positions] = 1
    writer.put(bits)
