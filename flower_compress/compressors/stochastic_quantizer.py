"""QSGD's stochastic quantization.

Source: Alistarh et al., "QSGD: communication-efficient SGD via gradient
quantization and encoding" (NeurIPS 2017), section 3.1.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ..coding import Symbols
from ..coding.symbols import symbol_dtype
from ..errors import ConfigurationError, NonFiniteError
from ..streams import Stream
from .base import Compressed, Compressor, Vector, check_integer, require_finite

__all__ = ["StochasticQuantizer"]

_LARGEST = np.finfo(np.float32).max
_NORMS: tuple[Literal[2, "inf"], ...] = (2, "inf")


@dataclass(frozen=True)
class StochasticQuantizer(Compressor):
    """C(x)_i = ||x|| sign(x_i) psi_i / s with psi_i in {l, l + 1}, l <= s|x_i|/||x||.

    psi_i = floor(s |x_i| / ||x|| + u_i) for independent uniforms u_i, so that
    E[C(x)] = x. A bucket of zeros gives zeros.

    Parameters
    ----------
    levels : int
        s >= 1, the number of levels besides zero; at most 2^15 - 1.
    norm : 2 or "inf"
        The norm that scales the levels.
    bucket_size : int, optional
        Vectors are split into buckets of this many entries, each with its own
        norm; None for one bucket. A smaller bucket has a smaller omega and costs
        32 bits more.
    """

    levels: int = 1
    norm: Literal[2, "inf"] = 2
    bucket_size: int | None = None

    name: ClassVar[str] = "stochastic-quantizer"
    wire_id: ClassVar[int] = 2
    _wire: ClassVar[struct.Struct] = struct.Struct("<HBI")

    def __post_init__(self) -> None:
        check_integer("levels", self.levels, 32767)
        if self.norm not in _NORMS:
            raise ConfigurationError(f'norm must be 2 or "inf", got {self.norm!r}')
        if self.bucket_size is not None:
            check_integer("bucket_size", self.bucket_size, 2**32 - 1)

    def compress(self, x: Vector, stream: Stream) -> Compressed:
        """Quantize `x` with one uniform an entry."""
        table = self._buckets(x)
        magnitudes = np.abs(table)
        if self.norm == 2:
            squares = np.square(table, dtype=np.float64)
            with np.errstate(over="ignore"):
                norms = np.sqrt(squares.sum(axis=1)).astype(np.float32)
        else:
            norms = magnitudes.max(axis=1, initial=0.0)
        if not np.isfinite(norms).all():
            require_finite(x)
            raise NonFiniteError(
                f"the norm {float(norms.max())} of a bucket exceeds float32: expected "
                "a vector of smaller entries; lower the step size"
            )
        # A zero bucket would divide by zero; any positive norm gives its zeros.
        divisors = np.where(norms > 0, norms, np.float32(1.0))
        # x / ||x|| before * s: s / ||x|| would overflow for subnormal norms.
        magnitudes /= divisors[:, None]
        magnitudes *= np.float32(self.levels)
        magnitudes += stream.uniforms(table.size).reshape(table.shape)
        # Rounding may carry psi to s + 1 where |x_i| = ||x||.
        np.minimum(magnitudes, np.float32(self.levels), out=magnitudes)
        np.copysign(np.floor(magnitudes, out=magnitudes), table, out=magnitudes)
        entries = magnitudes.astype(symbol_dtype(-self.levels, self.levels))
        entries = entries.reshape(-1)[: x.size]
        return Compressed(
            x.size, norms, Symbols(x.size, -self.levels, self.levels, entries)
        )

    def decompress(self, compressed: Compressed) -> Vector:
        """Return symbols * (||x|| / s), bucket by bucket."""
        dim = compressed.dim
        if compressed.symbols is None:
            raise ConfigurationError("a quantized vector needs its symbols")
        scales = compressed.values / np.float32(self.levels)
        # s * (||x|| / s) may round to infinity where ||x|| is the largest float32.
        largest = np.nextafter(_LARGEST / np.float32(self.levels), np.float32(0.0))
        np.clip(scales, -largest, largest, out=scales)
        result = np.zeros(dim, dtype=np.float32)
        positions, entries = compressed.symbols.sparse()
        if self.bucket_size is None:
            if dim:
                result[positions] = entries * scales[0]
        else:
            result[positions] = entries * scales[positions // self.bucket_size]
        return result

    def alphabet(self) -> tuple[int, int]:
        """Symbols lie in [-s, s]."""
        return -self.levels, self.levels

    def num_values(self, dim: int, num_nonzero: int) -> int:
        """One norm a bucket."""
        if self.bucket_size is None:
            return 1 if dim else 0
        return -(-dim // self.bucket_size)

    def omega(self, dim: int) -> float:
        """Return omega for buckets of d = min(dim, bucket_size) entries.

        min(d / s^2, sqrt(d) / s) for the 2-norm (QSGD, lemma 3.1). For the
        infinity norm min(d / (4 s^2), (1 + sqrt(d)) / (2 s)): an entry's variance is
        at most (||x||/s)^2 min(1/4, s|x_i|/||x||), and ||x||_inf ||x||_1 is at most
        (1 + sqrt(d))/2 ||x||_2^2.
        """
        d = dim if self.bucket_size is None else min(dim, self.bucket_size)
        s = self.levels
        if self.norm == 2:
            return min(d / s**2, math.sqrt(d) / s)
        return min(d / (4.0 * s**2), (1.0 + math.sqrt(d)) / (2.0 * s))

    def _buckets(self, x: Vector) -> Vector:
        """Return `x` as a table of one bucket a row, the last padded with zeros."""
        if self.bucket_size is None or x.size <= self.bucket_size:
            return x.reshape(1 if x.size else 0, x.size)
        rows = self.num_values(x.size, 0)
        if rows * self.bucket_size == x.size:
            return x.reshape(rows, self.bucket_size)
        padded = np.zeros(rows * self.bucket_size, dtype=np.float32)
        padded[: x.size] = x
        return padded.reshape(rows, self.bucket_size)

    def _wire_values(self) -> tuple[Any, ...]:
        return self.levels, _NORMS.index(self.norm), self.bucket_size or 0

    @classmethod
    def _from_wire_values(cls, *values: Any) -> StochasticQuantizer:
        levels, norm, bucket_size = values
        if norm >= len(_NORMS):
            raise ConfigurationError(f"norm id {norm} is not known")
        return cls(levels, _NORMS[norm], bucket_size or None)
