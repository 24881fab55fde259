"""Arrays of bits, most significant bit first, one uint8 a bit.

Every function works on whole arrays. Prefix codes are stored as two streams, the
unary quotients and the binary remainders: the length is the same as interleaved
and both directions are array operations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptPacket

__all__ = [
    "Bits",
    "bit_lengths",
    "from_fixed",
    "from_gamma",
    "from_gamma_scalar",
    "gamma_num_bits",
    "to_fixed",
    "to_gamma",
    "to_gamma_scalar",
]

Bits = NDArray[np.uint8]

_MAX_GAMMA_WIDTH = 31


def bit_lengths(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return floor(log2 n) for each n >= 1; exact below 2^53."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64) - 1


def to_fixed(values: NDArray[np.int64], width: int) -> Bits:
    """Write each value in `width` bits. Shape (n,) to (n * width,)."""
    if width == 0:
        return np.zeros(0, dtype=np.uint8)
    shifts = np.arange(width - 1, -1, -1, dtype=np.int64)
    return ((values[:, None] >> shifts) & 1).astype(np.uint8).reshape(-1)


def from_fixed(bits: Bits, count: int, width: int) -> NDArray[np.int64]:
    """Read `count` values of `width` bits from the front of `bits`."""
    if count * width > bits.size:
        raise CorruptPacket(
            f"expected {count} symbols of {width} bits, got {bits.size} bits"
        )
    if width == 0:
        return np.zeros(count, dtype=np.int64)
    weights = np.left_shift(1, np.arange(width - 1, -1, -1, dtype=np.int64))
    table = bits[: count * width].reshape(count, width)
    return table.astype(np.int64) @ weights


def gamma_num_bits(values: NDArray[np.int64]) -> int:
    """Return the length of Elias gamma, sum of 2 floor(log2 n) + 1, in bits."""
    return int(2 * bit_lengths(values).sum() + values.size)


def to_gamma(values: NDArray[np.int64]) -> Bits:
    """Write values n >= 1 in Elias gamma: all unary parts, then all remainders."""
    widths = bit_lengths(values)
    ends = (widths + 1).cumsum()
    unary_size = int(ends[-1]) if ends.size else 0
    total = unary_size - values.size
    bits = np.zeros(unary_size + total, dtype=np.uint8)
    bits[ends - 1] = 1
    if total:
        owner, shifts = _remainder_layout(widths, total)
        bits[unary_size:] = (values[owner] >> shifts) & 1
    return bits


def from_gamma(bits: Bits, count: int, limit: int) -> tuple[NDArray[np.int64], int]:
    """Read `count` gamma-coded values in [1, limit] from the front of `bits`.

    Returns the values and the number of bits they took.
    """
    if count == 0:
        return np.zeros(0, dtype=np.int64), 0
    ends = bits.nonzero()[0][:count]
    if ends.size < count:
        raise CorruptPacket(
            f"expected {count} gamma-coded values, the bits end after {ends.size}"
        )
    widths = ends.copy()
    widths[1:] -= ends[:-1] + 1
    if int(widths.max()) > min(_MAX_GAMMA_WIDTH, limit.bit_length()):
        raise CorruptPacket(f"a gamma-coded value exceeds its limit {limit}")
    unary_size = int(ends[-1]) + 1
    total = unary_size - count
    if unary_size + total > bits.size:
        raise CorruptPacket(
            f"expected {unary_size + total} bits of gamma code, got {bits.size}"
        )
    values = np.left_shift(1, widths)
    if total:
        owner, shifts = _remainder_layout(widths, total)
        remainder = bits[unary_size : unary_size + total].astype(np.int64)
        # A weighted bincount sums in float64, exact for the 31 bits of a value.
        values += np.bincount(
            owner, weights=remainder << shifts, minlength=count
        ).astype(np.int64)
    if int(values.max()) > limit:
        raise CorruptPacket(f"a gamma-coded value exceeds its limit {limit}")
    return values, unary_size + total


def to_gamma_scalar(value: int) -> Bits:
    """Write one value n >= 1 in Elias gamma."""
    width = value.bit_length() - 1
    bits = np.zeros(2 * width + 1, dtype=np.uint8)
    for i in range(width + 1):
        bits[2 * width - i] = (value >> i) & 1
    return bits


def from_gamma_scalar(bits: Bits, limit: int) -> tuple[int, int]:
    """Read one gamma-coded value in [1, limit]; also how many bits it took."""
    head = bits[: 2 * limit.bit_length() + 1].tolist()
    try:
        width = head.index(1)
    except ValueError:
        raise CorruptPacket("expected a gamma-coded count, got no bit set") from None
    value = 0
    for bit in head[width : 2 * width + 1]:
        value = 2 * value + bit
    if len(head) < 2 * width + 1 or value > limit:
        raise CorruptPacket(f"a gamma-coded count is cut off or exceeds {limit}")
    return value, 2 * width + 1


def _remainder_layout(
    widths: NDArray[np.int64], total: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each remainder bit, the value it belongs to and its power of two."""
    owner = np.arange(widths.size).repeat(widths)
    return owner, (widths.cumsum() - 1)[owner] - np.arange(total)
