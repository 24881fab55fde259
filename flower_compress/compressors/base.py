"""The interface of a compressor."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..coding import Symbols
from ..errors import BiasedCompressorError, ConfigurationError, NonFiniteError
from ..streams import Stream

__all__ = ["Compressed", "Compressor", "Vector", "as_vector"]

Vector = NDArray[np.float32]
"""A flat float32 vector, shape (d,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Compressed:
    """What a compressor makes of a vector: integers for a code, and float32 values.

    Parameters
    ----------
    dim : int
        Length d of the vector.
    values : NDArray[np.float32]
        Scales, or the kept entries; 32 bits each on the wire.
    symbols : Symbols, optional
        The integers, None where the values say it all.
    """

    dim: int
    values: Vector
    symbols: Symbols | None = None


@dataclass(frozen=True)
class Compressor(ABC):
    """An operator C on vectors, described by its parameters alone.

    ``decompress(compress(x))`` is C(x), bit for bit what the receiver decodes.
    Subclasses are frozen dataclasses; a subclass is either unbiased and has an
    `omega`, or biased and has a `contraction`.
    """

    name: ClassVar[str]
    wire_id: ClassVar[int]
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = True
    _wire: ClassVar[struct.Struct] = struct.Struct("<")

    @abstractmethod
    def compress(self, x: Vector, stream: Stream) -> Compressed:
        """Quantize `x`.

        Parameters
        ----------
        x : NDArray[np.float32]
            Shape (d,), d >= 0, contiguous; see :func:`as_vector`.
        stream : Stream
            Where the randomness comes from.

        Raises
        ------
        NonFiniteError
            If `x` holds NaN or infinity.
        """

    @abstractmethod
    def decompress(self, compressed: Compressed) -> Vector:
        """Return C(x), shape (d,)."""

    @abstractmethod
    def alphabet(self) -> tuple[int, int] | None:
        """Return the bounds of the symbols, or None if there are none."""

    @abstractmethod
    def num_values(self, dim: int, num_nonzero: int) -> int:
        """Return the number of values for `dim` entries, `num_nonzero` symbols."""

    def omega(self, dim: int) -> float:
        """Return omega with E||C(x) - x||^2 <= omega ||x||^2.

        Raises
        ------
        BiasedCompressorError
            If the operator is biased.
        """
        raise BiasedCompressorError(
            f"{self.name} is biased and has no omega: use it with ErrorFeedback, or "
            "give the memory's rate yourself"
        )

    def contraction(self, dim: int) -> float:
        """Return delta in [0, 1] with E||C(x) - x||^2 <= (1 - delta) ||x||^2.

        0 where no contraction is known (an unbiased operator with omega >= 1).
        """
        return max(0.0, 1.0 - self.omega(dim))

    def config(self) -> dict[str, Any]:
        """Return the JSON-able configuration that rebuilds the operator."""
        return {
            "name": self.name,
            **{field.name: getattr(self, field.name) for field in fields(self)},
        }

    def to_wire(self) -> bytes:
        """Return the parameters as packed in a packet's header."""
        return self._wire.pack(*self._wire_values())

    @classmethod
    def from_wire(cls, data: memoryview) -> tuple[Compressor, int]:
        """Rebuild the operator from packed parameters; also how long they were."""
        return cls._from_wire_values(*cls._wire.unpack_from(data)), cls._wire.size

    def _wire_values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))

    @classmethod
    def _from_wire_values(cls, *values: Any) -> Compressor:
        return cls(*values)


def as_vector(x: object) -> Vector:
    """Return `x` as a contiguous float32 vector, copying only where needed."""
    # An entry beyond float32 becomes infinite: the compressor reports it.
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(x, dtype=np.float32)
    return array.reshape(-1)


def require_finite(x: Vector) -> None:
    """Raise if `x` holds NaN or infinity."""
    finite = np.isfinite(x)
    if not finite.all():
        bad = int(x.size - np.count_nonzero(finite))
        raise NonFiniteError(
            f"{bad} of {x.size} entries are NaN or infinite, the first at "
            f"{int(np.argmin(finite))}: expected finite values; lower the step size "
            "or check the data"
        )


def check_integer(name: str, value: object, highest: int) -> None:
    """Raise unless `value` is an integer in [1, highest]."""
    if not isinstance(value, (int, np.integer)) or not 1 <= value <= highest:
        raise ConfigurationError(
            f"{name} must be an integer between 1 and {highest}, got {value!r}"
        )


def check_probability(name: str, value: float) -> None:
    """Raise unless 0 < value <= 1."""
    if not 0.0 < value <= 1.0:
        raise ConfigurationError(f"{name} must lie in (0, 1], got {value}")
