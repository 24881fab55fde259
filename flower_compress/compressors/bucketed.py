"""Operators that act on each bucket of a vector by itself."""

from __future__ import annotations

import math
import struct
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

from ..coding import Symbols
from ..errors import ConfigurationError, NonFiniteError
from ..streams import Draws, Stream
from .arrays import NUMPY, Array, ArrayOps, array_ops
from .base import Compressor
from .checks import check_integer, plain_fields, require_finite
from .compressed import Compressed
from .tables import Part, Sizes, Tables, cut_symbols, cut_vector

__all__ = ["Bucketed", "operator_id"]

_MAX_UINT32 = 2**32 - 1
_BUCKETED, _PER_TENSOR = 0x80, 0x40
_BUCKET = struct.Struct("<I")


def operator_id(wire_id: int) -> int:
    """Return the operator's id without the bits of the scope."""
    return wire_id & ~(_BUCKETED | _PER_TENSOR)


@dataclass(frozen=True, repr=False)
class Bucketed(Compressor):
    """An operator with a scope: the vectors that it acts on within a vector.

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

    entrywise: ClassVar[bool] = False
    """Whether entries do not depend on each other, so that buckets change nothing."""
    _finds_infinite: ClassVar[bool] = False
    """Whether `_compress` itself raises for NaN and infinity, in passing."""

    def __post_init__(self) -> None:
        plain_fields(self)
        if self.bucket_size is not None:
            check_integer("bucket_size", self.bucket_size, _MAX_UINT32)
        if self.per not in ("model", "tensor"):
            raise ConfigurationError(
                f'per must be "model" or "tensor", got {self.per!r}'
            )

    # --- Vectors ----------------------------------------------------------------------

    def compress(
        self, x: Array, stream: Stream, sizes: Sizes | None = None
    ) -> Compressed:
        """Quantize `x`; see :meth:`Compressor.compress`."""
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
        """Return C(x), shape (d,), float32; see :meth:`Compressor.decompress`."""
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
        values, parts = compressed.values, cut_symbols(compressed.symbols, tables)
        if len(tables) == 1:
            part = Part(values, *parts[0])
            return self._decompress(part, *tables[0][1:], draws, ops).reshape(-1)
        whole = ops.floats(compressed.dim)
        pieces = [ops.empty()]
        for (start, rows, width), (entries, positions) in zip(
            tables, parts, strict=True
        ):
            count = self._num_values(rows, width, entries, ops)
            out = None
            if whole is not None:
                out = whole[start : start + rows * width].reshape(rows, width)
            part = Part(values[:count], entries, positions, out)
            values = values[count:]
            table = self._decompress(part, rows, width, draws, ops)
            if out is None:
                pieces.append(table.reshape(-1))
            elif table is not out:
                out[...] = table.reshape(rows, width)
        return ops.concat(pieces) if whole is None else whole

    def num_values(
        self, dim: int, symbols: Symbols | None, sizes: Sizes | None = None
    ) -> int:
        """Return how many values go with those symbols."""
        tables = self._tables(dim, sizes)
        ops = NUMPY if symbols is None else array_ops(symbols.entries)
        if len(tables) == 1:
            entries = None if symbols is None else symbols.entries
            return self._num_values(*tables[0][1:], entries, ops)
        parts = cut_symbols(symbols, tables)
        return sum(
            self._num_values(rows, width, entries, ops)
            for (_, rows, width), (entries, _) in zip(tables, parts, strict=True)
        )

    def most_nonzeros(self, dim: int, sizes: Sizes | None = None) -> int:
        """Return a bound of their number; see :meth:`Compressor.most_nonzeros`."""
        known: dict[tuple[int, Sizes | None], int]
        known = self.__dict__.setdefault("_most_nonzeros", {})
        most = known.get((dim, sizes))
        if most is None:
            tables = self._tables(dim, sizes)
            mean = sum(rows * self._mean_nonzeros(width) for _, rows, width in tables)
            most = min(dim, math.ceil(mean + 10 * math.sqrt(mean)) + 50)
            known.clear()  # One run, one layout.
            known[dim, sizes] = most
        return most

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
        """Return the table, shape (rows, width) or flat: `part.out`, if there is one.

        An operator may return another array, which is copied there.
        """

    def _num_values(
        self, rows: int, width: int, entries: Array | None, ops: ArrayOps
    ) -> int:
        """Return the number of values of a table, by default one a row."""
        return rows

    def _mean_nonzeros(self, width: int) -> float:
        """Return how many symbols of a bucket are not zero in the mean, at most."""
        return width

    # --- The scope --------------------------------------------------------------------

    def _width(self, dim: int) -> int:
        """Return the length of the longest bucket."""
        return dim if self.bucket_size is None else min(dim, self.bucket_size)

    def _tables(self, dim: int, sizes: Sizes | None) -> Tables:
        if self.entrywise or self.per == "model":
            sizes = None
        return cut_vector(dim, None if self.entrywise else self.bucket_size, sizes)

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

    def _pack(self) -> tuple[int, bytes]:
        wire_id, parameters = super()._pack()
        scope = b""
        if self.per == "tensor":
            wire_id |= _PER_TENSOR
        if self.bucket_size is not None:
            wire_id |= _BUCKETED
            scope = _BUCKET.pack(self.bucket_size)
        return wire_id, scope + parameters

    @classmethod
    def wire_size(cls, wire_id: int) -> int:
        """Return how many bytes scope and parameters have."""
        size = cls._wire.size
        return size + _BUCKET.size if wire_id & _BUCKETED else size

    @classmethod
    def from_wire(cls, wire_id: int, data: bytes) -> Self:
        """Rebuild the operator; see :meth:`Parameters.from_wire`."""
        # None is said too: it is not the default of every operator.
        scope: dict[str, Any] = {"bucket_size": None}
        if wire_id & _PER_TENSOR:
            scope["per"] = "tensor"
        if wire_id & _BUCKETED:
            (scope["bucket_size"],) = _BUCKET.unpack_from(data)
            data = data[_BUCKET.size :]
        return replace(super().from_wire(wire_id, data), **scope)
