"""Elementwise arithmetic on a device, each as one function, which torch may compile.

Compiled, entries are read and written once. The values stay: no product is followed by
a sum, which a compiler would take in one rounding, but through float64, where a product
is exact; and quotients are taken in float64 and rounded to float32, which is the
correctly rounded quotient (53 >= 2 * 24 + 2 bits), where a compiled division of float32
need not be. What comes first of each kind is compared with the plain function's result
all the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Functions", "Fused"]


class Fused:
    """A function, compiled as long as it returns what it returns plain.

    Parameters
    ----------
    plain : Callable
        Of tensors and constants, to tensors.
    compiled : Callable, optional
        The same for torch to compile; None if it is not to be.
    tolerance : float
        Up to which part of themselves results may differ: sums.
    """

    def __init__(
        self,
        plain: Callable[..., Any],
        compiled: Callable[..., Any] | None,
        tolerance: float = 0.0,
    ) -> None:
        self._plain, self._tolerance = plain, tolerance
        self._compiled: Callable[..., Any] | None = None
        if compiled is not None:
            self._compiled = torch.compile(compiled, dynamic=True, fullgraph=True)
        self._compared: set[tuple[Any, ...]] = set()
        self._refused: set[tuple[Any, ...]] = set()

    def __call__(self, *args: Any) -> Any:
        """Return what the function returns."""
        if self._compiled is None:
            return self._plain(*args)
        kind = tuple(a.dtype if isinstance(a, Tensor) else a for a in args)
        if kind in self._refused:
            return self._plain(*args)
        try:
            found = self._compiled(*args)
        except Exception as error:  # noqa: BLE001 - of a compiler that lacks something
            reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            return self._refuse(kind, args, reason)
        if kind in self._compared:
            return found
        if not self._same(found, self._plain(*args)):
            return self._refuse(kind, args, "other results than before")
        self._compared.add(kind)
        return found

    def _refuse(self, kind: tuple[Any, ...], args: tuple[Any, ...], why: str) -> Any:
        self._refused.add(kind)
        warnings.warn(
            f"{self._plain.__name__} is computed without torch.compile: {why}",
            RuntimeWarning,
            stacklevel=4,
        )
        return self._plain(*args)

    def _same(self, found: Any, expected: Any) -> bool:
        if isinstance(expected, Tensor):
            found, expected = (found,), (expected,)
        pairs = zip(found, expected, strict=True)
        if not self._tolerance:
            return all(torch.equal(one, other) for one, other in pairs)
        return all(
            torch.allclose(one, other, rtol=self._tolerance, atol=0.0)
            for one, other in pairs
        )


class Functions:
    """The functions of a device.

    Parameters
    ----------
    compiled : bool
        Whether torch compiles them.
    """

    def __init__(self, compiled: bool = False) -> None:
        def fused(plain: Callable[..., Any], wide: Callable[..., Any]) -> Fused:
            return Fused(plain, wide if compiled else None)

        self.levels = fused(_levels, _wide_levels)
        self.counted = fused(_counted, _counted)
        self.scaled = fused(_scaled, _wide_scaled)
        self.philox = fused(_philox, _philox)
        self.squares = Fused(_squares, _squares_at_once if compiled else None, 1e-10)


def _levels(
    table: Tensor,
    offsets: Tensor | None,
    scales: Tensor,
    factor: Tensor,
    dither: Tensor,
    bits: int,
    dtype: torch.dtype,
    refines: bool,
) -> tuple[Tensor, ...]:
    """Return k of :meth:`.ops.ArrayOps.round`, and where a uniform decides."""
    t = table if offsets is None else table - offsets
    return _rounded(t / scales, factor, dither, bits, dtype, refines)


def _wide_levels(
    table: Tensor,
    offsets: Tensor | None,
    scales: Tensor,
    factor: Tensor,
    dither: Tensor,
    bits: int,
    dtype: torch.dtype,
    refines: bool,
) -> tuple[Tensor, ...]:
    t = table if offsets is None else table - offsets
    t = (t.to(torch.float64) / scales.to(torch.float64)).to(torch.float32)
    return _rounded(t, factor, dither, bits, dtype, refines)


def _rounded(
    t: Tensor,
    factor: Tensor,
    dither: Tensor,
    bits: int,
    dtype: torch.dtype,
    refines: bool,
) -> tuple[Tensor, ...]:
    t = t.mul_(factor)
    total = (t.floor_() if refines else t.round_()).to(torch.int32)
    total += dither
    if not refines:
        return (total.bitwise_right_shift_(bits).to(dtype),)
    # The lowest bits all set: the dither fell into t's own interval.
    last = (1 << bits) - 1
    tied = (total & last) == last
    return total.bitwise_right_shift_(bits).to(dtype), tied


def _counted(k: Tensor, below: Tensor, table: Tensor) -> Tensor:
    """Integers counted from `below`, without a zero but where the table has one."""
    k = k - below
    k += (k >= 0).to(k.dtype)
    return k.masked_fill_(table == 0, 0)


def _scaled(
    integers: Tensor, scales: Tensor, offsets: Tensor | None, dither: Tensor | None
) -> Tensor:
    result = _undithered(integers, dither).to(torch.float32).mul_(scales)
    return result if offsets is None else result.add_(offsets)


def _wide_scaled(
    integers: Tensor, scales: Tensor, offsets: Tensor | None, dither: Tensor | None
) -> Tensor:
    wide = _undithered(integers, dither).to(torch.float32).to(torch.float64)
    result = (wide * scales.to(torch.float64)).to(torch.float32)
    return result if offsets is None else result + offsets


def _undithered(integers: Tensor, dither: Tensor | None) -> Tensor:
    if dither is None:
        return integers
    wide = torch.int32 if integers.dtype == torch.int8 else torch.int64
    total = integers.to(wide).bitwise_left_shift_(16)
    total -= dither
    return total.bitwise_left_shift_(1).add_(65535)


def _squares(table: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(table, dim=1, dtype=torch.float64)
    return norms.square_()


def _squares_at_once(table: Tensor) -> Tensor:
    return table.to(torch.float64).square().sum(dim=1)


_ROUNDS = 10
_LOW = (1 << 32) - 1
_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157


def _philox(counters: Tensor, constants: Tensor) -> Tensor:
    """Blocks of Philox 4x64-10, shape (n, 4), by the lowest words of their counters.

    `constants` holds the other three words, then each round's two keys. Source: Salmon
    et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
    """
    a, b, c, d = counters, constants[0], constants[1], constants[2]
    for i in range(3, 3 + 2 * _ROUNDS, 2):
        high0, low0 = _product(a, _MULTIPLIERS[0])
        high1, low1 = _product(c, _MULTIPLIERS[1])
        a, b = high1 ^ b ^ constants[i], low1
        c, d = high0 ^ d ^ constants[i + 1], low0
    return torch.stack([word.expand_as(a) for word in (a, b, c, d)], dim=1)


def _product(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Return the high and the low 64 bits of unsigned products, in int64."""
    low, high = factor & _LOW, factor >> 32
    x_low, x_high = x & _LOW, (x >> 32) & _LOW
    # Each sum is below 2^64; a shift of int64 keeps the sign, hence the mask.
    middle = x_high * low + ((x_low * low >> 32) & _LOW)
    other = x_low * high + (middle & _LOW)
    top = x_high * high + ((middle >> 32) & _LOW) + ((other >> 32) & _LOW)
    return top, x * (factor - (1 << 64))
