"""MALCOM-PSGD's quantizer: uniform levels over the range of the vector.

Source: MALCOM-PSGD, eq. (6) and appendix A.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..errors import ConfigurationError, CorruptPacket
from ..streams import Draws
from .arrays import Array, ArrayOps
from .bucketed import Bucketed
from .checks import check_flag, check_integer, check_scales, require_scales
from .tables import Part

__all__ = ["DitheredQuantizer"]

_MAX_ENTRY = 2.0**125
"""The range, and half a step beyond, are far from the largest float32."""

_NO_RANGE = 2.0**200
"""Stands for r = 0 where r divides."""

_LEAST_SQUARE = 2.0**-298
"""Of a float32 that is not 0; in float64."""

_TAUS: tuple[Literal["exact", "lemma", "none"], ...] = ("exact", "lemma", "none")


@dataclass(frozen=True, repr=False)
class DitheredQuantizer(Bucketed):
    """Q(p)_i = (m + r k_i / L) / tau, k_i = floor(L (p_i - m) / r + u_i), Q(0) = 0.

    m = min p, r = max p - min p, u_i are independent uniforms in [0, 1), and entries
    that are exactly zero stay so. For any tau > 0

        E||Q(p) - p||^2 = (1 - 1/tau)^2 ||p||^2 + V / tau^2,  V <= r^2 d / (4 L^2),

    which is at most (1 - 1/tau) ||p||^2 if tau >= 1 + V / ||p||^2.

    The symbol of an entry is 0 if it is zero, else which level it took, counted from
    zero: -1 for the first level below it, 1 for the first level that is not.
    Two float32 values travel for each bucket, m / tau and r / tau.

    Parameters
    ----------
    levels : int
        L >= 1, the number of steps over the range (L + 1 levels); at most 32766.
    tau : {"exact", "lemma", "none"}
        "exact": tau = 1 + r^2 d / (4 L^2 ||p||^2), from the vector itself. "lemma":
        1 + d / L^2, the worst case of the paper's lemma 1, which shrinks long vectors
        to almost nothing. "none": 1, unbiased.
    subtractive : bool
        Whether the dither comes from the stream that both ends share and the receiver
        takes it off again, k_i - u_i + 1/2: then V = r^2 d / (12 L^2), and 12 stands
        for 4 in the exact tau.
    """

    levels: int = 8
    tau: Literal["exact", "lemma", "none"] = "exact"
    subtractive: bool = False

    name: ClassVar[str] = "dithered-quantizer"
    wire_id: ClassVar[int] = 7
    _finds_infinite: ClassVar[bool] = True
    _wire: ClassVar[struct.Struct] = struct.Struct("<HB")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("levels", self.levels, 32766)
        check_flag("subtractive", self.subtractive)
        if self.tau not in _TAUS:
            raise ConfigurationError(f"tau must be one of {_TAUS}, got {self.tau!r}")

    @property
    def unbiased(self) -> bool:
        """Whether tau = 1."""
        return self.tau == "none"

    @property
    def shared_randomness(self) -> bool:
        """Whether the receiver subtracts the dither."""
        return self.subtractive

    def alphabet(self, dim: int) -> tuple[int, int]:
        """L + 1 levels, all below zero or all above at the worst."""
        return -self.levels - 1, self.levels + 1

    def _omega(self, width: int) -> float:
        """Return V / ||p||^2 <= d / (2 L^2), as r^2 <= 2 ||p||^2."""
        return 2.0 * width / (self._variance * self.levels**2)

    def _contraction(self, width: int) -> float:
        """Return 1 / tau for the least favourable vector."""
        if self.tau == "lemma":
            return 1.0 / (1.0 + width / self.levels**2)
        if self.tau == "exact":
            return 1.0 / (1.0 + self._omega(width))
        return max(0.0, 1.0 - self._omega(width))

    @property
    def _variance(self) -> float:
        """The v in V <= r^2 d / (v L^2)."""
        return 12.0 if self.subtractive else 4.0

    def _compress(
        self, table: Array, draws: Draws, ops: ArrayOps, out: Array | None
    ) -> Part:
        rows, width = table.shape
        if self.tau == "exact":
            least, greatest, squares = ops.moments(table)
        else:
            least, greatest = ops.extremes(table)
        require_scales(least, ops, table, _MAX_ENTRY)
        require_scales(greatest, ops, table, _MAX_ENTRY)
        low = ops.float64(least)
        ranges = ops.float32(ops.float64(greatest) - low)
        wide = ops.float64(ranges)
        if self.tau != "none":
            worth = width / self.levels**2
            if self.tau == "exact":
                squares = ops.clip(squares, _LEAST_SQUARE, None)
                worth = wide * wide * (worth / self._variance) / squares
            tau = 1.0 + worth
            low, wide = ops.divide(low, tau), ops.divide(wide, tau)
        low, step = ops.float32(low), ops.float32(wide)
        levels, below = self.levels, self._below(low, step, ops)
        if self.subtractive:
            dither, refine = draws.dither(rows * width), None
        else:
            dither, refine = ops.dither(draws, rows * width, levels), draws
        entries = ops.round(
            table, least, ranges, levels, levels + 1, dither, refine, below, out
        )
        return Part(ops.values([low, step]), entries)

    def _decompress(
        self, part: Part, rows: int, width: int, draws: Draws | None, ops: ArrayOps
    ) -> Array:
        low, ranges = ops.row_numbers(part.values, rows)[:2]
        check_scales(ranges, ops, 2.0 * _MAX_ENTRY)
        if not ops.within(low, -_MAX_ENTRY, _MAX_ENTRY):
            raise CorruptPacket(f"expected a range within +-{_MAX_ENTRY:.3g}")
        entries = part.dense(rows, width, ops)
        dither = None if draws is None else draws.dither(rows * width)
        below = self._below(low, ranges, ops)
        steps = ops.float32(ops.divide(ops.float64(ranges), self.levels))
        levels = self.levels
        return ops.scaled_from_zero(
            entries, below, steps, low, levels, dither, part.out
        )

    def _below(self, low: Array, ranges: Array, ops: ArrayOps) -> Array:
        """Return how many levels lie below zero in each row, as float64.

        ceil(-L m / r), in float64 from the values that travel, within [0, L + 1]; one
        or none where r = 0.
        """
        wide = ops.float64(ranges)
        # So wide that -L m / r lies between 0 and 1 for m < 0.
        wide = ops.where(wide > 0.0, wide, _NO_RANGE)
        quotient = ops.float64(low) / wide * -self.levels
        return ops.clip(ops.ceil(quotient), 0.0, self.levels + 1.0)

    def _num_values(
        self, rows: int, width: int, entries: Array | None, ops: ArrayOps
    ) -> int:
        return 2 * rows

    def _wire_values(self) -> tuple[Any, ...]:
        return self.levels, _TAUS.index(self.tau) | 4 * self.subtractive

    @classmethod
    def _parameters(cls, *values: Any) -> tuple[Any, ...]:
        levels, flags = values
        if flags > 7 or flags & 3 == 3:
            raise ConfigurationError(f"expected flags in 0-2 or 4-6, got {flags}")
        return levels, _TAUS[flags & 3], bool(flags & 4)
