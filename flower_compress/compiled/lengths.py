"""The length of nested Golomb runs, as the choice of a code asks for it.

What :meth:`~flower_compress.coding.nested_golomb.NestedGolomb.num_bits` counts, from
dense symbols.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import kernel

__all__ = ["count_levels", "nested_num_bits"]

_FEW = 1 << 12


@kernel
def count_levels(values: Any, lowest: int, size: int) -> Any:
    """Return how often each of lowest, lowest + 1, ... occurs, `size` of them."""
    # Few levels in four tables: equal neighbours need not wait for each other.
    tables = 4 if size <= _FEW else 1
    counts = np.zeros((tables, size), dtype=np.int64)
    for i in range(values.size):
        level = np.int64(values[i]) - lowest
        if 0 <= level < size:
            counts[i & (tables - 1), level] += 1
    for k in range(1, tables):
        for n in range(size):
            counts[0, n] += counts[k, n]
    return counts[0]


@kernel
def _gamma(number: int) -> int:
    bits = 0
    while number >> bits:
        bits += 1
    return 2 * bits - 1


@kernel
def _parameter(k: int, n: int) -> int:
    """Return golomb_parameter, for numbers whose products 64 bits hold."""
    return max(1, (45426 * n * n + 10055 * n * k + 5450 * k * k) // (65536 * n * k))


@kernel
def _width(M: int) -> int:
    bits = 0
    while (M - 1) >> bits:
        bits += 1
    return bits


@kernel
def _golomb(magnitudes: Any, size: int, level: int, count: int) -> int:
    """Return the length of the support of those of at least `level`."""
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
    b = _width(M)
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
def nested_num_bits(entries: Any, low: int, largest: int, nested: int) -> int:
    """Return the length of dense symbols, at most 2^20 of them; -1 if it is too long.

    Excesses are counted up to 2^20 in all: beyond, 64 bits might not hold a product.
    """
    size = entries.size
    left = np.empty(size, dtype=np.int32)
    for i in range(size):
        left[i] = abs(np.int32(entries[i]))
    total, level = 0, 1
    while True:
        count = 0
        for i in range(size):
            count += left[i] >= level
        total += _golomb(left, size, level, count)
        if level == 1 and low < 0:
            total += count
        place = 0
        for i in range(size):
            left[place] = left[i]
            place += left[i] >= level
        size = count
        level += 1
        if size == 0 or level > min(largest, nested):
            break
    if size and largest > nested:
        excess = 0
        for i in range(size):
            excess += left[i] - nested
        if excess > 1 << 20:
            return -1
        total += _gamma(excess + 1)
        if excess:
            M = _parameter(size, size + excess)
            b = _width(M)
            total += size * b
            for i in range(size):
                total += (left[i] - nested + 2 * M - (1 << b)) // M
    return total
