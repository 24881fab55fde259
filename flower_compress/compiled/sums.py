"""Sums of squares of rows, in the order in which NumPy adds them.

``np.einsum("ij,ij->i", x, x)`` of float64 adds up the products of neighbours in as many
lanes as its vectors have, four vectors at a time from the last to the first, and waits
for every sum. Here four rows are added up side by side. How many lanes there are, and
whether products are rounded, NumPy's build and the processor decide:
:func:`adds_as_numpy` compares.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numpy.typing import NDArray

from .jit import address, intrinsic, kernel, pointer_to, types

__all__ = ["adds_as_numpy", "squares"]

_SIDE = 4
"""Rows side by side: each waits four cycles for a sum."""
_LANES, _STEP = 2, 8
_BUFFER = 8192
"""Entries of NumPy's buffers, unless it is told otherwise."""
_PAIR = ir.VectorType(ir.FloatType(), _LANES)
_SUM = ir.VectorType(ir.DoubleType(), _LANES)


@intrinsic
def _add_rows(_: Any, x: Any, start: Any, apart: Any, steps: Any, sums: Any) -> Any:
    """Add up `steps` times eight squares of four rows that begin `apart` places apart.

    `sums` takes two lanes for each row.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, start, apart, steps, sums = arguments
        zero = ir.Constant(_SUM, [0.0] * _LANES)
        lanes = [cgutils.alloca_once_value(builder, zero) for _ in range(_SIDE)]
        with cgutils.for_range(builder, steps) as loop:
            step = ir.Constant(loop.index.type, _STEP)
            place = builder.add(start, builder.mul(loop.index, step))
            for lane in lanes:
                total = builder.load(lane)
                first = address(context, builder, signature.args[0], x, place)
                for k in (6, 4, 2, 0):
                    pair = builder.gep(first, [ir.Constant(loop.index.type, k)])
                    narrow = builder.load(pointer_to(builder, pair, _PAIR), align=4)
                    wide = builder.fpext(narrow, _SUM)
                    total = builder.fadd(builder.fmul(wide, wide), total)
                builder.store(total, lane)
                place = builder.add(place, apart)
        for row, lane in enumerate(lanes):
            where = ir.Constant(start.type, _LANES * row)
            to = address(context, builder, signature.args[4], sums, where)
            builder.store(builder.load(lane), pointer_to(builder, to, _SUM), align=8)
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, types.intp, sums), generate


@kernel
def _rest(x: Any, start: int, count: int, first: Any, second: Any) -> Any:
    """Add the squares that are no eight to the two lanes, and the lanes."""
    whole = count // _STEP * _STEP
    for i in range(start + whole, start + count - 1, _LANES):
        a, b = np.float64(x[i]), np.float64(x[i + 1])
        first += a * a
        second += b * b
    if count % _LANES:
        a = np.float64(x[start + count - 1])
        first += a * a
    return first + second


@kernel
def _squares(x: Any, start: int, apart: int, count: int, length: int, out: Any) -> None:
    """Write the sums of `count` rows of `length` entries, `apart` places apart."""
    sums = np.empty(_LANES * _SIDE, dtype=np.float64)
    row = 0
    while row < count:
        place, many = start + row * apart, min(_SIDE, count - row)
        # The last ones by themselves: a row beside itself.
        beside = apart if many == _SIDE else 0
        turns = 1 if many == _SIDE else many
        for turn in range(turns):
            _add_rows(x, place + turn * apart, beside, length // _STEP, sums)
            for k in range(_SIDE if many == _SIDE else 1):
                at = place + (turn + k) * apart
                lane = _LANES * k
                out[row + turn + k] = _rest(x, at, length, sums[lane], sums[lane + 1])
        row += many


def squares(table: NDArray[np.float32], block: int) -> NDArray[np.float64]:
    """Return the sum of squares of each row, of parts of `block` entries, added up.

    NumPy takes a row that is alone in its block in pieces as long as its buffers.
    """
    rows, width = table.shape
    flat = table.reshape(-1)
    out = np.empty(rows, dtype=np.float64)
    high = max(1, block // width)
    together = rows
    if width > _BUFFER:
        together = 0 if high == 1 else rows - (rows % high == 1)
    _squares(flat, 0, width, together, width, out)
    pieces = np.empty(-(-width // _BUFFER), dtype=np.float64)
    whole, rest = divmod(width, _BUFFER)
    for row in range(together, rows):
        start = row * width
        _squares(flat, start, _BUFFER, whole, _BUFFER, pieces)
        if rest:
            _squares(flat, start + whole * _BUFFER, rest, 1, rest, pieces[whole:])
        each, total = pieces.tolist(), 0.0
        for first in range(0, len(each), block // _BUFFER):
            part = 0.0
            for piece in each[first : first + block // _BUFFER]:
                part += piece
            total += part
        out[row] = total
    return out


def adds_as_numpy() -> bool:
    """Return whether the NumPy at hand adds up in this order."""
    return np.getbufsize() == _BUFFER and _adds_in_lanes()


@lru_cache(maxsize=1)
def _adds_in_lanes() -> bool:
    # Far apart in size, so that any other order shows.
    n = np.arange(1, 40_001)
    x = (np.sqrt(n * 0.7368 % 1.0) * 2.0 ** (n * 7 % 23)).astype(np.float32)
    for rows, width in (*((9, w) for w in (1, 2, 3, 7, 8, 9, 15, 31, 1031)), (2, 9000)):
        if not _agrees(x[: rows * width].reshape(rows, width)):
            return False
    return _agrees(x.reshape(1, -1))


def _agrees(table: NDArray[np.float32]) -> bool:
    wide = table.astype(np.float64)
    sums = np.einsum("ij,ij->i", wide, wide)
    return bool((squares(table, 8 * _BUFFER) == sums).all())
