"""How a vector is cut into tables, one bucket a row, and its symbols with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..coding import Symbols
from ..errors import ConfigurationError
from .arrays import Array, ArrayOps, array_ops

__all__ = ["Part", "Sizes", "Tables", "cut_symbols", "cut_vector"]

Sizes = tuple[int, ...]
"""Lengths of the tensors that a vector is made of, in order."""

Tables = tuple[tuple[int, int, int], ...]
"""Start, rows and width of each table of equal buckets."""


@dataclass(slots=True, eq=False)
class Part:
    """What an operator makes of one table, the buckets of equal length.

    Parameters
    ----------
    values : array, float32
        One after the other.
    entries : array, integer, optional
        Shape (rows, width), or the nonzero ones, shape (k,).
    positions : array, int64, optional
        Flat positions of the nonzero entries, ascending.
    out : array, float32, optional
        Where a receiver may write the table, so that nobody has to join tables.
    """

    values: Array
    entries: Array | None = None
    positions: Array | None = None
    out: Array | None = None

    def dense(self, rows: int, width: int, ops: ArrayOps) -> Array:
        """Return the integers of the table, shape (rows, width)."""
        entries = self.symbols()
        if self.positions is None:
            return entries
        flat = ops.densify(rows * width, self.positions, entries)
        return flat.reshape(rows, width)

    def scaled(self, rows: int, width: int, scales: Array, ops: ArrayOps) -> Array:
        """Return symbol * scale, row by row; what is not a symbol stays zero."""
        entries, positions = self.symbols(), self.positions
        if positions is None:
            return ops.scaled(entries, scales, out=self.out)
        kept = scales[positions // width] if rows > 1 else scales
        return ops.scatter(rows * width, positions, ops.product(entries, kept))

    def symbols(self) -> Array:
        """Return the integers, which an operator with symbols always has."""
        if self.entries is None:
            raise ConfigurationError("expected symbols, got None")
        return self.entries


@lru_cache(maxsize=256)
def cut_vector(dim: int, bucket_size: int | None, sizes: Sizes | None) -> Tables:
    """Return the tables of a vector: of each tensor its buckets, then a shorter one.

    Parameters
    ----------
    dim : int
        Length d of the vector.
    bucket_size : int, optional
        Entries of a bucket; None for one bucket a tensor.
    sizes : tuple[int, ...], optional
        Lengths of the tensors; None for one tensor.

    Raises
    ------
    ConfigurationError
        If the tensors do not make up the vector.
    """
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


def cut_symbols(
    symbols: Symbols | None, tables: Tables
) -> list[tuple[Array | None, Array | None]]:
    """Return the entries and the positions of each table, as :class:`Part` has them."""
    if symbols is None:
        return [(None, None)] * len(tables)
    entries, positions = symbols.entries, symbols.positions
    if len(tables) == 1:
        if positions is None:
            entries = entries.reshape(tables[0][1:])
        return [(entries, positions)]
    if positions is None:
        return [
            (entries[start : start + rows * width].reshape(rows, width), None)
            for start, rows, width in tables
        ]
    starts = [start for start, _, _ in tables]
    cuts = [*array_ops(positions).search(positions, starts), len(positions)]
    return [
        (entries[first:last], positions[first:last] - start)
        for start, first, last in zip(starts, cuts[:-1], cuts[1:], strict=True)
    ]
