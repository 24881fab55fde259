"""A few entries that stand for a long vector."""

from __future__ import annotations

import numpy as np

from .symbols import Integers, Symbols

__all__ = ["SAMPLE_SIZE", "sample_runs", "sample_symbols"]

SAMPLE_SIZE = 2**16
_RUN = 256
_NUM_RUNS = SAMPLE_SIZE // _RUN


def sample_runs(values: Integers) -> Integers:
    """Return 2^16 entries, in 256 runs spread evenly, or all if there are fewer.

    Runs, so that most neighbours stay neighbours.
    """
    if values.size <= SAMPLE_SIZE:
        return values
    stride = values.size // _NUM_RUNS
    rows = values[: stride * _NUM_RUNS].reshape(_NUM_RUNS, stride)
    return rows[:, :_RUN].reshape(-1)


def sample_symbols(symbols: Symbols) -> Symbols:
    """Return the symbols that :func:`sample_runs` takes, whichever form they have."""
    positions, dim = symbols.positions, min(symbols.dim, SAMPLE_SIZE)
    low, high = symbols.low, symbols.high
    if dim == symbols.dim:
        return symbols
    if positions is None:
        return Symbols(dim, low, high, sample_runs(symbols.entries))
    starts = np.arange(_NUM_RUNS) * (symbols.dim // _NUM_RUNS)
    first, last = positions.searchsorted([starts, starts + _RUN])
    runs = np.arange(_NUM_RUNS).repeat(last - first)
    taken = (
        np.arange(runs.size) + (first - (last - first).cumsum() + last - first)[runs]
    )
    at = positions[taken] - starts[runs] + _RUN * runs
    return Symbols(dim, low, high, symbols.entries[taken], at)
