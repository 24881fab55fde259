"""Nested Golomb runs, bit by bit, where NumPy makes a dozen arrays of each support.

The bits are those of :mod:`~flower_compress.coding.nested_golomb`. Of dense symbols, at
most 2^20 of them, whose excesses add up to no more: beyond, 64 bits might not hold a
product. What is too long for that, and bits that are no code, are left to NumPy, which
also says what is wrong with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel, zeros_above

__all__ = ["LONGEST", "decode", "encode", "fill_around", "num_bits"]

LONGEST = 1 << 20

_ALL, _TOP = np.uint64(2**64 - 1), np.uint64(1 << 63)


@kernel
def _bit_length(number: int) -> int:
    bits = 0
    while number >> bits:
        bits += 1
    return bits


@kernel
def _gamma(number: int) -> int:
    return 2 * _bit_length(number) - 1


@kernel
def _parameter(k: int, n: int) -> int:
    """Return golomb_parameter, for numbers whose products 64 bits hold."""
    return max(1, (45426 * n * n + 10055 * n * k + 5450 * k * k) // (65536 * n * k))


@kernel
def _truncation(M: int) -> Any:
    """Return how many bits each remainder has first, and c; see ``golomb.py``."""
    b = _bit_length(M - 1)
    c = (1 << b) - M
    return (b - 1 if c else b), c


@kernel
def _magnitudes(entries: Any) -> Any:
    magnitudes = np.empty(entries.size, dtype=np.int32)
    for i in range(entries.size):
        magnitudes[i] = abs(np.int32(entries[i]))
    return magnitudes


@kernel
def _count(magnitudes: Any, size: int, level: int) -> int:
    count = 0
    for i in range(size):
        count += magnitudes[i] >= level
    return count


@kernel
def _keep(magnitudes: Any, size: int, level: int) -> int:
    """Move those of at least `level` to the front; return how many they are."""
    place = 0
    for i in range(size):
        magnitudes[place] = magnitudes[i]
        place += magnitudes[i] >= level
    return place


@kernel
def _support_num_bits(magnitudes: Any, size: int, level: int) -> int:
    """Return the length of the support of those of at least `level`."""
    count = _count(magnitudes, size, level)
    total = _gamma(count + 1)
    inside = 2 * count <= size
    k = count if inside else size - count
    if k == 0:
        return total
    M = _parameter(k, size)
    if M == 1:
        # A bit for each place up to the last.
        last = size - 1
        while (magnitudes[last] >= level) != inside:
            last -= 1
        return total + last + 1
    b = _bit_length(M - 1)
    short = 2 * M - (1 << b)
    total += k * b
    last, quotients = -1, 0
    # Most runs are short: no division for them.
    for i in range(size):
        if (magnitudes[i] >= level) == inside:
            r = i - last - 1 + short
            last = i
            if r >= M:
                quotients += 1 if r < 2 * M else r // M
    return total + quotients


@kernel
def num_bits(entries: Any, low: int, largest: int, nested: int) -> int:
    """Return the length of dense symbols; -1 if their excesses are too large."""
    size, left = entries.size, _magnitudes(entries)
    total, level = 0, 1
    while True:
        total += _support_num_bits(left, size, level)
        size = _keep(left, size, level)
        if level == 1 and low < 0:
            total += size
        level += 1
        if size == 0 or level > min(largest, nested):
            break
    if size and largest > nested:
        excess = 0
        for i in range(size):
            excess += left[i] - nested
        if excess > LONGEST:
            return -1
        total += _gamma(excess + 1)
        if excess:
            M = _parameter(size, size + excess)
            b = _bit_length(M - 1)
            total += size * b
            for i in range(size):
                total += (left[i] - nested + 2 * M - (1 << b)) // M
    return total


@kernel
def _put(out: Any, at: int, numbers: Any, count: int, bit: int) -> int:
    """Write bit `bit` of each number; return the place that follows, as all do."""
    if count == 0:
        return at
    place, have = at >> 3, at & 7
    held = np.uint32(out[place]) >> np.uint32(8 - have)
    for i in range(count):
        held = held << np.uint32(1) | np.uint32(numbers[i] >> bit & 1)
        have += 1
        if have == 8:
            out[place] = held
            place, have, held = place + 1, 0, np.uint32(0)
    if have:
        out[place] = held << np.uint32(8 - have)
    return at + count


@kernel
def _put_gamma(out: Any, at: int, number: int) -> int:
    width = _gamma(number)
    for bit in range(width - 1, -1, -1):
        out[at >> 3] |= np.uint8((number >> bit & 1) << (7 - (at & 7)))
        at += 1
    return at


@kernel
def _put_runs(out: Any, at: int, runs: Any, lasts: Any, count: int, M: int) -> int:
    """Write `count` runs, Golomb-coded with M; they are written over."""
    width, c = _truncation(M)
    longs = 0
    for i in range(count):
        r = np.int64(runs[i])
        quotient = 0
        # Most quotients are small: no division for them.
        if r >= M:
            quotient = 1 if r < 2 * M else r // M
        at += quotient
        out[at >> 3] |= np.uint8(0x80 >> (at & 7))
        at += 1
        s = r - quotient * M
        if c and s >= c:
            lasts[longs] = (s + c) & 1
            longs += 1
            s = (s + c) >> 1
        runs[i] = s
    for bit in range(width - 1, -1, -1):
        at = _put(out, at, runs, count, bit)
    return _put(out, at, lasts, longs, 0)


@kernel
def _put_support(
    out: Any, at: int, magnitudes: Any, size: int, level: int, runs: Any, lasts: Any
) -> int:
    """Write the support of those of at least `level`."""
    count = _count(magnitudes, size, level)
    at = _put_gamma(out, at, count + 1)
    inside = 2 * count <= size
    k = count if inside else size - count
    if k == 0:
        return at
    last, place = -1, 0
    for i in range(size):
        if (magnitudes[i] >= level) == inside:
            runs[place] = i - last - 1
            last = i
            place += 1
    return _put_runs(out, at, runs, lasts, k, _parameter(k, size))


@kernel
def _put_signs(out: Any, at: int, entries: Any, signs: Any) -> int:
    count = 0
    for i in range(entries.size):
        signs[count] = entries[i] < 0
        count += entries[i] != 0
    return _put(out, at, signs, count, 0)


@kernel
def encode(entries: Any, low: int, largest: int, nested: int) -> Any:
    """Return the code of dense symbols and its bits; -1 if excesses are too large."""
    total = num_bits(entries, low, largest, nested)
    out = np.zeros(max(total + 7, 0) >> 3, dtype=np.uint8)
    if total < 0:
        return out, total
    size, left = entries.size, _magnitudes(entries)
    runs = np.empty(size, dtype=np.int32)
    lasts = np.empty(size, dtype=np.uint8)
    at, level = 0, 1
    while True:
        at = _put_support(out, at, left, size, level, runs, lasts)
        size = _keep(left, size, level)
        if level == 1 and low < 0:
            at = _put_signs(out, at, entries, lasts)
        level += 1
        if size == 0 or level > min(largest, nested):
            break
    if size and largest > nested:
        excess = 0
        for i in range(size):
            runs[i] = left[i] - nested
            excess += left[i] - nested
        at = _put_gamma(out, at, excess + 1)
        if excess:
            _put_runs(out, at, runs, lasts, size, _parameter(size, size + excess))
    return out, total


@kernel
def _bit(data: Any, at: int) -> int:
    return (data[at >> 3] >> np.uint8(7 - (at & 7))) & np.uint8(1)


@kernel
def _take_gamma(data: Any, at: int, limit: int) -> Any:
    """Return the place that follows, -1 if there is none, and a number up to `limit`.

    Bits past the end count as zeros until the number is known.
    """
    end, longest = 8 * data.size, _gamma(limit)
    zeros = 0
    while 2 * zeros + 1 <= longest:
        if at + zeros < end and _bit(data, at + zeros):
            break
        zeros += 1
    length = 2 * zeros + 1
    if length > longest or at + length > end:
        return -1, 0
    number = 0
    for i in range(at + zeros, at + length):
        number = number << 1 | _bit(data, i)
    return (at + length, number) if number <= limit else (-1, 0)


@kernel
def _word(data: Any, at: int) -> Any:
    """Return 64 bits from byte `at` on, the first one highest; zeros past the end."""
    word = np.uint64(0)
    if at + 8 <= data.size:
        for i in range(8):
            word = word << np.uint64(8) | np.uint64(data[at + i])
        return word
    for i in range(8):
        byte = data[at + i] if at + i < data.size else np.uint8(0)
        word = word << np.uint64(8) | np.uint64(byte)
    return word


@kernel
def _take_ones(data: Any, at: int, end: int, k: int, out: Any) -> int:
    """Write how many zeros are before each of the next k ones, before bit `end`.

    Return the place that follows, -1 if they are fewer.
    """
    found, last, byte = 0, at - 1, at >> 3
    word = _word(data, byte) & (_ALL >> np.uint64(at & 7))
    while found < k:
        base = 8 * byte
        if base >= end:
            return -1
        while word and found < k:
            zeros = zeros_above(word)
            out[found] = base + zeros - last - 1
            last = base + zeros
            found += 1
            word &= ~(_TOP >> np.uint64(zeros))
        byte += 8
        word = _word(data, byte)
    return last + 1 if last < end else -1


@kernel
def _take_runs(data: Any, at: int, k: int, n: int, M: int, out: Any) -> int:
    """Read k positions in [0, n), Golomb-coded with M; return the place that follows.

    -1 if there are none.
    """
    bits = 8 * data.size
    at = _take_ones(data, at, min(at + k + (n - k) // M, bits), k, out)
    if at < 0:
        return -1
    width, c = _truncation(M)
    last_bit = at + k * width
    if last_bit > bits:
        return -1
    position = np.int64(-1)
    for i in range(k):
        s = np.int64(0)
        for plane in range(width):
            s = s << 1 | _bit(data, at + plane * k + i)
        if c:
            # No jump, which would be foretold wrongly for one in two.
            is_long = np.int64(s >= c)
            more = s - c + _bit(data, min(last_bit, bits - 1))
            s += is_long * more
            last_bit += is_long
        position += 1 + np.int64(out[i]) * M + s
        out[i] = position
    return last_bit if position < n and last_bit <= bits else -1


@kernel
def _take_support(data: Any, at: int, size: int, side: Any) -> Any:
    """Return the place that follows or -1, the size of a set, of its smaller side."""
    at, number = _take_gamma(data, at, size + 1)
    if at < 0:
        return -1, 0, 0
    count = number - 1
    k = min(count, size - count)
    if k:
        at = _take_runs(data, at, k, size, _parameter(k, size), side)
    return at, count, k


@kernel
def _leave(index: Any, size: int, side: Any, k: int, to: Any) -> None:
    """Write an index without the entries at the k places `side`."""
    place = start = 0
    for n in range(k + 1):
        end = side[n] if n < k else size
        for i in range(start, end):
            to[place + i - start] = index[i]
        place += end - start
        start = end + 1


@kernel
def _take_magnitudes(
    data: Any, at: int, count: int, largest: int, nested: int, side: Any, found: Any
) -> int:
    """Read the magnitudes of `count` symbols; return the place that follows, or -1.

    A symbol is written where it leaves the nest, so that the many that stay in it are
    moved along and no more.
    """
    index = np.empty(count, dtype=np.int32)
    other = np.empty(count, dtype=np.int32)
    for i in range(count):
        index[i] = i
    level, left = 1, count
    while left and level < min(largest, nested):
        level += 1
        at, inner, k = _take_support(data, at, left, side)
        if at < 0:
            return -1
        if 2 * inner <= left:
            for i in range(left):
                found[index[i]] = level - 1
            for i in range(inner):
                other[i] = index[side[i]]
            index, other = other, index
        elif k:
            for i in range(k):
                found[index[side[i]]] = level - 1
            _leave(index, left, side, k, other)
            index, other = other, index
        left = inner
    for i in range(left):
        found[index[i]] = level
    if left and largest > nested:
        at, number = _take_gamma(data, at, left * (largest - nested) + 1)
        total = number - 1
        if at < 0 or total > LONGEST:
            return -1
        if total:
            size = left + total
            at = _take_runs(data, at, left, size, _parameter(left, size), side)
            if at < 0 or side[left - 1] != size - 1:
                return -1
            last = -1
            for i in range(left):
                excess = side[i] - last - 1
                last = side[i]
                if excess > largest - nested:
                    return -1
                found[index[i]] = nested + excess
    return at


@kernel
def fill_around(positions: Any, other: int, inner: Any, out: Any) -> None:
    """Write `other` at ascending `positions` of `out`, and `inner` in order around."""
    place = taken = 0
    for i in range(positions.size):
        end = np.int64(positions[i])
        while place < end:
            out[place] = inner[taken]
            place += 1
            taken += 1
        out[place] = other
        place += 1
    while place < out.size:
        out[place] = inner[taken]
        place += 1
        taken += 1


@kernel
def decode(data: Any, low: int, high: int, nested: int, side: Any, entries: Any) -> Any:
    """Read symbols in [low, high] at the front of bytes.

    Parameters
    ----------
    data : NDArray[np.uint8]
        The bytes.
    low, high, nested : int
        The alphabet, and the largest magnitude that has a support of its own.
    side : NDArray[np.int32]
        Room for the positions of the nonzeros, or for those of the zeros if they are
        fewer; shape (d,).
    entries : NDArray, integer
        Room for the symbols, shape (d,): all of them if the zeros are fewer, else the
        nonzeros.

    Returns
    -------
    tuple[int, int]
        How many bits they take, -1 if the bits are no code or too long a one, and how
        many are not zero.
    """
    size = entries.size
    at, count, k = _take_support(data, 0, size, side)
    if at < 0:
        return -1, 0
    signs = at
    if low < 0:
        at += count
    if at > 8 * data.size:
        return -1, 0
    largest = max(-low, high)
    magnitudes = np.ones(count, dtype=np.int32)
    if count and largest > 1:
        room = np.empty(count, dtype=np.int32)
        at = _take_magnitudes(data, at, count, largest, nested, room, magnitudes)
        if at < 0:
            return -1, 0
    least = most = 0
    for i in range(count):
        sign = np.int32(_bit(data, signs + i)) if low < 0 else np.int32(0)
        symbol = (magnitudes[i] ^ -sign) + sign
        least, most = min(least, symbol), max(most, symbol)
        magnitudes[i] = symbol
    if least < low or most > high:
        return -1, 0
    if 2 * count <= size:
        for i in range(count):
            entries[i] = magnitudes[i]
    else:
        fill_around(side[:k], 0, magnitudes, entries)
    if at & 7 and data[at >> 3] & np.uint8(0xFF >> (at & 7)):
        return -1, 0
    return at, count
