"""Philox 4x64-10, the generator of :mod:`flower_compress.streams`.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .jit import intrinsic, kernel, types

__all__ = ["words"]

_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_W0, _W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)


@intrinsic
def _high(_: Any, a: Any, b: Any) -> Any:
    """Return the upper 64 bits of a product of 128."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        wide = ir.IntType(128)
        x, y = (builder.zext(each, wide) for each in arguments)
        product = builder.lshr(builder.mul(x, y), ir.Constant(wide, 64))
        return builder.trunc(product, ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


@kernel
def _fill(out: Any, place: Any) -> None:
    """Write the blocks that follow a place: key, then counter, lowest word first."""
    c0, c1, c2, c3 = place[2], place[3], place[4], place[5]
    zero, one = np.uint64(0), np.uint64(1)
    for block in range(out.size // 4):
        c0 += one
        if c0 == zero:
            c1 += one
            if c1 == zero:
                c2 += one
                if c2 == zero:
                    c3 += one
        k0, k1 = place[0], place[1]
        x0, x1, x2, x3 = c0, c1, c2, c3
        for _ in range(10):
            high0, low0 = _high(_M0, x0), _M0 * x0
            high1, low1 = _high(_M1, x2), _M1 * x2
            x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
            k0 += _W0
            k1 += _W1
        out[4 * block] = x0
        out[4 * block + 1] = x1
        out[4 * block + 2] = x2
        out[4 * block + 3] = x3


def words(
    key: tuple[int, int], counter: tuple[int, int, int, int], count: int
) -> NDArray[np.uint64]:
    """Return what ``np.random.Philox(key=key, counter=counter).random_raw`` does."""
    blocks = np.empty(-(-count // 4) * 4, dtype=np.uint64)
    _fill(blocks, np.array((*key, *counter), dtype=np.uint64))
    return blocks[:count]
