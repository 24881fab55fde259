"""The numbers of a stream as torch tensors on a device.

What both ends draw is the stream itself: Philox 4x64-10 is computed on the device where
there is much of it, else by NumPy, the same words. What only the sender needs comes
from the device's own generator.
"""

# ruff: noqa: D102 - Draws says what each function returns.

from __future__ import annotations

import hashlib
import struct
import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...streams import Draws, Stream
from .torch_fused import Fused

__all__ = ["DeviceDraws", "StreamDraws", "philox"]

_MASK = (1 << 64) - 1
_MANY_WORDS = 1 << 18
"""From here on the device computes: before, its many small steps take longer."""

_BLOCKS = 1 << 22
"""Blocks that are computed at a time, which bounds the memory."""

_STEPS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
"""By which the keys of Philox grow with each round."""


class StreamDraws(Draws):
    """The stream's own numbers as tensors on a device; on the CPU in place.

    Words come as int64 and dithers as int32, since torch has few operations on
    unsigned integers.

    Parameters
    ----------
    stream : Stream
        The stream.
    device : torch.device
        Where the numbers go.
    blocks : Fused, optional
        With which the device computes them where they are many.
    """

    __slots__ = ("_blocks", "_device", "_draws")

    def __init__(
        self, stream: Stream, device: torch.device, blocks: Fused | None
    ) -> None:
        super().__init__(stream)
        self._draws = Draws(stream)
        self._device = device
        self._blocks = blocks if sys.byteorder == "little" else None

    def words(self, count: int) -> Any:
        there = self._there(count)
        if there is not None:
            return there
        return self._upload(self._draws.words(count).view(np.int64))

    def dither(self, count: int) -> Any:
        there = self._there(-(-count // 4))
        if there is not None:
            short = there.view(torch.int16)[:count]
        else:
            dither = self._draws.dither(count).astype(np.uint16, copy=False)
            # Two bytes an entry travel to the device.
            short = self._upload(dither.view(np.int16))
        return short.to(torch.int32).bitwise_and_(0xFFFF)

    def short_dither(self, count: int) -> Any:
        there = self._there(-(-count // 8))
        if there is not None:
            return there.view(torch.uint8)[:count]
        return self._upload(self._draws.short_dither(count))

    def signs(self, count: int) -> Any:
        there = self._there(-(-count // 64))
        if there is None:
            return self._upload(self._draws.signs(count))
        places = torch.arange(8, dtype=torch.uint8, device=self._device)
        bits = there.view(torch.uint8)[:, None].bitwise_right_shift(places)
        return bits.bitwise_and_(1).reshape(-1)[:count]

    def uniforms(self, count: int) -> Any:
        there = self._there(count)
        if there is None:
            return self._upload(self._draws.uniforms(count))
        high = there.bitwise_right_shift(11).bitwise_and_((1 << 53) - 1)
        return high.to(torch.float64).mul_(2.0**-53)

    def _there(self, count: int) -> Tensor | None:
        if self._blocks is None or count < _MANY_WORDS:
            return None
        key, counter = self._draws.skip_words(count)
        return philox(key, counter, count, self._device, self._blocks)

    def _upload(self, numbers: NDArray[Any]) -> Tensor:
        # CUDA copies pageable memory before it returns: the host need not wait.
        return torch.from_numpy(numbers).to(self._device, non_blocking=True)


class DeviceDraws(Draws):
    """Numbers of the device's own generator, seeded from the key of the stream."""

    __slots__ = ("_device", "_generator")

    def __init__(self, stream: Stream, device: torch.device) -> None:
        super().__init__(stream)
        self._device = device
        self._generator = torch.Generator(device)
        self._generator.manual_seed(_seed(stream))

    def words(self, count: int) -> Any:
        words = torch.empty(count, dtype=torch.int64, device=self._device)
        return words.random_(-(2**63), None, generator=self._generator)

    def dither(self, count: int) -> Any:
        return self._integers(1 << 16, count, torch.int32)

    def short_dither(self, count: int) -> Any:
        return self._integers(1 << 8, count, torch.uint8)

    def signs(self, count: int) -> Any:
        return self._integers(2, count, torch.uint8)

    def uniforms(self, count: int) -> Any:
        return torch.rand(
            count, generator=self._generator, dtype=torch.float64, device=self._device
        )

    def _integers(self, limit: int, count: int, dtype: torch.dtype) -> Tensor:
        return torch.randint(
            limit, (count,), generator=self._generator, dtype=dtype, device=self._device
        )


def _seed(stream: Stream) -> int:
    """Return 63 bits that depend on the whole key of the stream."""
    key = [stream.seed, int(stream.purpose), stream.index, stream.version]
    if stream.part:
        key.append(stream.part)
    data = struct.pack(f"<{len(key)}Q", *(number & _MASK for number in key))
    digest = hashlib.blake2b(data, digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def philox(
    key: tuple[int, int],
    counter: tuple[int, ...],
    count: int,
    device: torch.device,
    blocks: Fused,
) -> Tensor:
    """Return `count` words of the blocks after a counter, as int64, shape (count,).

    As NumPy's ``Philox`` has them, whose first block is that of the counter plus one.
    """
    num_blocks = -(-count // 4)
    words = torch.empty(num_blocks, 4, dtype=torch.int64, device=device)
    first, *rest = counter
    keys = [
        k + i * step for i in range(10) for k, step in zip(key, _STEPS, strict=True)
    ]
    numbers = [_signed(number) for number in (*rest, *keys)]
    constants = torch.tensor(numbers, dtype=torch.int64, device=device)
    for start in range(0, num_blocks, _BLOCKS):
        end = min(start + _BLOCKS, num_blocks)
        counters = torch.arange(first + 1 + start, first + 1 + end, device=device)
        words[start:end] = blocks(counters, constants)
    return words.reshape(-1)[:count]


def _signed(number: int) -> int:
    number &= _MASK
    return number - (1 << 64) if number >> 63 else number
