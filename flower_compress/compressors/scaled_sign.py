"""The signs, with one scale.

Source: Karimireddy et al., "Error feedback fixes SignSGD and other gradient
compression schemes" (ICML 2019), lemma 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..streams import Draws
from .arrays import Array, ArrayOps
from .bucketed import Bucketed
from .checks import check_scales, require_scales
from .tables import Part

__all__ = ["ScaledSign"]


@dataclass(frozen=True, repr=False)
class ScaledSign(Bucketed):
    """C(x) = (||x||_1 / d) sign(x), with sign(0) = 0; biased.

    ||C(x) - x||^2 <= (1 - ||x||_1^2 / (d ||x||^2)) ||x||^2, so the contraction is at
    least 1/d, and 2/pi on Gaussian vectors.
    """

    name: ClassVar[str] = "scaled-sign"
    wire_id: ClassVar[int] = 8
    _finds_infinite: ClassVar[bool] = True

    @property
    def unbiased(self) -> bool:
        """Never."""
        return False

    def alphabet(self, dim: int) -> tuple[int, int]:
        """Signs and zero."""
        return -1, 1

    def _contraction(self, width: int) -> float:
        return 1.0 / width

    def _compress(
        self, table: Array, draws: Draws, ops: ArrayOps, out: Array | None
    ) -> Part:
        scales = ops.divide(ops.abs_sums(table), table.shape[1])
        require_scales(scales, ops, table)
        positive = ops.narrow(table > 0, -1, 1)
        scales = ops.values([ops.float32(scales)])
        return Part(scales, positive - ops.narrow(table < 0, -1, 1))

    def _decompress(
        self, part: Part, rows: int, width: int, draws: Draws | None, ops: ArrayOps
    ) -> Array:
        check_scales(part.values, ops)
        return part.scaled(rows, width, part.values, ops)
