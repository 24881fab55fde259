"""Every level in Elias gamma, zeros too: a baseline to measure codes against.

Source: Alistarh et al., "QSGD: communication-efficient SGD via gradient quantization
and encoding" (NeurIPS 2017), appendix A, writes levels in Elias' codes. MALCOM-PSGD,
section 6, compares with "CHOCO-SGD + QSGD" at L levels over the range of the vector,
whose code makes no use of sparsity (section 5); it does not spell that code out, and
this is the plainest reading.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..errors import CorruptPacket
from .bit_code import BitCode
from .bit_reader import BitReader
from .bits import BitWriter
from .symbols import Symbols, symbol_dtype
from .universal import (
    gamma_num_bits,
    gammas_num_bits,
    put_gamma,
    put_gammas,
    take_gamma,
    take_gammas,
)

__all__ = ["EliasLevels"]


class EliasLevels(BitCode):
    """Elias gamma for how far each symbol lies above the smallest one.

    For symbols s_1, ..., s_d of which m is the smallest, in this order and as
    :mod:`~flower_compress.coding.universal` stores arrays:

    1. m - low + 1 in gamma;
    2. all s_j - m + 1 in gamma.

    G(m - low + 1) + sum_j G(s_j - m + 1) bits with G(n) = 2 floor(log2 n) + 1; none if
    d = 0. Of a range quantizer s_j - m is the level's number from the bottom of the
    range, one more above zero, as the symbol 0 stands for what is exactly zero. The
    many entries near zero lie in the middle of L levels and take about 2 log2 L - 1
    bits each: hence a baseline, which ``"auto"`` never takes.
    """

    name: ClassVar[str] = "elias-levels"
    wire_id: ClassVar[int] = 8

    def _write(self, symbols: Symbols, writer: BitWriter) -> None:
        if symbols.dim == 0:
            return
        smallest = _smallest(symbols)
        put_gamma(writer, smallest - symbols.low + 1)
        put_gammas(writer, symbols.dense().astype(np.int64) - (smallest - 1))

    def _read(self, reader: BitReader, dim: int, low: int, high: int) -> Symbols:
        dtype = symbol_dtype(low, high)
        if dim == 0:
            return Symbols(0, low, high, np.zeros(0, dtype=dtype))
        smallest = low + take_gamma(reader, high - low + 1) - 1
        numbers = take_gammas(reader, dim, high - smallest + 1)
        if int(numbers.min()) != 1:
            raise CorruptPacket("the smallest symbol is not the real one")
        numbers += smallest - 1
        return Symbols(dim, low, high, numbers.astype(dtype))

    def num_bits(self, symbols: Symbols) -> int:
        """Return the exact length of the code in bits, without writing it."""
        if symbols.dim == 0:
            return 0
        smallest, entries = _smallest(symbols), symbols.entries
        total = gamma_num_bits(smallest - symbols.low + 1)
        total += gammas_num_bits(entries.astype(np.int64) - (smallest - 1))
        zeros = symbols.dim - entries.size
        return total + zeros * gamma_num_bits(1 - smallest) if zeros else total


def _smallest(symbols: Symbols) -> int:
    """Return the smallest of the symbols, of which there are some."""
    if symbols.entries.size < symbols.dim:
        return int(symbols.entries.min(initial=0))
    return int(symbols.entries.min())
