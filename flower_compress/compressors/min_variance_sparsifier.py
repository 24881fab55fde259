"""Keep entries with probabilities that give the least variance.

Source: Wangni, Wang, Liu & Zhang, "Gradient sparsification for communication-efficient
distributed optimization" (NeurIPS 2018), proposition 1 and algorithm 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar

from ..streams import Draws
from .arrays import Array, ArrayOps
from .bucketed import Bucketed
from .checks import check_probability, check_scales, require_scales
from .tables import Part

__all__ = ["MinVarianceSparsifier"]


@dataclass(frozen=True, repr=False)
class MinVarianceSparsifier(Bucketed):
    """C(x)_i = x_i / p_i with probability p_i = min(1, c |x_i|), else 0.

    c makes the p_i add up to density * d (or all of them 1, if fewer entries are not
    zero). Of all p with that sum, this has the least variance; uniform p_i = density
    has omega = 1 / density - 1, so this has at most that.

    An entry with p_i < 1 is sign(x_i) / c where it is kept: symbol -1 or 1, and 1 / c
    travels once for each bucket. An entry with p_i = 1 has the symbol 2 and travels as
    a float32, after all 1 / c.

    Parameters
    ----------
    density : float
        Expected fraction of the entries that are kept, 0 < density <= 1.
    """

    density: float = 0.01

    name: ClassVar[str] = "min-variance-sparsifier"
    wire_id: ClassVar[int] = 6
    _wire: ClassVar[struct.Struct] = struct.Struct("<d")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability("density", self.density)

    def alphabet(self, dim: int) -> tuple[int, int]:
        """Symbols are -1, 0, 1 and 2."""
        return -1, 2

    def _omega(self, width: int) -> float:
        return 1.0 / self.density - 1.0

    def _mean_nonzeros(self, width: int) -> float:
        return self.density * width

    def _compress(
        self, table: Array, draws: Draws, ops: ArrayOps, out: Array | None
    ) -> Part:
        rows, width = table.shape
        inverse = self._inverse(table, ops)
        # C(x) c is x c rounded to an integer at random, where that is -1, 0 or 1.
        dither = ops.dither(draws, rows * width, 1)
        limited = ops.limit(table, inverse)
        entries = ops.round(limited, None, inverse, 1, 2, dither, draws, out=out)
        certain = ops.reaches(table, inverse) & (table != 0)
        entries[certain] = 2
        return Part(ops.concat([ops.values([inverse]), table[certain]]), entries)

    def _decompress(
        self, part: Part, rows: int, width: int, draws: Draws | None, ops: ArrayOps
    ) -> Array:
        entries, positions = part.symbols(), part.positions
        if positions is None:
            flat = entries.reshape(-1)
            positions = ops.positions(flat != 0)
            entries = flat[positions]
        inverse, exact = part.values[:rows], part.values[rows:]
        check_scales(inverse, ops)
        signs = ops.clip(ops.float32(entries), -1.0, 1.0)
        values = signs * inverse[positions // width]
        values[entries == 2] = exact
        return ops.scatter(rows * width, positions, values)

    def _num_values(
        self, rows: int, width: int, entries: Array | None, ops: ArrayOps
    ) -> int:
        return rows + (0 if entries is None else ops.count(entries == 2))

    def _inverse(self, table: Array, ops: ArrayOps) -> Array:
        """Return 1 / c of each row in float32, 0 where all that is not zero is kept.

        Of sum_i min(1, c |x_i|) = k: start from c = k / ||x||_1, then take the entries
        with c |x_i| >= 1 out of both k and the norm until there are no more of them.
        """
        kept, total = self.density * table.shape[1], ops.abs_sums(table)
        inverse = ops.divide(total, kept)
        require_scales(inverse, ops)
        while True:
            counts, sums = ops.tails(table, ops.float32(inverse))
            left, rest = kept - counts, total - sums
            some = (left > 0) & (rest > 0)
            lower = ops.where(some, rest / ops.where(left > 0, left, 1.0), 0.0)
            # It only falls, but for the last bit.
            lower = ops.where(lower < inverse, lower, inverse)
            if ops.same(ops.float32(lower), ops.float32(inverse)):
                return ops.float32(inverse)
            inverse = lower
