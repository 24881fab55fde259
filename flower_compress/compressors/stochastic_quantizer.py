"""QSGD's stochastic quantization.

Source: Alistarh et al., "QSGD: communication-efficient SGD via gradient
quantization and encoding" (NeurIPS 2017), section 3.1. Subtractive dither: Roberts
(1962); Gray & Stockham, "Dithered quantizers" (IEEE Trans. IT, 1993), theorem 1.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..errors import ConfigurationError
from ..streams import Draws
from .arrays import Array, ArrayOps
from .bucketed import Bucketed
from .checks import (
    LARGEST,
    check_flag,
    check_integer,
    check_scales,
    require_scales,
)
from .tables import Part

__all__ = ["StochasticQuantizer"]

_NORMS: tuple[Literal[2, "inf"], ...] = (2, "inf")


@dataclass(frozen=True, repr=False)
class StochasticQuantizer(Bucketed):
    """C(x)_i = (||x|| / s) k_i with k_i = floor(s x_i / ||x|| + u_i).

    For independent uniforms u_i in [0, 1): k_i is one of the two integers beside
    s x_i / ||x||, and E[C(x)] = x. That is QSGD's ||x|| sign(x_i) psi_i / s. A bucket
    of zeros gives zeros.

    With ``subtractive=True`` the uniforms come from the stream that both ends share,
    and the receiver takes them off again: C(x)_i = (||x|| / s) (k_i - u_i + 1/2). The
    error is then uniform on +-||x|| / (2 s) whatever x is: a third of the greatest
    variance, and as much where x_i = 0. Use it with enough levels that most symbols
    are not zero.

    Parameters
    ----------
    levels : int
        s >= 1, the number of levels besides zero; at most 2^15 - 1.
    norm : 2 or "inf"
        The norm that scales the levels.
    subtractive : bool
        Whether the receiver subtracts the dither.
    """

    levels: int = 1
    norm: Literal[2, "inf"] = 2
    subtractive: bool = False

    name: ClassVar[str] = "stochastic-quantizer"
    wire_id: ClassVar[int] = 2
    _finds_infinite: ClassVar[bool] = True
    _wire: ClassVar[struct.Struct] = struct.Struct("<HB")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("levels", self.levels, 32767)
        check_flag("subtractive", self.subtractive)
        if self.norm not in _NORMS:
            raise ConfigurationError(f'norm must be 2 or "inf", got {self.norm!r}')

    @property
    def shared_randomness(self) -> bool:
        """Whether the receiver subtracts the dither."""
        return self.subtractive

    def alphabet(self, dim: int) -> tuple[int, int]:
        """Symbols lie in [-s, s]."""
        return -self.levels, self.levels

    def _omega(self, width: int) -> float:
        """Return omega for buckets of d entries.

        min(d / s^2, sqrt(d) / s) for the 2-norm (QSGD, lemma 3.1). For the
        infinity norm min(d / (4 s^2), (1 + sqrt(d)) / (2 s)): an entry's variance is
        at most (||x||/s)^2 min(1/4, s|x_i|/||x||), and ||x||_inf ||x||_1 is at most
        (1 + sqrt(d))/2 ||x||_2^2. d / (12 s^2) with subtractive dither, as
        ||x||_inf <= ||x||_2.
        """
        d, s = width, self.levels
        if self.subtractive:
            return d / (12.0 * s**2)
        if self.norm == 2:
            return min(d / s**2, math.sqrt(d) / s)
        return min(d / (4.0 * s**2), (1.0 + math.sqrt(d)) / (2.0 * s))

    def _mean_nonzeros(self, width: int) -> float:
        """Return s^2 + s sqrt(d) for the 2-norm (QSGD, lemma 3.1)."""
        if self.subtractive or self.norm != 2:
            return width
        return min(width, self.levels**2 + self.levels * math.sqrt(width))

    def _compress(
        self, table: Array, draws: Draws, ops: ArrayOps, out: Array | None
    ) -> Part:
        rows, width = table.shape
        if self.norm == 2:
            norms = ops.sqrt(ops.squares(table))
        else:
            low, high = ops.extremes(table)
            norms = ops.where(-low > high, -low, high)
        # With subtractive dither values reach up to (1 + 1 / (2 s)) ||x||.
        bound = LARGEST / 2.0 if self.subtractive else LARGEST
        require_scales(norms, ops, table, bound)
        norms = ops.float32(norms)
        s, count = self.levels, rows * width
        if self.subtractive:
            dither, refine = draws.dither(count), None
        else:
            dither, refine = ops.dither(draws, count, s), draws
        entries = ops.round(table, None, norms, s, s, dither, refine, out=out)
        return Part(ops.values([norms]), entries)

    def _decompress(
        self, part: Part, rows: int, width: int, draws: Draws | None, ops: ArrayOps
    ) -> Array:
        norms = ops.row_numbers(part.values, rows)[0]
        check_scales(norms, ops)
        # s * (||x|| / s) may round to infinity where ||x|| is the largest float32.
        bound = LARGEST * (1.0 - 2.0**-23) / (self.levels + self.subtractive)
        scales = ops.divide(ops.float64(norms), self.levels)
        scales = ops.float32(ops.clip(scales, None, bound))
        if draws is not None:
            dense = part.dense(rows, width, ops)
            dither = draws.dither(rows * width)
            return ops.scaled(dense, scales, None, dither, part.out)
        return part.scaled(rows, width, scales, ops)

    def _wire_values(self) -> tuple[Any, ...]:
        return self.levels, _NORMS.index(self.norm) | 2 * self.subtractive

    @classmethod
    def _parameters(cls, *values: Any) -> tuple[Any, ...]:
        levels, flags = values
        if flags > 3:
            raise ConfigurationError(f"expected flags of at most 3, got {flags}")
        return levels, _NORMS[flags & 1], bool(flags & 2)
