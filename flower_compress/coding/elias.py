"""QSGD's code: the gap to each nonzero entry, its sign, its level.

Source: Alistarh et al., "QSGD: communication-efficient SGD via gradient
quantization and encoding" (NeurIPS 2017), section 3.1 and appendix A.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptPacket
from .bit_code import BitCode
from .bit_reader import BitReader
from .bits import BitWriter, signs_of
from .symbols import Symbols, symbol_dtype
from .universal import (
    gamma_num_bits,
    gammas_num_bits,
    put_gamma,
    put_gammas,
    take_gamma,
    take_gammas,
)

__all__ = ["Elias"]


class Elias(BitCode):
    """Elias gamma for the number of nonzeros + 1, the gaps and the magnitudes.

    For k nonzeros at positions p_j (p_0 = -1) with magnitudes m_j, in this order and as
    :mod:`~flower_compress.coding.universal` stores arrays:

    1. k + 1 in gamma;
    2. the gaps p_j - p_(j-1) >= 1 in gamma;
    3. if low < 0, for each nonzero a one if it is negative, else a zero;
    4. if max(-low, high) > 1, the magnitudes in gamma.

    G(k + 1) + sum_j (G(p_j - p_(j-1)) + [low < 0] + [max(-low, high) > 1] G(m_j)) bits
    with G(n) = 2 floor(log2 n) + 1. Gamma is no longer than the recursive omega code of
    the paper for any number below 128, and gaps and levels are small.
    """

    name: ClassVar[str] = "elias"
    wire_id: ClassVar[int] = 2

    def _write(self, symbols: Symbols, writer: BitWriter) -> None:
        positions, entries = symbols.sparse()
        put_gamma(writer, positions.size + 1)
        put_gammas(writer, _gaps(positions))
        if symbols.low < 0:
            writer.put(entries < 0)
        if _has_magnitudes(symbols.low, symbols.high):
            put_gammas(writer, np.abs(entries))

    def _read(self, reader: BitReader, dim: int, low: int, high: int) -> Symbols:
        count = take_gamma(reader, dim + 1) - 1
        positions = take_gammas(reader, count, dim).cumsum()
        positions -= 1
        if count and int(positions[-1]) >= dim:
            raise CorruptPacket(
                f"position {int(positions[-1])} lies outside a vector of length {dim}"
            )
        signs = reader.take(count) if low < 0 else None
        if _has_magnitudes(low, high):
            entries = take_gammas(reader, count, max(-low, high))
            entries = entries.astype(symbol_dtype(low, high))
        else:
            entries = np.ones(count, dtype=symbol_dtype(low, high))
        if signs is not None:
            entries *= signs_of(signs, entries.dtype)
        if count and (int(entries.min()) < low or int(entries.max()) > high):
            raise CorruptPacket(f"a symbol lies outside the alphabet [{low}, {high}]")
        return Symbols(dim, low, high, entries, positions)

    def num_bits(self, symbols: Symbols) -> int:
        """Return the exact length of the code in bits, without writing it."""
        positions, entries = symbols.sparse()
        total = gamma_num_bits(positions.size + 1) + gammas_num_bits(_gaps(positions))
        if symbols.low < 0:
            total += positions.size
        if _has_magnitudes(symbols.low, symbols.high):
            total += gammas_num_bits(np.abs(entries))
        return total


def _has_magnitudes(low: int, high: int) -> bool:
    return max(-low, high) > 1


def _gaps(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Distance of each position to the one before, the first to -1."""
    gaps = positions.copy()
    gaps[1:] -= positions[:-1]
    gaps[:1] += 1
    return gaps
