"""Where a run levels off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .record import RoundRecord

__all__ = ["log10_level"]


def log10_level(rows: Sequence[RoundRecord]) -> float:
    """Return the mean log10 excess loss of the last tenth of a run, NaN if unknown.

    Parameters
    ----------
    rows : Sequence[RoundRecord]
        Of one run, in the order of the rounds.
    """
    last = rows[-1].round
    values = [
        row.known_excess_loss
        for row in rows
        if row is rows[-1] or 10 * (last - row.round) < last
    ]
    return float(np.mean(np.log10(values)))
