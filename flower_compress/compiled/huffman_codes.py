"""What writing and reading Deflate streams have in common (RFC 1951)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel

__all__ = [
    "DISTANCES",
    "END",
    "FIXED",
    "LENGTHS",
    "LITERALS",
    "MORE",
    "MOST_BITS",
    "MOST_LENGTH_BITS",
    "ORDER",
    "codes_of",
]

END = 256
LITERALS, DISTANCES, LENGTHS = 286, 30, 19
MOST_BITS, MOST_LENGTH_BITS = 15, 7
ORDER = np.array(
    [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15], dtype=np.int64
)
MORE = np.zeros(LITERALS, dtype=np.int64)
MORE[16:19] = 2, 3, 7
"""Bits that follow the lengths 16, 17 and 18."""
FIXED = np.repeat(np.array([8, 9, 7, 8]), (144, 112, 24, 8)).astype(np.int64)


@kernel
def codes_of(lengths: Any, count: int, codes: Any) -> None:
    """Write the code of each length, its first bit the lowest."""
    per_length = np.zeros(MOST_BITS + 1, dtype=np.int64)
    following = np.zeros(MOST_BITS + 1, dtype=np.int64)
    for n in range(count):
        per_length[lengths[n]] += 1
    per_length[0] = 0
    code = 0
    for bits in range(1, MOST_BITS + 1):
        code = (code + per_length[bits - 1]) << 1
        following[bits] = code
    for n in range(count):
        bits = lengths[n]
        if bits:
            code, turned = following[bits], 0
            following[bits] += 1
            for _ in range(bits):
                turned = (turned << 1) | (code & 1)
                code >>= 1
            codes[n] = turned
        else:
            codes[n] = 0
