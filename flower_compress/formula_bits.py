"""Bits by the papers' formulas, to be set beside those that were sent.

None of them is what travels: they bound a code, on average or for a distribution, or
leave out scales and tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .arguments import check_number
from .errors import ConfigurationError

__all__ = [
    "entropy_bits",
    "laplace_frequencies",
    "malcom_bits",
    "qsgd_bits",
    "sparse_bits",
]

_GOLOMB = 2.914
_SUM_ERROR = 1e-9
_FEW = 16
"""So few numbers are no work for NumPy."""
_Numbers = Sequence[float] | NDArray[np.float64]


def entropy_bits(counts: Sequence[int] | NDArray[np.int64]) -> float:
    """Return d H, the zero-order entropy of d symbols in bits, from their counts."""
    if len(counts) <= _FEW:
        numbers = counts.tolist() if isinstance(counts, np.ndarray) else counts
        few = [float(count) for count in numbers if count > 0]
        whole = math.log2(sum(few)) if few else 0.0
        return math.fsum([count * (whole - math.log2(count)) for count in few])
    found = np.asarray(counts, dtype=np.float64)
    found = found[found > 0]
    total = float(found.sum())
    return float(found @ (math.log2(total) - np.log2(found))) if total else 0.0


def malcom_bits(frequencies: _Numbers, dim: int) -> float:
    """Return MALCOM's bound on the bits of its code, eq. (13) from m = 1.

        d (H(f) + 2.914 (1 - f_0) + f_0 log2 f_0
           + sum_{l>=1} f_l log2(1 - sum_{1<=m<l} f_m))

    f in descending order: f_0 is implicit. As printed the inner sum begins at m = 0,
    which lies below the entropy; the implicit level is among the positions that are
    left. The counts of the levels, and the range, are not in it. Source: MALCOM-PSGD,
    eq. (13).

    Parameters
    ----------
    frequencies : Sequence[float]
        Share of each level, in any order; they add up to 1.
    dim : int
        d.
    """
    f = np.sort(np.asarray(frequencies, dtype=np.float64))[::-1]
    f = f[f > 0.0]
    if not f.size or abs(f.sum() - 1.0) > _SUM_ERROR:
        raise ConfigurationError(
            f"the frequencies must add up to 1, got a sum of {float(f.sum())}"
        )
    coded = f[1:]
    left = 1.0 - np.concatenate(([0.0], np.cumsum(coded)[:-1])) if coded.size else coded
    # H(f) + f_0 log2 f_0 is the entropy of what is coded.
    bits = np.sum(coded * (_GOLOMB + np.log2(np.maximum(left, _SUM_ERROR) / coded)))
    return dim * float(bits)


def laplace_frequencies(ratio: float, levels: int) -> NDArray[np.float64]:
    """Return the shares of the levels of MALCOM's quantizer on Laplace's distribution.

    f_0 = 1 - e^-D and twice sinh(D) e^(-2 l D), D = ratio / (2 L), the outermost levels
    with what lies beyond: eq. (30) and (31) for a range of r around zero. With
    :func:`malcom_bits` this is eq. (14), without the slip that it inherits. Shape
    (L + 1,) for even L, (L,) for odd L.

    Parameters
    ----------
    ratio : float
        r / rho, the range over the diversity of the distribution, positive.
    levels : int
        L >= 1.
    """
    check_number("ratio", ratio, "be positive", lambda r: 0 < r < math.inf)
    check_number("levels", levels, "be at least 1", lambda n: n >= 1)
    delta = ratio / (2.0 * levels)
    edges = np.exp(-delta * np.arange(1, 2 * (levels // 2) + 2, 2))
    side = -np.diff(np.concatenate((edges, [0.0])))[: levels // 2] / 2.0
    if side.size:
        side[-1] += edges[-1] / 2.0
    middle = 1.0 - (edges[0] if side.size else 0.0)
    return np.concatenate((side[::-1], [middle], side))


def qsgd_bits(dim: int, levels: int) -> float:
    """Return QSGD's bound on the expected bits of its code, without its o(1).

    (3 + 3/2 log2(2 (s^2 + d) / (s (s + sqrt(d))))) s (s + sqrt(d)) + 32, for s levels
    of the 2-norm. Source: Alistarh et al. (NeurIPS 2017), theorem 3.2.

    Parameters
    ----------
    dim : int
        d >= 1.
    levels : int
        s >= 1.
    """
    nonzeros = levels * (levels + math.sqrt(dim))
    ratio = 2.0 * (levels * levels + dim) / nonzeros
    return (3.0 + 1.5 * math.log2(ratio)) * nonzeros + 32.0


def sparse_bits(dim: int, num_nonzeros: float) -> float:
    """Return k (32 + log2 d): k entries as float32, and where each of them is."""
    return num_nonzeros * (32.0 + (math.log2(dim) if dim > 1 else 0.0))
