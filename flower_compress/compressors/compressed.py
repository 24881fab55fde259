"""A vector, and what a compressor makes of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..coding import Symbols, choose_code
from ..coding.symbols import host_array
from .arrays import NUMPY, Array

__all__ = ["Compressed", "Vector", "as_vector"]

Vector = NDArray[np.float32]
"""A flat float32 vector, shape (d,)."""


def as_vector(x: object) -> Vector:
    """Return `x` as a contiguous float32 vector, copying only where needed."""
    vector: Vector = NUMPY.vector(x)
    return vector


class Compressed(NamedTuple):
    """What a compressor makes of a vector: integers for a code, and float32 values.

    Or, where several operators share the vector, what each makes of its part.

    Attributes
    ----------
    dim : int
        Length d of the vector.
    values : NDArray[np.float32] or torch.Tensor
        Scales, or the kept entries; 32 bits each on the wire.
    symbols : Symbols, optional
        The integers, None where the values say it all.
    parts : tuple[Compressed, ...]
        The parts of a vector that several operators share; else none.
    ties : int
        Which arrays are left out as copies of others, a bit each; see :class:`Tied`.
    """

    dim: int
    values: Array
    symbols: Symbols | None = None
    parts: tuple[Compressed, ...] = ()
    ties: int = 0

    def numpy(self) -> Compressed:
        """Return the same as NumPy arrays, without a copy if it is on the CPU."""
        if isinstance(self.values, np.ndarray):
            return self
        symbols = None if self.symbols is None else self.symbols.numpy()
        parts = tuple(part.numpy() for part in self.parts)
        return Compressed(self.dim, host_array(self.values), symbols, parts, self.ties)

    def tensors(self, device: Any) -> Compressed:
        """Return the same as torch tensors on a device.

        Parameters
        ----------
        device : torch.device or str
            Where :meth:`~.base.Compressor.decompress` is to compute: what travels there
            are the symbols, mostly a byte an entry.
        """
        symbols = self.symbols
        if symbols is not None:
            at = symbols.positions
            symbols = Symbols(
                symbols.dim,
                symbols.low,
                symbols.high,
                _tensor(symbols.entries, device),
                None if at is None else _tensor(at, device),
            )
        parts = tuple(part.tensors(device) for part in self.parts)
        values = _tensor(self.values, device)
        return Compressed(self.dim, values, symbols, parts, self.ties)

    def num_bits(self, code: str) -> int:
        """Return the exact length in bits after that code: its bits and 32 a value.

        Of tensors it is computed on their device.

        Parameters
        ----------
        code : str
            One of :data:`~flower_compress.coding.CODE_NAMES`.

        Raises
        ------
        UnknownNameError
            If there is no such code.
        ConfigurationError
            If the code cannot write these symbols, or counts on the host only and these
            are tensors: call :meth:`numpy` first.
        """
        num_bits, symbols = 32 * len(self.values), self.symbols
        num_bits += sum(part.num_bits(code) for part in self.parts)
        if symbols is None:
            return num_bits
        if isinstance(symbols.entries, np.ndarray):
            return num_bits + choose_code(code, symbols).num_bits(symbols)
        from ..coding.torch_lengths import num_bits as num_bits_on_device

        return num_bits + num_bits_on_device(code, symbols)


def _tensor(x: Any, device: Any) -> Any:
    import torch

    if isinstance(x, np.ndarray):
        # torch takes no read-only memory, which is what received bytes are.
        x = torch.from_numpy(x if x.flags.writeable else x.copy())
    return x.to(device)
