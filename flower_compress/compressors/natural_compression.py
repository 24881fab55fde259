"""Rounding to powers of two.

Source: Horvath, Ho, Horvath, Sahu, Canini & Richtarik, "Natural compression for
distributed deep learning" (arXiv 1905.10988; MSML 2022), section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..streams import Draws
from .arrays import Array, ArrayOps
from .bucketed import Bucketed
from .checks import require_scales
from .tables import Part

__all__ = ["NaturalCompression"]

_LARGEST = 2.0**127
"""The largest power of two in float32."""


@dataclass(frozen=True, repr=False)
class NaturalCompression(Bucketed):
    """C(x)_i = sign(x_i) 2^e or sign(x_i) 2^(e+1), with e = floor(log2 |x_i|).

    It goes up with probability |x_i| / 2^e - 1, which is the mantissa of a float32, so
    E[C(x)] = x exactly. Powers of two stay what they are, and 0 stays 0. An entry's
    variance is (|x_i| - 2^e) (2^(e+1) - |x_i|), the most at |x_i| = 4/3 2^e, where it
    is x_i^2 / 8: omega = 1/8 whatever the vector and its length.

    That holds for every float32 up to 2^127: one below 2^-126, a subnormal, is rounded
    to a power of two as well, down to 2^-149. Above 2^127 there is no float32 to go up
    to, and such an entry is refused whatever is drawn.

    No scale travels. The symbol of +-2^e is 2 e for plus and 2 e + 1 for minus, and one
    more from 0 on; 0 stands for 0. So the symbols that occur are neighbours, whatever
    their signs. The code "fixed-width" takes the paper's 9 bits an entry where all
    exponents of normal numbers occur, and 6 on a Gaussian vector; "auto" takes 3.6.
    """

    name: ClassVar[str] = "natural-compression"
    wire_id: ClassVar[int] = 10
    entrywise: ClassVar[bool] = True
    _finds_infinite: ClassVar[bool] = True

    def alphabet(self, dim: int) -> tuple[int, int]:
        """From 2^-149 to -2^127."""
        return -298, 256

    def _omega(self, width: int) -> float:
        return 1.0 / 8.0

    def _compress(
        self, table: Array, draws: Draws, ops: ArrayOps, out: Array | None
    ) -> Part:
        x = table.reshape(-1)
        require_scales(x, ops, x, _LARGEST, "an entry")
        dither = ops.dither(draws, len(x), 1)
        return Part(ops.empty(), ops.round_to_powers(x, dither, draws))

    def _decompress(
        self, part: Part, rows: int, width: int, draws: Draws | None, ops: ArrayOps
    ) -> Array:
        powers = ops.powers(part.symbols().reshape(-1))
        if part.positions is None:
            return powers
        return ops.scatter(rows * width, part.positions, powers)

    def _num_values(
        self, rows: int, width: int, entries: Array | None, ops: ArrayOps
    ) -> int:
        return 0
