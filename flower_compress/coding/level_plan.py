"""What the counts of the levels say of their runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LevelPlan", "plan_levels"]

Integer = NDArray[np.int64]

_LN2 = 54916777467707473351141471128  # 2^96 ln 2
_COMMON_COUNT = 4096
_COMMON_SHARE = 128


@dataclass(frozen=True, eq=False)
class LevelPlan:
    """The order of the levels, and the parameters of their runs.

    Parameters
    ----------
    implicit : int
        The level of the largest count, whose entries are not coded; 0 if none occurs.
    common : list[tuple[int, int, int]]
        Level, count and M of each level with an array of its own, in order.
    levels, counts, parameters : NDArray[np.int64]
        The same of the levels after those, which share an array.
    """

    implicit: int
    common: list[tuple[int, int, int]]
    levels: Integer
    counts: Integer
    parameters: Integer

    def ranks(self) -> Integer:
        """Return for each run of the shared array which of its levels it is of."""
        return np.arange(self.levels.size).repeat(self.counts)

    def run_parameters(self) -> Integer:
        """Return M for each run of the shared array."""
        return self.parameters.repeat(self.counts)


def plan_levels(counts: Integer, low: int, dim: int) -> LevelPlan:
    """Return the plan for the counts of the levels low, low + 1, ...

    The levels that occur are ordered by descending count t, of equal counts the lower
    level first. The first is implicit; entries of a later level are coded among the
    n that are left by the coded levels before it, with
    M = max(1, round(ln2 (n - t) / t)). A level has an array of its own if all coded
    levels before it have, t >= 4096 and 128 t >= n.

    M is computed in integers from 96 bits of ln2. No multiple q ln2 with q <= 2^33 is
    closer than 2^-34 to an integer, so below dimension 2^32 that is the exact M.
    """
    occurring = counts.nonzero()[0]
    order = occurring[(-counts[occurring]).argsort(kind="stable")]
    implicit = low + int(order[0]) if order.size else 0
    levels, sizes = order[1:] + low, counts[order[1:]]
    left = dim - sizes.cumsum()
    parameters = [
        max(1, (2 * _LN2 * n + (t << 96)) // (t << 97))
        for t, n in zip(sizes.tolist(), left.tolist(), strict=True)
    ]
    common = (sizes >= _COMMON_COUNT) & (_COMMON_SHARE * sizes >= left + sizes)
    first = sizes.size if common.all() else int(common.argmin())
    alone = zip(levels[:first].tolist(), sizes.tolist(), parameters, strict=False)
    return LevelPlan(
        implicit,
        list(alone),
        levels[first:],
        sizes[first:],
        np.array(parameters[first:], dtype=np.int64),
    )
