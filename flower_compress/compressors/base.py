"""The interface of a compressor."""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..coding import Symbols, choose_code
from ..coding.symbols import host_array
from ..errors import (
    BiasedCompressorError,
    ConfigurationError,
    CorruptPacket,
    NonFiniteError,
)
from ..streams import Draws, Stream
from .arrays import Array, ArrayOps
from .backends import array_ops
from .numpy_arrays import NUMPY

__all__ = ["Compressed", "Compressor", "Part", "Vector", "as_vector"]

Vector = NDArray[np.float32]
"""A flat float32 vector, shape (d,)."""

Sizes = tuple[int, ...]
"""Lengths of the tensors that a vector is made of, in order."""

LARGEST = float(np.finfo(np.float32).max)
"""The largest float32."""

Tables = tuple[tuple[int, int, int], ...]
"""Start, rows and width of each table of equal buckets."""

_MAX_UINT32 = 2**32 - 1
_BUCKETED, _PER_TENSOR = 0x80, 0x40
_BUCKET = struct.Struct("<I")


@dataclass(frozen=True, slots=True, eq=False)
class Compressed:
    """What a compressor makes of a vector: integers for a code, and float32 values.

    Parameters
    ----------
    dim : int
        Length d of the vector.
    values : NDArray[np.float32] or torch.Tensor
        Scales, or the kept entries; 32 bits each on the wire.
    symbols : Symbols, optional
        The integers, None where the values say it all.
    """

    dim: int
    values: Array
    symbols: Symbols | None = None

    def numpy(self) -> Compressed:
        """Return the same as NumPy arrays, without a copy if it is on the CPU."""
        if isinstance(self.values, np.ndarray):
            return self
        symbols = None if self.symbols is None else self.symbols.numpy()
        return Compressed(self.dim, host_array(self.values), symbols)

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
        if symbols is None:
            return num_bits
        if isinstance(symbols.entries, np.ndarray):
            return num_bits + choose_code(code, symbols).num_bits(symbols)
        from ..coding.torch_lengths import num_bits as num_bits_on_device

        return num_bits + num_bits_on_device(code, symbols)


@dataclass(slots=True, eq=False)
class Part:
    """The same for one table, the buckets of equal length.

    Parameters
    ----------
    values : array, float32
        One after the other.
    entries : array, integer, optional
        Shape (rows, width), or the nonzero ones, shape (k,).
    positions : array, int64, optional
        Flat positions of the nonzero entries, ascending.
    """

    values: Array
    entries: Array | None = None
    positions: Array | None = None


@dataclass(frozen=True, repr=False)
class Compressor(ABC):
    """An operator C on vectors, described by its parameters alone.

    ``decompress(compress(x))`` is C(x), bit for bit what the receiver decodes.
    Subclasses are frozen dataclasses; an operator is either unbiased and has an
    `omega`, or biased and has a `contraction`.

    Parameters
    ----------
    bucket_size : int, optional
        Vectors are split into buckets of this many entries, and the operator acts on
        each: its own scale, its own k. The last bucket of a vector may be shorter.
        None for one bucket.
    per : {"model", "tensor"}
        Whether the whole model is one vector, or each of its tensors is one.
    """

    bucket_size: int | None = field(default=None, kw_only=True)
    per: Literal["model", "tensor"] = field(default="model", kw_only=True)

    name: ClassVar[str]
    wire_id: ClassVar[int]
    lossless: ClassVar[bool] = False
    entrywise: ClassVar[bool] = False
    """Whether entries do not depend on each other, so that buckets change nothing."""
    _finds_infinite: ClassVar[bool] = False
    """Whether `_compress` itself raises for NaN and infinity, in passing."""

    _wire: ClassVar[struct.Struct] = struct.Struct("<")

    def __post_init__(self) -> None:
        if self.bucket_size is not None:
            check_integer("bucket_size", self.bucket_size, _MAX_UINT32)
        if self.per not in ("model", "tensor"):
            raise ConfigurationError(
                f'per must be "model" or "tensor", got {self.per!r}'
            )

    # --- What an operator is ----------------------------------------------------------

    @property
    def unbiased(self) -> bool:
        """Whether E[C(x)] = x."""
        return True

    @property
    def shared_randomness(self) -> bool:
        """Whether the receiver needs the stream to decompress."""
        return False

    def omega(self, dim: int) -> float:
        """Return omega with E||C(x) - x||^2 <= omega ||x||^2 for d = `dim` entries.

        With ``per="tensor"`` give the length of the longest tensor; that of the whole
        model is a bound too.

        Raises
        ------
        BiasedCompressorError
            If the operator is biased.
        """
        if not self.unbiased:
            raise BiasedCompressorError(
                f"{self.name} is biased and has no omega: use it with ErrorFeedback, "
                "or give the memory's rate yourself"
            )
        return self._omega(self._width(dim)) if dim else 0.0

    def contraction(self, dim: int) -> float:
        """Return delta in [0, 1] with E||C(x) - x||^2 <= (1 - delta) ||x||^2.

        0 where no contraction is known (an unbiased operator with omega >= 1).
        """
        return self._contraction(self._width(dim)) if dim else 1.0

    @abstractmethod
    def alphabet(self, dim: int) -> tuple[int, int] | None:
        """Return the bounds of the symbols, or None if there are none."""

    def __repr__(self) -> str:
        parameters = self.config()
        del parameters["name"]
        shown = ", ".join(f"{name}={value!r}" for name, value in parameters.items())
        return f"{type(self).__name__}({shown})"

    def config(self) -> dict[str, Any]:
        """Return the JSON-able configuration that rebuilds the operator."""
        config = {"name": self.name}
        for item in sorted(fields(self), key=lambda item: item.kw_only is True):
            value = getattr(self, item.name)
            if value != item.default or not item.kw_only:
                config[item.name] = value
        return config

    # --- Vectors ----------------------------------------------------------------------

    def compress(
        self, x: Array, stream: Stream, sizes: Sizes | None = None
    ) -> Compressed:
        """Quantize `x`.

        Parameters
        ----------
        x : NDArray[np.float32] or torch.Tensor
            Any shape; taken as a flat vector of d >= 0 entries. What is not float32 is
            converted.
        stream : Stream
            Where the randomness comes from.
        sizes : tuple[int, ...], optional
            Lengths of the tensors in `x`, for ``per="tensor"``; default one tensor.

        Raises
        ------
        NonFiniteError
            If `x` holds NaN or infinity, or a scale is too large for float32.
        """
        ops = array_ops(x)
        x = ops.vector(x)
        if not self._finds_infinite:
            require_finite(x, ops)
        dim = int(x.shape[0])
        draws = (ops.shared_draws if self.shared_randomness else ops.draws)(stream)
        tables = self._tables(dim, sizes)
        try:
            if len(tables) == 1:
                _, rows, width = tables[0]
                part = self._compress(x.reshape(rows, width), draws, ops, None)
            else:
                part = self._compress_all(x, tables, draws, ops)
        except NonFiniteError:
            # Of the whole vector, not of one table.
            require_finite(x, ops)
            raise
        alphabet = self.alphabet(dim)
        if alphabet is None or part.entries is None:
            return Compressed(dim, part.values)
        entries = part.entries.reshape(-1)
        symbols = Symbols(dim, *alphabet, entries, part.positions)
        return Compressed(dim, part.values, symbols)

    def decompress(
        self,
        compressed: Compressed,
        stream: Stream | None = None,
        sizes: Sizes | None = None,
    ) -> Array:
        """Return C(x), shape (d,), float32.

        Parameters
        ----------
        compressed : Compressed
            What :meth:`compress` returned, or a code decoded.
        stream : Stream, optional
            The stream of the compression; only operators with shared randomness
            need it.
        sizes : tuple[int, ...], optional
            As for :meth:`compress`.

        Raises
        ------
        CorruptPacket
            If the values cannot be those of the operator.
        """
        ops = array_ops(compressed.values)
        draws = None
        if self.shared_randomness:
            if stream is None:
                raise ConfigurationError(
                    f"{self.name} shares randomness with its receiver: expected the "
                    "stream of the compression, got None"
                )
            draws = ops.shared_draws(stream)
        tables = self._tables(compressed.dim, sizes)
        values, parts = compressed.values, _parts(compressed.symbols, tables)
        if len(tables) == 1:
            part = Part(values, *parts[0])
            return self._decompress(part, *tables[0][1:], draws, ops).reshape(-1)
        pieces = [ops.empty()]
        for (_, rows, width), (entries, positions) in zip(tables, parts, strict=True):
            count = self._num_values(rows, width, entries, ops)
            part = Part(values[:count], entries, positions)
            values = values[count:]
            pieces.append(self._decompress(part, rows, width, draws, ops).reshape(-1))
        return ops.concat(pieces)

    def num_values(
        self, dim: int, symbols: Symbols | None, sizes: Sizes | None = None
    ) -> int:
        """Return how many values go with those symbols."""
        tables = self._tables(dim, sizes)
        ops = NUMPY if symbols is None else array_ops(symbols.entries)
        if len(tables) == 1:
            entries = None if symbols is None else symbols.entries
            return self._num_values(*tables[0][1:], entries, ops)
        return sum(
            self._num_values(rows, width, entries, ops)
            for (_, rows, width), (entries, _) in zip(
                tables, _parts(symbols, tables), strict=True
            )
        )

    # --- One table, for subclasses ----------------------------------------------------

    @abstractmethod
    def _compress(
        self, table: Array, draws: Draws, ops: ArrayOps, out: Array | None
    ) -> Part:
        """Quantize a table of finite entries, shape (rows, width), width >= 1.

        `out` has the shape of the table and the dtype of the symbols: integers of all
        entries may be written there and returned, so that nobody has to join tables.
        """

    @abstractmethod
    def _decompress(
        self, part: Part, rows: int, width: int, draws: Draws | None, ops: ArrayOps
    ) -> Array:
        """Return the table, shape (rows, width) or flat."""

    def _num_values(
        self, rows: int, width: int, entries: Array | None, ops: ArrayOps
    ) -> int:
        """Return the number of values of a table, by default one a row."""
        return rows

    @staticmethod
    def _dense(part: Part, rows: int, width: int, ops: ArrayOps) -> Array:
        """Return the integers of a table, shape (rows, width)."""
        if part.entries is None:
            raise ConfigurationError("expected symbols, got None")
        if part.positions is None:
            return part.entries
        return ops.densify(rows * width, part.positions, part.entries).reshape(
            rows, width
        )

    def _omega(self, width: int) -> float:
        """Return omega for buckets of at most `width` entries, by default no bound."""
        return math.inf

    def _contraction(self, width: int) -> float:
        """Return the contraction for buckets of at most `width` entries."""
        return max(0.0, 1.0 - self._omega(width))

    def _width(self, dim: int) -> int:
        """Return the length of the longest bucket."""
        return dim if self.bucket_size is None else min(dim, self.bucket_size)

    def _tables(self, dim: int, sizes: Sizes | None) -> Tables:
        """Return start, rows and width of each table of equal buckets."""
        if self.entrywise or self.per == "model":
            sizes = None
        return _tables(dim, None if self.entrywise else self.bucket_size, sizes)

    def _compress_all(
        self, x: Array, tables: Tables, draws: Draws, ops: ArrayOps
    ) -> Part:
        """Compress the tables of `x` one after the other, or none."""
        alphabet = self.alphabet(x.shape[0])
        whole = None if alphabet is None else ops.integers(x.shape[0], *alphabet)
        values, entries, positions = [ops.empty()], [], []
        for start, rows, width in tables:
            span = slice(start, start + rows * width)
            out = None if whole is None else whole[span].reshape(rows, width)
            part = self._compress(x[span].reshape(rows, width), draws, ops, out)
            values.append(part.values)
            if part.positions is not None:
                positions.append(part.positions + start)
                entries.append(part.entries)
            elif out is not None and part.entries is not out:
                out[...] = part.entries
        if positions:
            return Part(ops.concat(values), ops.concat(entries), ops.concat(positions))
        return Part(ops.concat(values), whole)

    # --- The wire ---------------------------------------------------------------------

    def to_wire(self) -> tuple[int, bytes]:
        """Return the id of the operator and its scope, and the packed parameters."""
        packed: tuple[int, bytes] | None = self.__dict__.get("_packed")
        if packed is None:
            packed = self.__dict__["_packed"] = self._pack()
        return packed

    def _pack(self) -> tuple[int, bytes]:
        wire_id, scope = self.wire_id, b""
        if self.per == "tensor":
            wire_id |= _PER_TENSOR
        if self.bucket_size is not None:
            wire_id |= _BUCKETED
            scope = _BUCKET.pack(self.bucket_size)
        return wire_id, scope + self._wire.pack(*self._wire_values())

    def _wire_values(self) -> tuple[Any, ...]:
        return tuple(
            getattr(self, item.name) for item in fields(self) if not item.kw_only
        )

    @classmethod
    def wire_size(cls, wire_id: int) -> int:
        """Return how many bytes the packed parameters have."""
        return cls._wire.size + (_BUCKET.size if wire_id & _BUCKETED else 0)

    @classmethod
    def from_wire(cls, wire_id: int, data: bytes) -> Compressor:
        """Rebuild the operator from its packed parameters.

        Raises struct.error or ConfigurationError if they are wrong.
        """
        # None is said too: it is not the default of every operator.
        scope: dict[str, Any] = {"bucket_size": None}
        size = 0
        if wire_id & _PER_TENSOR:
            scope["per"] = "tensor"
        if wire_id & _BUCKETED:
            (scope["bucket_size"],) = _BUCKET.unpack_from(data)
            size = _BUCKET.size
        return cls(*cls._parameters(*cls._wire.unpack_from(data, size)), **scope)

    @classmethod
    def _parameters(cls, *values: Any) -> tuple[Any, ...]:
        """Return the arguments of the class from the packed values."""
        return values


def operator_id(wire_id: int) -> int:
    """Return the operator's id without the bits of the scope."""
    return wire_id & ~(_BUCKETED | _PER_TENSOR)


def as_vector(x: object) -> Vector:
    """Return `x` as a contiguous float32 vector, copying only where needed."""
    vector: Vector = NUMPY.vector(x)
    return vector


def require_finite(x: Array, ops: ArrayOps = NUMPY) -> None:
    """Raise if `x` holds NaN or infinity."""
    if not ops.within(x, -LARGEST, LARGEST):
        bad, first = ops.num_infinite(x)
        raise NonFiniteError(
            f"{bad} of {x.shape[0]} entries are NaN or infinite, the first at {first}: "
            "expected finite values; lower the step size or check the data"
        )


def require_scales(
    scales: Array, ops: ArrayOps, table: Array | None = None, bound: float = LARGEST
) -> None:
    """Raise if a scale is beyond `bound`, or not finite because `table` is not."""
    if not ops.within(scales, -bound, bound):
        if table is not None:
            require_finite(table.reshape(-1), ops)
        raise NonFiniteError(
            f"the scale of a bucket exceeds {bound:.3g}: expected a vector of smaller "
            "entries; lower the step size"
        )


def check_scales(scales: Array, ops: ArrayOps, bound: float = LARGEST) -> None:
    """Raise CorruptPacket unless the scales lie in [0, bound]."""
    if not ops.within(scales, 0.0, bound):
        raise CorruptPacket(
            f"expected scales between 0 and {bound:.3g}, got some outside"
        )


def scale_symbols(
    part: Part, rows: int, width: int, scales: Array, ops: ArrayOps
) -> Array:
    """Return symbol * scale, row by row; what is not a symbol stays zero."""
    entries, positions = part.entries, part.positions
    if entries is None:
        raise ConfigurationError("expected symbols, got None")
    if positions is None:
        return ops.scaled(entries, scales)
    kept = scales[positions // width] if rows > 1 else scales
    return ops.scatter(rows * width, positions, ops.product(entries, kept))


def check_integer(name: str, value: object, highest: int) -> None:
    """Raise unless `value` is an integer in [1, highest]."""
    if not isinstance(value, (int, np.integer)) or not 1 <= value <= highest:
        raise ConfigurationError(
            f"{name} must be an integer between 1 and {highest}, got {value!r}"
        )


def check_probability(name: str, value: object) -> None:
    """Raise unless 0 < value <= 1."""
    if not isinstance(value, (int, float)) or not 0.0 < value <= 1.0:
        raise ConfigurationError(f"{name} must lie in (0, 1], got {value!r}")


@lru_cache(maxsize=256)
def _tables(dim: int, bucket_size: int | None, sizes: Sizes | None) -> Tables:
    if sizes is not None and sum(sizes) != dim:
        raise ConfigurationError(
            f"expected tensor sizes that add up to {dim}, got {sum(sizes)}"
        )
    tables, start = [], 0
    for size in (dim,) if sizes is None else sizes:
        width = size if bucket_size is None else min(size, bucket_size)
        if width:
            rows, rest = divmod(size, width)
            tables.append((start, rows, width))
            if rest:
                tables.append((start + rows * width, 1, rest))
        start += size
    return tuple(tables)


def _parts(
    symbols: Symbols | None, tables: Tables
) -> list[tuple[Array | None, Array | None]]:
    """Return the entries and the positions of each table."""
    if symbols is None:
        return [(None, None)] * len(tables)
    entries, positions = symbols.entries, symbols.positions
    if positions is None:
        return [
            (entries[start : start + rows * width].reshape(rows, width), None)
            for start, rows, width in tables
        ]
    if len(tables) == 1:
        return [(entries, positions)]
    starts = [start for start, _, _ in tables]
    cuts = [*array_ops(positions).search(positions, starts), len(positions)]
    return [
        (entries[first:last], positions[first:last] - start)
        for start, first, last in zip(starts, cuts[:-1], cuts[1:], strict=True)
    ]
