"""QSGD's code: the gap to each nonzero entry, its sign, its level.

Source: Alistarh et al., "QSGD: communication-efficient SGD via gradient
quantization and encoding" (NeurIPS 2017), section 3.1 and appendix A.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptPacket
from .base import Code
from .bits import (
    Bits,
    from_gamma,
    from_gamma_scalar,
    gamma_num_bits,
    to_gamma,
    to_gamma_scalar,
)
from .symbols import Symbols, symbol_dtype

__all__ = ["Elias"]


class Elias(Code):
    """Elias gamma for the number of nonzeros + 1, the gaps and the magnitudes.

    For k nonzeros at gaps g_j with magnitudes m_j the length is
    G(k + 1) + sum_j (G(g_j) + [low < 0] + [largest magnitude > 1] G(m_j)) bits with
    G(n) = 2 floor(log2 n) + 1. The fields are written one after the other (all gaps,
    all signs, all magnitudes), which leaves the length as it is. Elias gamma is no
    longer than the recursive omega code of the paper for any number below 128, and
    gaps and levels are small.
    """

    name: ClassVar[str] = "elias"
    wire_id: ClassVar[int] = 2

    def encode(self, symbols: Symbols) -> Bits:
        """Return the bits of `symbols`."""
        positions, entries = symbols.sparse()
        parts = [to_gamma_scalar(positions.size + 1), to_gamma(_gaps(positions))]
        if symbols.low < 0:
            parts.append((entries < 0).astype(np.uint8))
        if _has_magnitudes(symbols.low, symbols.high):
            parts.append(to_gamma(np.abs(entries.astype(np.int64))))
        return np.concatenate(parts)

    def decode(self, bits: Bits, dim: int, low: int, high: int) -> tuple[Symbols, int]:
        """Return the symbols at the front of `bits` and how many bits they took."""
        count, used = from_gamma_scalar(bits, dim + 1)
        count -= 1
        gaps, size = from_gamma(bits[used:], count, dim)
        used += size
        positions = gaps.cumsum() - 1
        if count and int(positions[-1]) >= dim:
            raise CorruptPacket(
                f"position {int(positions[-1])} lies outside a vector of length {dim}"
            )
        entries = np.ones(count, dtype=np.int64)
        if low < 0:
            negative = bits[used : used + count]
            if negative.size < count:
                raise CorruptPacket(f"expected {count} signs, got {negative.size}")
            used += count
        if _has_magnitudes(low, high):
            entries, size = from_gamma(bits[used:], count, max(-low, high))
            used += size
        if low < 0:
            entries = np.where(negative, -entries, entries)
        if count and (int(entries.min()) < low or int(entries.max()) > high):
            raise CorruptPacket(f"a symbol lies outside the alphabet [{low}, {high}]")
        symbols = Symbols(
            dim, low, high, entries.astype(symbol_dtype(low, high)), positions
        )
        return symbols, used

    def num_bits(self, symbols: Symbols) -> int:
        """Return the exact length of the code in bits."""
        positions, entries = symbols.sparse()
        total = 2 * (positions.size + 1).bit_length() - 1
        total += gamma_num_bits(_gaps(positions))
        if symbols.low < 0:
            total += positions.size
        if _has_magnitudes(symbols.low, symbols.high):
            total += gamma_num_bits(np.abs(entries.astype(np.int64)))
        return total


def _has_magnitudes(low: int, high: int) -> bool:
    return max(-low, high) > 1


def _gaps(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Distance of each position to the one before, the first to -1."""
    gaps = positions.copy()
    gaps[1:] -= positions[:-1]
    gaps[:1] += 1
    return gaps
