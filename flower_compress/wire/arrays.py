"""Flower's arrays to NumPy's and back: bfloat16 too, which NumPy lacks.

A bfloat16 is the upper half of a float32. Its values are read as float32, and rounded
to the nearest, of two to the even one. The bytes of such an Array are those that Flower
makes of an array of ``ml_dtypes.bfloat16``: its dtype says ``bfloat16``, its data is a
NumPy file of entries of two bytes, little-endian.
"""

from __future__ import annotations

import io
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray

from .building import new_array
from .framing import bytes_of

__all__ = [
    "BFLOAT16",
    "array_of_bytes",
    "decode_entries",
    "encode_entries",
    "item_size",
    "kind_of",
    "read_array",
    "unfit",
    "write_array",
]

BFLOAT16 = "bfloat16"
"""Name of the dtype."""

_NUMPY_STYPE = "numpy.ndarray"
_BITS = np.dtype("<u2")


def read_array(array: Array) -> NDArray[Any]:
    """Return ``array.numpy()``, read-only and without a copy where that can be.

    That of bfloat16 is returned as float32.
    """
    if array.stype == _NUMPY_STYPE:
        header = _npy_header(array.dtype, tuple(array.shape))
        # What numpy.save wrote for this very dtype and shape needs no parsing.
        if array.data.startswith(header):
            stored = _BITS if array.dtype == BFLOAT16 else np.dtype(array.dtype)
            entries = np.frombuffer(array.data, stored, offset=len(header))
            if entries.size == prod(array.shape):
                entries = entries.reshape(array.shape)
                return _values(entries) if array.dtype == BFLOAT16 else entries
    entries = array.numpy()
    if array.dtype == BFLOAT16 and entries.dtype.str in ("<V2", "|V2", "<u2"):
        return _values(entries.view(_BITS))
    return entries


def write_array(entries: NDArray[Any], shape: tuple[int, ...] | None = None) -> Array:
    """Return ``Array(entries.reshape(shape))``, byte for byte, but quicker."""
    shape = entries.shape if shape is None else shape
    return array_of_bytes(_dtype_name(entries.dtype), shape, bytes_of(entries))


def array_of_bytes(
    dtype: str, shape: tuple[int, ...], data: bytes | memoryview
) -> Array:
    """Return the Array whose entries are those bytes, in C order."""
    return new_array(dtype, shape, _NUMPY_STYPE, _npy_header(dtype, shape) + data)


def encode_entries(entries: NDArray[Any], dtype: str) -> bytes:
    """Return entries as the bytes of that dtype, in C order."""
    if dtype == BFLOAT16:
        return _bits(entries).tobytes()
    return entries.astype(dtype, copy=False).tobytes()


def decode_entries(data: bytes, dtype: str, count: int, offset: int) -> NDArray[Any]:
    """Return `count` entries of that dtype, flat; those of bfloat16 as float32."""
    if dtype == BFLOAT16:
        return _values(np.frombuffer(data, _BITS, count, offset))
    return np.frombuffer(data, dtype, count, offset)


def kind_of(dtype: str) -> str:
    """Return the kind of a dtype ("f" for floats), nothing if there is no such one."""
    if dtype == BFLOAT16:
        return "f"
    try:
        return np.dtype(dtype).kind
    except (SyntaxError, TypeError, ValueError):
        return ""


def item_size(dtype: str) -> int:
    """Return the bytes of an entry."""
    return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize


def unfit(entries: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return the entries, flat ones, that `dtype` does not hold.

    A float holds any number, if rounded; an integer whole numbers within its range, a
    boolean 0 and 1.
    """
    if entries.dtype.kind not in "fiub":
        return entries
    kind = kind_of(dtype)
    if kind == "f" or entries.dtype == np.dtype(dtype):
        return entries[:0]
    limits = None if kind == "b" else np.iinfo(dtype)
    low, high = (0, 1) if limits is None else (int(limits.min), int(limits.max))
    if entries.dtype.kind == "f":
        wide = entries.astype(np.float64)
        # The largest integer may have no float64 of its own, the next one has.
        fits = (wide >= float(low)) & (wide < float(high + 1))
        fits &= (wide == np.rint(wide)) & (wide == entries)
    else:
        fits = (entries >= low) & (entries <= high)
    return entries[~fits]


def _values(bits: NDArray[Any]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = np.left_shift(bits, 16, dtype=np.uint32).view("f4")
    return values


def _bits(entries: NDArray[Any]) -> NDArray[Any]:
    """Round to the nearest bfloat16, ties to even; what is beyond becomes infinite."""
    values = np.ascontiguousarray(entries, np.float32)
    bits = values.view(np.uint32)
    upper = bits >> 16
    rounded = (bits + (upper & 1) + 0x7FFF) >> 16
    # Carried on, the bits of a NaN would become those of a number.
    return np.where(np.isnan(values), upper | 0x40, rounded).astype(_BITS)


@lru_cache(maxsize=64)
def _dtype_name(dtype: np.dtype[Any]) -> str:
    return str(dtype)


@lru_cache(maxsize=4096)
def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the header that ``numpy.save`` writes for a C-ordered array."""
    described = np.lib.format.dtype_to_descr
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer,
        {
            "descr": "<V2" if dtype == BFLOAT16 else described(np.dtype(dtype)),
            "fortran_order": False,
            "shape": shape,
        },
    )
    return buffer.getvalue()
