"""Powers of two in NumPy arrays: rounding to them at random, and what symbols mean."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...streams import Draws
from .numpy_blocks import BLOCK
from .ops import LEAST_POWER, MANTISSA_BITS, Array

__all__ = ["powers", "round_to_powers"]

_ONE = 1 << MANTISSA_BITS
"""What raises the exponent of a float32 by one; below it all are subnormal."""

_MAGNITUDE = 0x7FFFFFFF


def round_to_powers(x: Array, dither: Array, refine: Draws) -> Array:
    """Return :meth:`ArrayOps.round_to_powers`."""
    bits = x.view(np.int32)
    shift = MANTISSA_BITS - 8 * dither.itemsize
    last, below = _ONE - (1 << shift), (1 << shift) - 1
    result = np.empty(bits.size, dtype=np.int16)
    places: list[Array] = []
    rests: list[Array] = []
    for start in range(0, bits.size, BLOCK):
        block = bits[start : start + BLOCK]
        magnitudes = block & _MAGNITUDE
        nonzero = None
        if magnitudes.min() < _ONE:
            nonzero = magnitudes != 0
            _normalise(magnitudes, nonzero)
        # What overflows the mantissa raises the exponent.
        total = dither[start : start + BLOCK].astype(np.int32)
        total <<= shift
        total += magnitudes
        tied = ((total & last) == last).nonzero()[0]
        if tied.size:
            places.append(tied + start)
            rests.append(magnitudes[tied] & below)
        # u = 2 e + s; the exponent is biased by 127.
        total >>= MANTISSA_BITS - 1
        total &= -2
        total += (block.view(np.uint32) >> 31).view(np.int32)
        u = result[start : start + BLOCK]
        u[...] = total
        u -= 254
        # One more where u is not negative.
        u += (u >> 15) + np.int16(1)
        if nonzero is not None:
            u *= nonzero.astype(np.int16)
    if places:
        up = np.concatenate(places)
        rest = np.concatenate(rests) * 2.0**-shift
        up = up[refine.uniforms(up.size) < rest]
        # From -2 and -1, one half, to 1 and 2: no number is counted as 0.
        symbols = result[up]
        result[up] = symbols + np.where((symbols == -2) | (symbols == -1), 3, 2)
    return result


def _normalise(magnitudes: Array, nonzero: Array) -> None:
    """Give subnormals the mantissa and the exponent that a wider format would have.

    m 2^-149 gets those of the float32 m, less 149 in the exponent.
    """
    small = magnitudes < _ONE
    small &= nonzero
    places = small.nonzero()[0]
    if places.size:
        found = magnitudes[places].astype(np.float32).view(np.int32)
        magnitudes[places] = found + LEAST_POWER * _ONE


def powers(symbols: Array) -> Array:
    """Return :meth:`ArrayOps.powers`."""
    result = np.empty(symbols.size, dtype=np.float32)
    for start in range(0, symbols.size, BLOCK):
        places = symbols[start : start + BLOCK].astype(np.intp)
        places -= 2 * LEAST_POWER
        # Nothing is to be clipped: NumPy is slower where it would raise.
        _POWERS.take(places, out=result[start : start + BLOCK], mode="clip")
    return result


def _all_powers() -> NDArray[np.float32]:
    """Return the values of the symbols -298, -297, ..., 256."""
    symbols = np.arange(2 * LEAST_POWER, 257)
    u = symbols - (symbols > 0)
    values: NDArray[Any] = np.ldexp(1.0 - 2.0 * (u & 1), u >> 1)
    values[symbols == 0] = 0.0
    return values.astype(np.float32)


_POWERS = _all_powers()
