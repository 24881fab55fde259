"""The functions that operators compute with, on torch tensors.

The same float32 operations in the same order as on NumPy arrays, each rounded once: no
reduced precision, no fused multiply-add, and no division by a Python number, which CUDA
turns into a multiplication. Sums over a row are in float64, where the last bit may
differ from NumPy's.
"""

# ruff: noqa: D102 - ArrayOps says what each function computes.

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...coding.symbols import symbol_dtype
from ...streams import Draws, Stream
from .backends import COMPILE
from .numpy_ops import NUMPY
from .ops import Array, ArrayOps, no_level
from .torch_draws import DeviceDraws, StreamDraws
from .torch_fused import Functions
from .torch_powers import powers, round_to_powers

__all__ = ["TorchOps"]

_BLOCK = 1 << 12
"""Entries of a row that are summed at a time."""

_DTYPES = {
    np.dtype(np.int8): torch.int8,
    np.dtype(np.int16): torch.int16,
    np.dtype(np.int32): torch.int32,
}


class TorchOps(ArrayOps):
    """Torch on one device, whole tables at a time.

    The host waits for the device where the answer decides what comes next or how large
    it is: `within`, `num_infinite`, `count`, `search`, `positions`, `top_k`,
    `bernoulli`, `round_to_powers`, and `round` with `refine`.

    Parameters
    ----------
    device : torch.device
        Where the tensors live.
    as_device : bool, optional
        Whether private randomness comes from the device's own generator and nothing
        is left to NumPy. By default so on all devices but the CPU, where it comes from
        the stream itself and the symbols are those of NumPy arrays.
    compiled : bool, optional
        Whether torch compiles what a device computes, the values being the same; by
        default if the environment variable :data:`~.backends.COMPILE` is not empty.
    """

    def __init__(
        self,
        device: torch.device,
        as_device: bool | None = None,
        compiled: bool | None = None,
    ) -> None:
        self._device = device
        self._as_device = device.type != "cpu" if as_device is None else as_device
        compiles = bool(os.environ.get(COMPILE)) if compiled is None else compiled
        self._functions = Functions(compiles and self._as_device)

    def vector(self, x: Array) -> Array:
        return x.detach().to(torch.float32).reshape(-1).contiguous()

    def draws(self, stream: Stream) -> Draws:
        if self._as_device:
            return DeviceDraws(stream, self._device)
        return self.shared_draws(stream)

    def shared_draws(self, stream: Stream) -> Draws:
        blocks = self._functions.philox if self._as_device else None
        return StreamDraws(stream, self._device, blocks)

    def within(self, x: Array, low: float, high: float) -> bool:
        # aminmax hands a NaN on, and no comparison with it holds.
        if not x.numel():
            return True
        least, greatest = torch.aminmax(x)
        return bool((least >= low) & (greatest <= high))

    def num_infinite(self, x: Array) -> tuple[int, int]:
        bad = (~torch.isfinite(x)).nonzero()
        return len(bad), int(bad[0]) if len(bad) else 0

    def squares(self, table: Array) -> Array:
        if self._as_device:
            return self._functions.squares(table)
        wide = table.to(torch.float64)
        return _row_sums(wide.mul_(wide))

    def abs_sums(self, table: Array) -> Array:
        return _row_sums(table.to(torch.float64).abs_())

    def reaches(self, table: Array, bounds: Array) -> Array:
        return table.abs() >= bounds[:, None]

    def same(self, x: Array, y: Array) -> bool:
        return torch.equal(x, y)

    def tails(self, table: Array, bounds: Array) -> tuple[Array, Array]:
        magnitudes = table.abs()
        large = magnitudes >= bounds[:, None]
        counts = large.sum(dim=1).to(torch.float64)
        return counts, _row_sums(magnitudes.mul_(large).to(torch.float64))

    def limit(self, table: Array, bounds: Array) -> Array:
        limited = torch.maximum(table, -bounds[:, None])
        return torch.minimum(limited, bounds[:, None], out=limited)

    def extremes(self, table: Array) -> tuple[Array, Array]:
        low, high = torch.aminmax(table, dim=1)
        return low + 0.0, high + 0.0

    def where(self, condition: Array, yes: Any, no: Any) -> Array:
        return torch.where(condition, yes, no)

    def divide(self, x: Array, divisor: Array | float) -> Array:
        if not isinstance(divisor, Tensor):
            divisor = torch.full((), divisor, dtype=x.dtype, device=x.device)
        return x / divisor

    def sqrt(self, x: Array) -> Array:
        return torch.sqrt(x)

    def ceil(self, x: Array) -> Array:
        return torch.ceil(x)

    def clip(self, x: Array, low: float | None, high: float | None) -> Array:
        return torch.clamp(x, low, high)

    def float32(self, x: Array) -> Array:
        return x.to(torch.float32)

    def float64(self, x: Array) -> Array:
        return x.to(torch.float64)

    def int64(self, x: Array) -> Array:
        return x.to(torch.int64)

    def narrow(self, x: Array, low: int, high: int) -> Array:
        return x.to(_DTYPES[symbol_dtype(low, high)])

    def concat(self, parts: list[Array]) -> Array:
        return torch.cat(parts)

    def empty(self) -> Array:
        return torch.zeros(0, dtype=torch.float32, device=self._device)

    def integers(self, count: int, low: int, high: int) -> Array:
        dtype = _DTYPES[symbol_dtype(low, high)]
        return torch.empty(count, dtype=dtype, device=self._device)

    def falses(self, dim: int) -> Array:
        return torch.zeros(dim, dtype=torch.bool, device=self._device)

    def count(self, mask: Array) -> int:
        return int(torch.count_nonzero(mask))

    def multiples(self, number: int, count: int) -> Array:
        return torch.arange(count, dtype=torch.int64, device=self._device) * number

    def search(self, positions: Array, bounds: list[int]) -> list[int]:
        bounds_there = torch.tensor(bounds, dtype=torch.int64, device=self._device)
        found: list[int] = torch.searchsorted(positions, bounds_there).tolist()
        return found

    def positions(self, mask: Array) -> Array:
        return mask.nonzero().reshape(-1)

    def scatter(self, dim: int, positions: Array, values: Array) -> Array:
        result = torch.zeros(dim, dtype=torch.float32, device=self._device)
        result[positions] = values
        return result

    def densify(self, dim: int, positions: Array, entries: Array) -> Array:
        result = torch.zeros(dim, dtype=entries.dtype, device=self._device)
        result[positions] = entries
        return result

    def top_k(self, table: Array, k: int) -> Array:
        if not self._as_device:
            # An order of magnitude faster there.
            return torch.from_numpy(NUMPY.top_k(table.numpy(), k))
        magnitudes = table.abs()
        largest = torch.topk(magnitudes, k, dim=1, sorted=False).values
        thresholds = largest.amin(dim=1, keepdim=True)
        kept = magnitudes > thresholds
        missing = k - kept.sum(dim=1, keepdim=True)
        ties = magnitudes == thresholds
        kept |= ties & (ties.cumsum(dim=1, dtype=torch.int32) <= missing)
        return self.positions(kept.reshape(-1))

    def bernoulli(self, p: float, count: int, draws: Draws) -> Array:
        dither: Any = draws.dither(count)
        t = 65536.0 * p
        whole = math.floor(t)
        result: Tensor = dither < whole
        ties = self.positions(dither == whole)
        if ties.numel():
            up: Any = draws.uniforms(ties.numel()) < t - whole
            result[ties] = up
        return result

    def round(
        self,
        table: Array,
        offsets: Array | None,
        scales: Array,
        levels: float,
        high: int,
        dither: Array,
        refine: Draws | None,
        below: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        # Any positive scale gives the zeros of a row of zeros.
        scales = torch.where(scales > 0, scales, 1.0)[:, None]
        bits = 8 if dither.dtype == torch.uint8 else 16
        factor = self._number(levels * 2.0**bits)
        if offsets is not None:
            offsets = offsets[:, None]
        dtype = _DTYPES[symbol_dtype(-high, high)] if out is None else out.dtype
        dither = dither.reshape(table.shape)
        k, *tied = self._functions.levels(
            table, offsets, scales, factor, dither, bits, dtype, refine is not None
        )
        if refine is not None:
            places = self.positions(tied[0].reshape(-1))
            if places.numel():
                rows = places // table.shape[1]
                t = table.reshape(-1)[places]
                if offsets is not None:
                    t = t - offsets[rows, 0]
                t = t / scales[rows, 0] * factor
                rest = t.to(torch.float64) - torch.floor(t)
                up: Any = refine.uniforms(places.numel()) < rest
                k.reshape(-1)[places] += up.to(dtype)
        if below is not None:
            k = self._functions.counted(k, below.to(dtype)[:, None], table)
        return k if out is None else out.copy_(k)

    def _number(self, number: float) -> Tensor:
        return torch.full((), number, dtype=torch.float32, device=self._device)

    def round_to_powers(self, x: Array, dither: Array, refine: Draws) -> Array:
        return round_to_powers(x, dither, refine)

    def powers(self, symbols: Array) -> Array:
        return powers(symbols)

    def product(self, integers: Array, scales: Array) -> Array:
        return integers * scales

    def scaled(
        self,
        integers: Array,
        scales: Array,
        offsets: Array | None = None,
        dither: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        scales = scales[:, None]
        if dither is not None:
            scales, dither = scales * 2.0**-17, dither.reshape(integers.shape)
        if offsets is not None:
            offsets = offsets[:, None]
        return self._functions.scaled(integers, scales, offsets, dither)

    def scaled_from_zero(
        self,
        integers: Array,
        below: Array,
        scales: Array,
        offsets: Array,
        highest: int,
        dither: Array | None,
        out: Array | None = None,
    ) -> Array:
        levels = integers + below.to(integers.dtype)[:, None]
        # Integers that overflow become negative.
        if not self.within(levels, 0.0, highest + 1.0):
            raise no_level(highest)
        levels -= (integers > 0).to(integers.dtype)
        result = self.scaled(levels, scales, offsets, dither)
        return result.masked_fill_(integers == 0, 0.0)

    def rotate(self, table: Array, signs: list[Array], inverse: bool) -> Array:
        width = table.shape[1]
        part = signs[0].shape[1]
        factor = float(np.float32(part**-0.5))
        spans = [slice(0, part), slice(width - part, width)][: len(signs)]
        steps = list(zip(spans, signs, strict=True))
        result = table.clone()
        for span, flips in reversed(steps) if inverse else steps:
            factors = 1.0 - 2.0 * flips.to(torch.float32)
            block = result[:, span]
            if inverse:
                result[:, span] = _hadamard(block).mul_(factor).mul_(factors)
            else:
                result[:, span] = _hadamard(block * factors).mul_(factor)
        return result


def _row_sums(table: Tensor) -> Tensor:
    """Sum in two stages: torch splits one long sum by the number of threads."""
    rows, width = table.shape
    whole = width - width % _BLOCK
    sums = table[:, whole:].sum(dim=1)
    if whole:
        blocks = table[:, :whole].reshape(rows, -1, _BLOCK)
        sums += blocks.sum(dim=2).sum(dim=1)
    return sums


def _hadamard(table: Tensor) -> Tensor:
    """Walsh-Hadamard transform of each row, in stages of falling stride; overwrites."""
    rows, width = table.shape
    inner = 1 << ((width.bit_length() - 1) // 2)
    # The short strides run along the other axis, so that all loops are long.
    blocks = _stages(table.reshape(rows, width // inner, inner).contiguous())
    blocks = _stages(blocks.transpose(1, 2).contiguous())
    return blocks.transpose(1, 2).reshape(rows, width)


def _stages(table: Tensor) -> Tensor:
    """All stages along the middle axis of an array, shape (rows, length, inner)."""
    rows, length, inner = table.shape
    spare = torch.empty_like(table)
    stride = length // 2
    while stride >= 1:
        old = table.view(rows, -1, 2, stride * inner)
        new = spare.view(rows, -1, 2, stride * inner)
        torch.add(old[:, :, 0], old[:, :, 1], out=new[:, :, 0])
        torch.sub(old[:, :, 0], old[:, :, 1], out=new[:, :, 1])
        table, spare = spare, table
        stride //= 2
    return table
