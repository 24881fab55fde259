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
def _product(_: Any, a: Any, b: Any) -> Any:
    """Return the upper and the lower 64 bits of a product, of one multiplication."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        word, wide = ir.IntType(64), ir.IntType(128)
        x, y = (builder.zext(each, wide) for each in arguments)
        both = builder.mul(x, y)
        high = builder.trunc(builder.lshr(both, ir.Constant(wide, 64)), word)
        halves = high, builder.trunc(both, word)
        return context.make_tuple(builder, signature.return_type, halves)

    pair = types.UniTuple(types.uint64, 2)
    return pair(types.uint64, types.uint64), generate


@kernel
def _after(c0: Any, c1: Any, c2: Any, c3: Any) -> Any:
    """Return the counter that follows."""
    zero, one = np.uint64(0), np.uint64(1)
    c0 += one
    if c0 == zero:
        c1 += one
        if c1 == zero:
            c2 += one
            if c2 == zero:
                c3 += one
    return c0, c1, c2, c3


@kernel
def _fill(out: Any, place: Any) -> None:
    """Write the blocks that follow a place: key, then counter, lowest word first.

    Two at a time: while one waits for its products, the other one's are computed.
    """
    x = place[2], place[3], place[4], place[5]
    for start in range(0, out.size, 8):
        x = _after(*x)
        y = _after(*x)
        x0, x1, x2, x3 = x
        y0, y1, y2, y3 = x = y
        k0, k1 = place[0], place[1]
        for _ in range(10):
            high0, low0 = _product(_M0, x0)
            high1, low1 = _product(_M1, x2)
            high2, low2 = _product(_M0, y0)
            high3, low3 = _product(_M1, y2)
            x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
            y0, y1, y2, y3 = high3 ^ y1 ^ k0, low3, high2 ^ y3 ^ k1, low2
            k0 += _W0
            k1 += _W1
        out[start], out[start + 1], out[start + 2], out[start + 3] = x0, x1, x2, x3
        out[start + 4], out[start + 5], out[start + 6], out[start + 7] = y0, y1, y2, y3


def words(
    key: tuple[int, int], counter: tuple[int, int, int, int], count: int
) -> NDArray[np.uint64]:
    """Return what ``np.random.Philox(key=key, counter=counter).random_raw`` does."""
    blocks = np.empty(-(-count // 8) * 8, dtype=np.uint64)
    _fill(blocks, np.array((*key, *counter), dtype=np.uint64))
    return blocks[:count]
