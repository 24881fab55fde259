"""Powers of two in torch tensors: rounding to them at random, and what symbols mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...streams import Draws
from .ops import LEAST_POWER, MANTISSA_BITS

__all__ = ["powers", "round_to_powers"]

_ONE = 1 << MANTISSA_BITS
"""What raises the exponent of a float32 by one; below it all are subnormal."""


def round_to_powers(x: Tensor, dither: Any, refine: Draws) -> Tensor:
    """Return :meth:`ArrayOps.round_to_powers`."""
    bits = x.view(torch.int32)
    magnitudes = bits & 0x7FFFFFFF
    zero = magnitudes == 0
    # m 2^-149 has the mantissa of the float32 m, and its exponent less 149.
    normalised = magnitudes.to(torch.float32).view(torch.int32) + LEAST_POWER * _ONE
    magnitudes = torch.where(magnitudes < _ONE, normalised, magnitudes)
    shift = MANTISSA_BITS - (8 if dither.dtype == torch.uint8 else 16)
    # What overflows the mantissa raises the exponent.
    total = dither.to(torch.int32).bitwise_left_shift(shift).add_(magnitudes)
    last = _ONE - (1 << shift)
    tied = ((total & last) == last).nonzero().reshape(-1)
    if tied.numel():
        rest = (magnitudes[tied] & ((1 << shift) - 1)).to(torch.float64) * 2.0**-shift
        up: Any = refine.uniforms(tied.numel()) < rest
        total[tied] += up.to(torch.int32) << shift
    # u = 2 e + s; the exponent is biased by 127.
    u: Tensor = total.bitwise_right_shift_(MANTISSA_BITS - 1).bitwise_and_(-2).sub_(254)
    u += (bits < 0).to(torch.int32)
    u += (u >= 0).to(torch.int32)
    return u.masked_fill_(zero, 0).to(torch.int16)


def powers(symbols: Tensor) -> Tensor:
    """Return :meth:`ArrayOps.powers`."""
    u = symbols.to(torch.int32)
    zero = u == 0
    u -= (u > 0).to(torch.int32)
    exponents = u >> 1
    normal = (exponents + 127) << MANTISSA_BITS
    subnormal = 1 << (exponents - LEAST_POWER).clamp_(0, MANTISSA_BITS)
    bits = torch.where(exponents < -126, subnormal, normal)
    bits |= u << 31
    values: Tensor = bits.masked_fill_(zero, 0).view(torch.float32)
    return values
