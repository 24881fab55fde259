"""Elias' codes of the positive integers.

Source: Elias, "Universal codeword sets and representations of the integers" (1975).

- *gamma*: with w = floor(log2 n), w zeros, a one, and the w bits of n below its leading
  one: 2 w + 1 bits. An array is stored as the zeros and the one of each number, then
  the other bits as planes: plane j has the bits of weight 2^j of the numbers with
  w > j.
- *omega*: groups of bits, then a zero. The last group is n in binary, and each group is
  preceded by one that is its length less one in binary, down to a group of two bits;
  n = 1 has no group. All groups begin with a one. An array is stored as the first bits
  of all numbers, then the other bits of each number that has more, one number after the
  other.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptPacket
from .bit_reader import BitReader
from .bits import BitWriter, Numbers

__all__ = [
    "floor_log2",
    "gamma_num_bits",
    "gammas_num_bits",
    "omegas_num_bits",
    "put_gamma",
    "put_gammas",
    "put_omegas",
    "take_gamma",
    "take_gammas",
    "take_omegas",
]

# Of a number below 2^36.
_LONGEST_OMEGA = 48


def floor_log2(numbers: Numbers) -> NDArray[np.int64]:
    """Return floor(log2 n) for each 1 <= n < 2^53, from the exponent of a float64."""
    return (numbers.astype(np.float64).view(np.int64) >> 52) - 1023


def gamma_num_bits(number: int) -> int:
    """Return the length of the gamma code of one number, 2 floor(log2 n) + 1."""
    return 2 * number.bit_length() - 1


def put_gamma(writer: BitWriter, number: int) -> None:
    """Write one number n >= 1 in gamma."""
    writer.put_number(number, gamma_num_bits(number))


def take_gamma(reader: BitReader, limit: int) -> int:
    """Read one number in [1, limit] in gamma.

    Raises
    ------
    CorruptPacket
        If the number is larger, or its bits are cut off.
    """
    longest = gamma_num_bits(limit)
    bits = reader.peek(longest)
    length = 2 * (longest - bits.bit_length()) + 1
    number = bits >> (longest - length) if length <= longest else limit + 1
    if number > limit:
        raise CorruptPacket(f"a number in gamma exceeds its limit {limit}")
    reader.skip(length)
    return number


def gammas_num_bits(numbers: Numbers) -> int:
    """Return the length of an array in gamma, sum of 2 floor(log2 n) + 1."""
    return int(2 * floor_log2(numbers).sum()) + numbers.size


def put_gammas(writer: BitWriter, numbers: Numbers) -> None:
    """Write an array of numbers n >= 1 in gamma."""
    widths = floor_log2(numbers)
    writer.put_unary(widths + 1)
    writer.put_varying_planes(numbers, widths)


def take_gammas(reader: BitReader, count: int, limit: int) -> NDArray[np.int64]:
    """Read `count` numbers in [1, limit] in gamma.

    Raises
    ------
    CorruptPacket
        If a number is larger, or the bits are cut off.
    """
    widths = reader.take_unary(count, count * limit.bit_length())
    widths[1:] -= widths[:-1] + 1
    if count and int(widths.max()) >= limit.bit_length():
        raise CorruptPacket(f"a number in gamma exceeds its limit {limit}")
    numbers = reader.take_varying_planes(widths)
    numbers += np.left_shift(1, widths)
    if count and int(numbers.max()) > limit:
        raise CorruptPacket(f"a number in gamma exceeds its limit {limit}")
    return numbers


def omegas_num_bits(numbers: Numbers) -> int:
    """Return the length of an array in omega: 1 and the bits of the groups each."""
    total = numbers.size
    groups = numbers[numbers > 1]
    while groups.size:
        widths = floor_log2(groups)
        total += int(widths.sum()) + groups.size
        groups = widths[widths > 1]
    return total


def put_omegas(writer: BitWriter, numbers: NDArray[np.int64]) -> None:
    """Write an array of numbers n >= 1 in omega."""
    more = numbers > 1
    writer.put(more)
    text = "".join([_omega(number)[1:] for number in numbers[more].tolist()])
    writer.put(np.frombuffer(text.encode("ascii"), dtype=np.uint8) & np.uint8(1))


@lru_cache(maxsize=4096)
def _omega(number: int) -> str:
    text = "0"
    while number > 1:
        text = f"{number:b}{text}"
        number = number.bit_length() - 1
    return text


def take_omegas(reader: BitReader, count: int, limit: int) -> NDArray[np.int64]:
    """Read `count` numbers in [1, limit] in omega.

    Raises
    ------
    CorruptPacket
        If a number is larger, or the bits are cut off.
    """
    more = reader.take(count).view(bool).nonzero()[0]
    numbers = np.ones(count, dtype=np.int64)
    numbers[more] = [_take_groups(reader, limit) for _ in range(more.size)]
    return numbers


def _take_groups(reader: BitReader, limit: int) -> int:
    """Read one number in [2, limit] in omega, without the first bit."""
    bits, left, number = reader.peek(_LONGEST_OMEGA), _LONGEST_OMEGA, 1
    more = 1
    while more:
        # The rest of a group, and the first bit of the next one.
        left -= number + 1
        if left < 0:
            break
        group = bits >> left & ((2 << number) - 1)
        number, more = (1 << number) + (group >> 1), group & 1
    if left < 0 or number > limit:
        raise CorruptPacket(f"a number in omega exceeds its limit {limit}")
    reader.skip(_LONGEST_OMEGA - left)
    return number
