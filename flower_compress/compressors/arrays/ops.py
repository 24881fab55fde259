"""What operators compute with, so that one definition serves NumPy and torch.

Operators see a vector as tables, one bucket a row, and use these functions only. Given
the same dither every implementation returns the same integers, and what a receiver
computes takes elementwise additions and multiplications in a stated order: the same
bits on every machine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from ...errors import CorruptPacket
from ...streams import Draws, Stream

__all__ = ["LEAST_POWER", "MANTISSA_BITS", "Array", "ArrayOps", "no_level"]

Array = Any
"""A NumPy array or a torch tensor."""

MANTISSA_BITS = 23
LEAST_POWER = -149
"""Exponent of the least power of two in float32, which has no bit but the last."""

_MANY = 1 << 17


class ArrayOps(ABC):
    """Functions on arrays of one library. Tables have shape (rows, width), float32.

    *Row numbers* are what there is one of for each row: an array, shape (rows,), or a
    Python float where there is one row and that is faster. Functions that take arrays
    elementwise take row numbers as well. A float32 result is made of them in float64
    and rounded once by :meth:`float32`: for sums, products, quotients and square roots
    of float32 numbers that is the float32 operation, bit for bit.
    """

    @abstractmethod
    def vector(self, x: Array) -> Array:
        """Return `x` as a flat contiguous float32 array."""

    @abstractmethod
    def draws(self, stream: Stream) -> Draws:
        """Return the stream's numbers as arrays of this library.

        For what only the sender needs; a device may have its own generator.
        """

    @abstractmethod
    def shared_draws(self, stream: Stream) -> Draws:
        """Return the stream's numbers, the same on every device."""

    @abstractmethod
    def within(self, x: Array, low: float, high: float) -> bool:
        """Whether all entries lie in [low, high], and so none is NaN."""

    @abstractmethod
    def num_infinite(self, x: Array) -> tuple[int, int]:
        """How many entries are NaN or infinite, and where the first one is."""

    @abstractmethod
    def squares(self, table: Array) -> Array:
        """Return each row's sum of squares, summed in float64, as row numbers."""

    @abstractmethod
    def abs_sums(self, table: Array) -> Array:
        """Return each row's sum of magnitudes, summed in float64, as row numbers."""

    @abstractmethod
    def reaches(self, table: Array, bounds: Array) -> Array:
        """Return which |x| are at least the row's bound, shape of `table`."""

    @abstractmethod
    def same(self, x: Array, y: Array) -> bool:
        """Whether all row numbers are the same."""

    @abstractmethod
    def tails(self, table: Array, bounds: Array) -> tuple[Array, Array]:
        """Return how many |x| are at least the row's bound, and their sum, in float64.

        Row numbers, all three.
        """

    @abstractmethod
    def limit(self, table: Array, bounds: Array) -> Array:
        """Return `table` with each row limited to [-bound, bound]."""

    @abstractmethod
    def extremes(self, table: Array) -> tuple[Array, Array]:
        """Return each row's least and greatest entry, as row numbers.

        Rows are not empty. A zero is +0.0, whichever sign the row's zeros have:
        libraries disagree.
        """

    def moments(self, table: Array) -> tuple[Array, Array, Array]:
        """Return :meth:`extremes` and :meth:`squares`."""
        return *self.extremes(table), self.squares(table)

    @abstractmethod
    def where(self, condition: Array, yes: Any, no: Any) -> Array:
        """Return `yes` where the condition holds, else `no`, elementwise."""

    @abstractmethod
    def divide(self, x: Array, divisor: Array | float) -> Array:
        """Return `x` / `divisor` in the dtype of `x`, correctly rounded.

        Written out, torch multiplies by the reciprocal of a number on a GPU: another
        last bit.
        """

    @abstractmethod
    def sqrt(self, x: Array) -> Array:
        """Return the square roots, correctly rounded."""

    @abstractmethod
    def ceil(self, x: Array) -> Array:
        """Return the least integers above, in the dtype of `x`."""

    @abstractmethod
    def clip(self, x: Array, low: float | None, high: float | None) -> Array:
        """Return `x`, none of which is NaN, with its entries limited to [low, high].

        None stands for no bound; one of the two is a number.
        """

    @abstractmethod
    def float32(self, x: Array) -> Array:
        """Return `x` in float32."""

    @abstractmethod
    def float64(self, x: Array) -> Array:
        """Return `x` in float64."""

    @abstractmethod
    def int64(self, x: Array) -> Array:
        """Return `x` in int64."""

    @abstractmethod
    def narrow(self, x: Array, low: int, high: int) -> Array:
        """Return integers in the smallest dtype that holds [low, high]."""

    def values(self, numbers: list[Array]) -> Array:
        """Return row numbers that are float32, one after the other, as an array."""
        return self.concat(numbers)

    def row_numbers(self, values: Array, rows: int) -> list[Array]:
        """Return what :meth:`values` was given."""
        return [values[i : i + rows] for i in range(0, len(values), rows)]

    @abstractmethod
    def concat(self, parts: list[Array]) -> Array:
        """Return the arrays one after the other."""

    def floats(self, count: int) -> Array | None:
        """Return a float32 array for operators to write to, not filled.

        None where what they return is to be joined.
        """
        return None

    @abstractmethod
    def empty(self) -> Array:
        """Return a float32 array without entries."""

    @abstractmethod
    def integers(self, count: int, low: int, high: int) -> Array:
        """Return an array for `count` integers in [low, high], not filled."""

    @abstractmethod
    def falses(self, dim: int) -> Array:
        """Return a flat mask that is false everywhere."""

    @abstractmethod
    def count(self, mask: Array) -> int:
        """Return how often a mask is true."""

    @abstractmethod
    def multiples(self, number: int, count: int) -> Array:
        """Return 0, `number`, 2 `number`, ..., `count` of them, int64."""

    @abstractmethod
    def search(self, positions: Array, bounds: list[int]) -> list[int]:
        """Return for each bound how many of the ascending positions are below it."""

    @abstractmethod
    def positions(self, mask: Array) -> Array:
        """Return the positions at which a flat mask is true, ascending, int64."""

    @abstractmethod
    def scatter(self, dim: int, positions: Array, values: Array) -> Array:
        """Return a float32 vector of zeros but for the values at the positions."""

    @abstractmethod
    def densify(self, dim: int, positions: Array, entries: Array) -> Array:
        """Return a vector of zeros but for the entries at the positions."""

    @abstractmethod
    def top_k(self, table: Array, k: int) -> Array:
        """Return the flat positions of each row's k largest magnitudes, ascending.

        Of equal magnitudes the first ones are taken. 0 < k < width.
        """

    @abstractmethod
    def bernoulli(self, p: float, count: int, draws: Draws) -> Array:
        """Return `count` independent booleans, true with probability p.

        With t = 2^16 p and a dither j: true if j < floor(t), and if j = floor(t) with
        probability t - floor(t), for which one uniform is drawn. So p is exact.
        """

    @staticmethod
    def dither(draws: Draws, count: int, levels: int) -> Array:
        """Return a dither for :meth:`round` with `refine`, which only the sender draws.

        Of 8 bits for more than 2^17 entries and at most 127 levels: half the numbers to
        draw, at the price of a uniform for every 256th entry. Else of 16 bits.
        """
        if count > _MANY and levels <= 127:
            return draws.short_dither(count)
        return draws.dither(count)

    @abstractmethod
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
        """Return k = floor((x - offset) / scale * levels + j / 2^b), shape of `table`.

        In float32: t = ((x - offset) / scale) * (2^b levels), each operation rounded;
        k = floor((floor(t) + j) / 2^b). With `refine`, k is one more with probability
        t - floor(t) where floor(t) + j = -1 modulo 2^b, for which one uniform is
        drawn: so E[k] = t / 2^b exactly. Without, t is rounded to the nearest integer
        (to the even one of two) in place of floor(t). Rows of scale 0 give 0.

        Parameters
        ----------
        table : Array
            Shape (rows, width).
        offsets, scales : Array
            Row numbers, float32; no offset exceeds an entry of its row.
        levels : float
            At most 2^15 - 1, where |x - offset| is at most the scale.
        high : int
            The largest |k|, which gives the dtype.
        dither : Array
            j, shape (rows * width,), of b = 16 or b = 8 bits; see :meth:`dither`.
        refine : Draws, optional
            Where the uniforms come from.
        below : Array, optional
            Row numbers, integers: count k from there, without a zero. k becomes
            k - below if k < below, else k - below + 1, and 0 where x = 0.
        out : Array, optional
            Where to write k.
        """

    @abstractmethod
    def round_to_powers(self, x: Array, dither: Array, refine: Draws) -> Array:
        """Return the symbols of powers of two beside x, drawn at random, in int16.

        In integers: |x| = 2^e (1 + m / 2^23) with 0 <= m < 2^23, and n is m without its
        lowest 23 - b bits, floor(2^(b - 23) m). The power is 2^(e + 1) if n + j >= 2^b,
        and where n + j = 2^b - 1 with probability 2^(b - 23) m - n, for which one
        uniform is drawn: so with probability m / 2^23 exactly. Else it is 2^e. The
        symbol is u = 2 e, or u = 2 e + 1 for x < 0, and one more if u >= 0; 0 for 0.

        Parameters
        ----------
        x : Array
            Shape (d,), float32, |x| at most 2^127; subnormal numbers have e < -126.
        dither : Array
            j, shape (d,), of b = 16 or b = 8 bits; see :meth:`dither`.
        refine : Draws
            Where the uniforms come from.
        """

    @abstractmethod
    def powers(self, symbols: Array) -> Array:
        """Return what symbols of :meth:`round_to_powers` stand for, float32."""

    @abstractmethod
    def product(self, integers: Array, scales: Array) -> Array:
        """Return k * scale in float32, of an array and row numbers or an array."""

    @abstractmethod
    def scaled(
        self,
        integers: Array,
        scales: Array,
        offsets: Array | None = None,
        dither: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        """Return (k - u + 1/2) * scale + offset in float32, shape of `integers`.

        Without a dither u = 1/2. With one, u = (j + 1/2) / 2^16 and the value is
        (2^17 k - 2 j + 2^16 - 1) * (2^-17 scale), which has no bias from the
        lattice of j.

        Parameters
        ----------
        integers : Array
            k, shape (rows, width).
        scales, offsets : Array
            Row numbers, float32.
        dither : Array, optional
            j, shape (rows * width,).
        out : Array, optional
            Where the result may be written, of its shape.
        """

    @abstractmethod
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
        """Return :meth:`scaled` of levels that count from zero, 0 for the symbol 0.

        The level of a symbol k is k + below if k < 0, and k + below - 1 if k > 0, with
        |k| and `below` at most highest + 1. `below`, `scales` and `offsets` are row
        numbers. Raises CorruptPacket unless the levels lie in [0, highest].
        """

    @abstractmethod
    def rotate(self, table: Array, signs: list[Array], inverse: bool) -> Array:
        """Return the rows after a random rotation, or its inverse, in float32.

        See :class:`~flower_compress.compressors.RotatedQuantizer`. Every stage of the
        transform, every factor n^-1/2 and every sign is one float32 operation.
        """

    def round_rotated(
        self,
        table: Array,
        signs: list[Array],
        scales: Array,
        levels: float,
        high: int,
        draws: Draws,
        out: Array | None,
    ) -> Array:
        """Return :meth:`round` of :meth:`rotate` of the rows, with a dither drawn now.

        Without `refine`; arguments as theirs.
        """
        rotated = self.rotate(table, signs, inverse=False)
        dither = draws.dither(table.shape[0] * table.shape[1])
        return self.round(rotated, None, scales, levels, high, dither, None, out=out)

    def rotate_scaled_back(
        self,
        integers: Array,
        scales: Array,
        signs: list[Array],
        draws: Draws,
        out: Array | None = None,
    ) -> Array:
        """Return the inverse of :meth:`rotate` of :meth:`scaled`, likewise."""
        dither = draws.dither(integers.shape[0] * integers.shape[1])
        table = self.scaled(integers, scales, None, dither)
        return self.rotate(table, signs, inverse=True)

    def rotation_signs(self, rows: int, width: int, draws: Draws) -> list[Array]:
        """Return the signs of one rotation, or of two, for :meth:`rotate`.

        By default as bits, shape (rows, 2^m).
        """
        part = 1 << (width.bit_length() - 1)
        count = 1 if part == width else 2
        return [draws.signs(rows * part).reshape(rows, part) for _ in range(count)]


def no_level(highest: int) -> CorruptPacket:
    """Return the error for a symbol that stands for none of the levels."""
    return CorruptPacket(f"a symbol is none of the {highest + 1} levels")
