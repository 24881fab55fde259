"""Keep k entries, drawn uniformly from a seed that both ends share.

Source: Stich, Cordonnier & Jaggi, "Sparsified SGD with memory" (NeurIPS 2018); the
shared seed as in Konecny et al., "Federated learning: strategies for improving
communication efficiency" (2016), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import ConfigurationError
from ..streams import Draws
from .arrays import Array, ArrayOps
from .checks import require_scales
from .count import Count
from .tables import Part

__all__ = ["RandK"]


@dataclass(frozen=True, repr=False)
class RandK(Count):
    """C(x)_i = (d/k) x_i for k uniform positions, else 0; omega = d/k - 1.

    The positions come from the stream, so only k values travel: 32 k bits. All buckets
    of a table keep the same columns, which changes neither the mean nor omega.

    The columns are the first k distinct values of floor(d u_1), floor(d u_2), ... for
    the stream's uniforms u_j, requested in batches: k of them, then each time as many
    as are still missing. Where 2 k > d the d - k columns left out are drawn instead.

    Parameters
    ----------
    k : int, optional
        How many entries are kept; at most d of them are.
    fraction : float, optional
        Instead of `k`: ceil(fraction * d) entries are kept, 0 < fraction <= 1.
    """

    name: ClassVar[str] = "rand-k"
    wire_id: ClassVar[int] = 5

    @property
    def shared_randomness(self) -> bool:
        """The receiver draws the positions itself."""
        return True

    def alphabet(self, dim: int) -> None:
        """There are no symbols: the positions do not travel."""
        return

    def _omega(self, width: int) -> float:
        return 1.0 / self._share(width) - 1.0

    def _compress(
        self, table: Array, draws: Draws, ops: ArrayOps, out: Array | None
    ) -> Part:
        rows, width = table.shape
        kept = self._count(width)
        if kept == width:
            return Part(table.reshape(-1))
        columns = _columns(width, kept, draws, ops)
        values = ops.float64(table[:, columns]).reshape(-1) * (width / kept)
        require_scales(values, ops)
        return Part(ops.float32(values))

    def _decompress(
        self, part: Part, rows: int, width: int, draws: Draws | None, ops: ArrayOps
    ) -> Array:
        kept = self._count(width)
        if kept == width:
            return part.values
        if draws is None:
            raise ConfigurationError("the positions need the stream")
        positions = _columns(width, kept, draws, ops)
        if rows > 1:
            firsts = ops.multiples(width, rows)
            positions = (firsts[:, None] + positions).reshape(-1)
        return ops.scatter(rows * width, positions, part.values)

    def _num_values(
        self, rows: int, width: int, entries: Array | None, ops: ArrayOps
    ) -> int:
        return rows * self._count(width)


def _columns(width: int, kept: int, draws: Draws, ops: ArrayOps) -> Array:
    drawn = ops.falses(width)
    wanted = min(kept, width - kept)
    missing = wanted
    while missing:
        drawn[ops.int64(draws.uniforms(missing) * width)] = True
        missing = wanted - ops.count(drawn)
    return ops.positions(drawn if wanted == kept else ~drawn)
