"""The sum of the clients' weights, without a look at every client each round."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["WeightSum"]

_LARGEST = 2**53


class WeightSum:
    """A sum of float64 numbers, kept up to date where it is the same in any order.

    So it is of whole numbers, as numbers of examples are, up to 2^53: every partial sum
    is exact. Of others the rounding depends on the order, and they have to be added
    up anew.

    Parameters
    ----------
    weights : Iterable[float]
        The numbers, which are not negative.
    """

    def __init__(self, weights: Iterable[float]) -> None:
        self._whole = self._num_others = 0
        for weight in weights:
            self._count(weight, 1)

    def replace(self, before: float, after: float) -> None:
        """Take one number out, and add another one."""
        self._count(before, -1)
        self._count(after, 1)

    @property
    def exact(self) -> float | None:
        """The sum, None if it depends on the order."""
        if self._num_others or self._whole > _LARGEST:
            return None
        return float(self._whole)

    def _count(self, weight: float, times: int) -> None:
        if weight == int(weight):
            self._whole += times * int(weight)
        else:
            self._num_others += times
