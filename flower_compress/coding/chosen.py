"""Whether the code that a packet names is one that ``"auto"`` chooses.

A receiver that agreed on ``"auto"`` need not decode what no sender chooses: all
symbols, where few can be other than zero, or runs, where most are.
"""

from __future__ import annotations

from .golomb import golomb_parameter

__all__ = ["may_be_chosen", "may_be_runs"]

# Shorter vectors are decoded in no time, and their code is not always the shortest.
_MIN_DIM = 2**12
# Of long vectors the code is chosen on a sample, with a bias of 1 / 64.
_SLACK = 1.05
# Eight symbols share a byte of packed-huffman at most, which has a bit at least.
_LEAST_BITS = 1 / 8

# Of larger symbols fewer share a byte, and runs may save a part worth having.
_LARGEST_PACKED = 2


def may_be_runs(dim: int, low: int, high: int, nonzeros: int) -> bool:
    """Return whether ``"auto"`` considers runs for `nonzeros` of `dim` symbols.

    Where most symbols are not zero, runs cost their reader ten times what
    packed-huffman does and save next to nothing, if anything.
    """
    # Runs of what has no signs are short where all but a few are not zero.
    if dim < _MIN_DIM or low >= 0 or max(-low, high) > _LARGEST_PACKED:
        return True
    return 2 * nonzeros <= dim


def may_be_chosen(name: str, dim: int, low: int, high: int, nonzeros: int) -> bool:
    """Return whether ``"auto"`` may have taken a code that writes all symbols.

    Parameters
    ----------
    name : str
        The code's: fixed-width or packed-huffman.
    low, high : int
        The alphabet.
    nonzeros : int
        How many symbols are not zero, at most.
    """
    if dim < _MIN_DIM:
        return True
    width = (high - low).bit_length()
    least = dim * (width if name == "fixed-width" else _LEAST_BITS)
    return least <= _SLACK * _most_run_bits(dim, low, high, nonzeros)


def _most_run_bits(dim: int, low: int, high: int, nonzeros: int) -> float:
    """Return how long runs are at most.

    In Golomb code of parameter M, k positions take k (1 + ceil(log2 M)) + d / M bits;
    then comes a sign each, and the support of each further magnitude among the k, 2 k
    bits at most.
    """
    k = min(max(nonzeros, 1), dim - dim // 2)
    M = golomb_parameter(k, dim)
    support = k * (1 + (M - 1).bit_length()) + dim / M
    signs = nonzeros if low < 0 else 0
    return support + signs + 2 * nonzeros * (max(-low, high) - 1) + 64
