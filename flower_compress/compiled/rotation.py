"""The random rotation of rows, with the levels around it, while a row is in the cache.

What it computes is that of :mod:`~flower_compress.compressors.arrays.numpy_rotation`,
operation by operation: up to three stages of the transform at a time stay in registers,
where NumPy writes each one to memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from . import scratch
from .jit import address, intrinsic, kernel, pointer_to, types

__all__ = ["rotate_back", "round_rows"]

_LANES = 8
_F32, _I32 = ir.FloatType(), ir.IntType(32)
_VECTOR, _BITS = ir.VectorType(_F32, _LANES), ir.VectorType(_I32, _LANES)
_ALIGNMENT = 4

_ROW = 1 << 12
"""Longer rows are transformed in parts of this length once their stages allow it."""


def _load(builder: Any, context: Any, kind: Any, array: Any, index: Any) -> Any:
    pointer = address(context, builder, kind, array, index)
    return builder.load(pointer_to(builder, pointer, _VECTOR), align=_ALIGNMENT)


def _store(
    builder: Any, context: Any, kind: Any, array: Any, index: Any, vector: Any
) -> None:
    pointer = address(context, builder, kind, array, index)
    builder.store(vector, pointer_to(builder, pointer, _VECTOR), align=_ALIGNMENT)


def _stages(count: int) -> Callable[..., Any]:
    """Return a function that makes `count` stages of eight places beside each other."""

    @intrinsic
    def stages(_: Any, array: Any, start: Any, stride: Any) -> Any:
        """Make them at start + k stride, k < 2^count, and the seven after each."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind, (array, start, stride) = signature.args[0], arguments
            places = [start]
            for _ in range(2**count - 1):
                places.append(builder.add(places[-1], stride))
            rows = [_load(builder, context, kind, array, place) for place in places]
            step = 2**count // 2
            while step:
                for k in range(2**count):
                    if not k & step:
                        a, b = rows[k], rows[k + step]
                        rows[k], rows[k + step] = builder.fadd(a, b), builder.fsub(a, b)
                step //= 2
            for place, row in zip(places, rows, strict=True):
                _store(builder, context, kind, array, place, row)
            return context.get_dummy_value()

        return types.void(array, types.intp, types.intp), generate

    return stages


_one_stage, _two_stages, _three_stages = _stages(1), _stages(2), _stages(3)


@intrinsic
def _last_stages(_: Any, array: Any, start: Any) -> Any:
    """Make the stages of stride 4, 2 and 1 of eight neighbours."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, (array, start) = signature.args[0], arguments
        x = _load(builder, context, kind, array, start)
        for stride in (4, 2, 1):
            other = [lane ^ stride for lane in range(_LANES)]
            y = builder.shuffle_vector(x, x, ir.Constant(_BITS, other))
            # a + b = b + a where the pair begins, a - b where it ends.
            mixed = [
                lane if not lane & stride else _LANES + lane for lane in range(_LANES)
            ]
            x = builder.shuffle_vector(
                builder.fadd(x, y), builder.fsub(y, x), ir.Constant(_BITS, mixed)
            )
        _store(builder, context, kind, array, start, x)
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def _flip(
    _: Any, out: Any, to: Any, array: Any, start: Any, signs: Any, factor: Any
) -> Any:
    """Copy eight entries times a factor, signed by a byte's bits, the lowest first."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, to, array, start, signs, factor = arguments
        x = _load(builder, context, signature.args[2], array, start)
        x = builder.fmul(x, _everywhere(builder, factor, _VECTOR))
        every = _everywhere(builder, builder.zext(signs, _I32), _BITS)
        up = ir.Constant(_BITS, [31 - lane for lane in range(_LANES)])
        sign = ir.Constant(_BITS, [-(2**31)] * _LANES)
        minus = builder.and_(builder.shl(every, up), sign)
        flipped = builder.xor(builder.bitcast(x, _BITS), minus)
        flipped = builder.bitcast(flipped, _VECTOR)
        _store(builder, context, signature.args[0], out, to, flipped)
        return context.get_dummy_value()

    places = (out, types.intp, array, types.intp)
    return types.void(*places, types.uint8, types.float32), generate


@intrinsic
def _middle(_: Any, k: Any, j: Any) -> Any:
    """Return 2^17 k - 2 j + 2^16 - 1, in no more bits than that takes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = _I32 if signature.args[0].bitwidth == 8 else ir.IntType(64)
        k, j = arguments
        whole = builder.shl(builder.sext(k, wide), ir.Constant(wide, 17))
        part = builder.shl(builder.zext(j, wide), ir.Constant(wide, 1))
        middle = builder.sub(builder.add(whole, ir.Constant(wide, 2**16 - 1)), part)
        return builder.sitofp(middle, _F32)

    return types.float32(k, types.uint16), generate


def _everywhere(builder: Any, number: Any, kind: Any) -> Any:
    zero = ir.Constant(_I32, 0)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), number, zero)
    return builder.shuffle_vector(one, one, ir.Constant(_BITS, [0] * _LANES))


@kernel
def _copy_flipped(
    out: Any, to: int, array: Any, start: int, signs: Any, bit: int, part: int, by: Any
) -> None:
    """Copy `part` entries times a factor, with the signs from a bit on."""
    if part >= 8:
        for i in range(0, part, 8):
            _flip(out, to + i, array, start + i, signs[(bit + i) >> 3], by)
        return
    for i in range(part):
        x = array[start + i] * by
        place = bit + i
        if (signs[place >> 3] >> np.uint8(place & 7)) & np.uint8(1):
            x = -x
        out[to + i] = x


@kernel
def _down_to(x: Any, start: int, width: int, least: int) -> None:
    """Make the stages after which groups of `least` entries are left, at least 8."""
    size = width
    while size > least:
        # At most three at a time: more places than registers have no use.
        if size >= 8 * least:
            inner = size // 8
            for group in range(start, start + width, size):
                for i in range(group, group + inner, 8):
                    _three_stages(x, i, inner)
        elif size >= 4 * least:
            inner = size // 4
            for group in range(start, start + width, size):
                for i in range(group, group + inner, 8):
                    _two_stages(x, i, inner)
        else:
            inner = size // 2
            for group in range(start, start + width, size):
                for i in range(group, group + inner, 8):
                    _one_stage(x, i, inner)
        size = inner


@kernel
def _transform(x: Any, start: int, width: int) -> None:
    """Walsh-Hadamard transform of 2^m entries, in stages of falling stride."""
    if width < 8:
        stride = width // 2
        while stride:
            for group in range(start, start + width, 2 * stride):
                for i in range(group, group + stride):
                    a, b = x[i], x[i + stride]
                    x[i], x[i + stride] = a + b, a - b
            stride //= 2
        return
    short = min(width, _ROW)
    _down_to(x, start, width, short)
    # What is left concerns neighbours: while they are in the cache.
    for group in range(start, start + width, short):
        _down_to(x, group, short, 8)
        for i in range(group, group + short, 8):
            _last_stages(x, i)


@kernel
def _round_rows(
    table: Any,
    out: Any,
    width: int,
    part: int,
    first_row: int,
    signs: Any,
    more_signs: Any,
    root: Any,
    scales: Any,
    factor: Any,
    dither: Any,
    x: Any,
) -> None:
    """Write k of some rows, flat, to `out`: rotated, scaled, dithered."""
    one = np.float32(1.0)
    second = width - part
    for row in range(table.size // width):
        start, bit = row * width, (first_row + row) * part
        _copy_flipped(x, 0, table, start, signs, bit, part, one)
        _transform(x, 0, part)
        if second:
            first = x[:part]
            for i in range(part):
                first[i] *= root
            # A loop: numba copies slices entry by entry.
            for i in range(part, width):
                x[i] = table[start + i]
            _copy_flipped(x, second, x, second, more_signs, bit, part, one)
            _transform(x, second, part)
        # Slices: an index that might be negative keeps a loop from being vectorised.
        last = x[second:width]
        scale = scales[row]
        j, k = dither[start : start + width], out[start : start + width]
        # The sums in 32 bits, too: of integers numba makes 64.
        for i in range(second):
            t = np.rint(x[i] / scale * factor)
            k[i] = np.int32(np.int32(t) + np.int32(j[i])) >> np.int32(16)
        j, k = j[second:], k[second:]
        for i in range(part):
            t = np.rint(last[i] * root / scale * factor)
            k[i] = np.int32(np.int32(t) + np.int32(j[i])) >> np.int32(16)


@kernel
def _rotate_back(
    integers: Any,
    out: Any,
    width: int,
    part: int,
    first_row: int,
    signs: Any,
    more_signs: Any,
    root: Any,
    scales: Any,
    dither: Any,
    x: Any,
) -> None:
    """Write (k - u + 1/2) scale of some rows, flat, to `out`, rotated back."""
    second = width - part
    for row in range(integers.size // width):
        start, bit, scale = row * width, (first_row + row) * part, scales[row]
        k, j = integers[start : start + width], dither[start : start + width]
        for i in range(width):
            x[i] = _middle(k[i], j[i]) * scale
        if second:
            _transform(x, second, part)
            _copy_flipped(x, second, x, second, more_signs, bit, part, root)
            for i in range(part, width):
                out[start + i] = x[i]
        _transform(x, 0, part)
        _copy_flipped(out, start, x, 0, signs, bit, part, root)


def round_rows(
    table: Any,
    out: Any,
    first_row: int,
    signs: list[Any],
    scales: Any,
    factor: Any,
    dither: Any,
) -> None:
    """Write k of the rows of a table to `out`, rotated, scaled, dithered.

    Parameters
    ----------
    table : NDArray[np.float32]
        Rows, shape (rows, width), contiguous.
    out : NDArray, integer
        The same shape, contiguous.
    first_row : int
        Which row of the signs the first one is.
    signs : list[NDArray[np.uint8]]
        Bytes of signs of all rows, for each rotation.
    scales : NDArray[np.float32]
        Of these rows, shape (rows,), positive.
    factor : np.float32
        2^16 levels.
    dither : NDArray[np.uint16]
        Of these entries, flat.
    """
    width, part, root = _shape(table)
    flat, to = table.reshape(-1), out.reshape(-1)
    _round_rows(
        flat,
        to,
        width,
        part,
        first_row,
        signs[0],
        signs[-1],
        root,
        scales,
        factor,
        dither,
        _row(width),
    )


def rotate_back(
    integers: Any,
    out: Any,
    first_row: int,
    signs: list[Any],
    scales: Any,
    dither: Any,
) -> None:
    """Write what a receiver makes of integers to `out`; as :func:`round_rows`.

    `scales` are 2^-17 times those of the rows.
    """
    width, part, root = _shape(integers)
    flat, to = integers.reshape(-1), out.reshape(-1)
    _rotate_back(
        flat,
        to,
        width,
        part,
        first_row,
        signs[0],
        signs[-1],
        root,
        scales,
        dither,
        _row(width),
    )


def _row(width: int) -> Any:
    """Return room for one row: to touch new memory takes longer than to fill it."""
    return scratch("row", 4 * width).view(np.float32)


def _shape(table: Any) -> tuple[int, int, Any]:
    width = table.shape[1]
    part = 1 << (width.bit_length() - 1)
    return width, part, np.float32(part**-0.5)
