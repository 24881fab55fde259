"""Sets of positions, as runs.

A *support* of k of n positions is stored as k + 1 in Elias gamma, then Golomb-coded
(:mod:`~flower_compress.coding.golomb`) runs: those before each of the k positions or,
if 2 k > n, before each of the n - k others, with M of
:func:`~flower_compress.coding.golomb.golomb_parameter` for that smaller number and n;
nothing if it is 0. Positions are ascending.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .bit_reader import BitReader
from .bits import BitWriter
from .golomb import (
    golomb_parameter,
    positions_num_bits,
    put_positions,
    take_positions,
)
from .universal import gamma_num_bits, put_gamma, take_gamma

__all__ = ["put_support", "support_num_bits", "take_side", "take_support"]

Positions = NDArray[np.int64]


def put_support(writer: BitWriter, positions: Positions, dim: int) -> None:
    """Write a set of k positions in [0, dim): k + 1 in gamma, then the smaller side.

    That is the set itself or, if 2 k > dim, the positions that are not in it.
    """
    put_gamma(writer, positions.size + 1)
    if 2 * positions.size > dim:
        positions = _complement(positions, dim)
    if positions.size:
        put_positions(writer, positions, golomb_parameter(positions.size, dim))


def support_num_bits(positions: Positions, dim: int) -> int:
    """Return the length of :func:`put_support` in bits."""
    total = gamma_num_bits(positions.size + 1)
    if 2 * positions.size > dim:
        positions = _complement(positions, dim)
    if positions.size == 0:
        return total
    return total + positions_num_bits(positions, golomb_parameter(positions.size, dim))


def take_support(reader: BitReader, dim: int) -> Positions:
    """Read a set of positions in [0, dim).

    Raises
    ------
    CorruptPacket
        If there is none at the front of the bits.
    """
    count, side, is_outside = take_side(reader, dim)
    if not is_outside:
        return side
    return _complement(side, dim) if side.size else np.arange(count)


def take_side(
    reader: BitReader, dim: int, bits_each: int = 0
) -> tuple[int, Positions, bool]:
    """Read a set as it is written: its size k, the smaller side, if that is outside it.

    The positions of a large set take many bytes, those outside it few. Each position of
    the set has `bits_each` bits later.

    Raises
    ------
    CorruptPacket
        If there is none at the front of the bits.
    """
    count = take_gamma(reader, dim + 1) - 1
    reader.require(count * bits_each)
    smaller = min(count, dim - count)
    is_outside = 2 * count > dim
    if smaller == 0:
        return count, np.zeros(0, dtype=np.int64), is_outside
    side = take_positions(reader, smaller, dim, golomb_parameter(smaller, dim))
    return count, side, is_outside


def _complement(positions: Positions, dim: int) -> Positions:
    mask = np.ones(dim, dtype=bool)
    mask[positions] = False
    return mask.nonzero()[0]
