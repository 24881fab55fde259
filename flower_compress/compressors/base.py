"""The interface of a compressor."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..coding import Symbols
from ..errors import BiasedCompressorError
from ..streams import Stream
from .arrays import Array
from .compressed import Compressed
from .parameters import Parameters
from .tables import Sizes

__all__ = ["Compressor"]


@dataclass(frozen=True, repr=False)
class Compressor(Parameters, ABC):
    """An operator C on vectors, described by its parameters alone.

    ``decompress(compress(x))`` is C(x), bit for bit what the receiver decodes.
    Subclasses are frozen dataclasses; an operator is either unbiased and has an
    `omega`, or biased and has a `contraction`.
    """

    lossless: ClassVar[bool] = False

    # --- What an operator is ----------------------------------------------------------

    @property
    def unbiased(self) -> bool:
        """Whether E[C(x)] = x."""
        return True

    @property
    def shared_randomness(self) -> bool:
        """Whether the receiver needs the stream to decompress."""
        return False

    @property
    def lossless_spans(self) -> tuple[tuple[int, int], ...]:
        """Start and end of each stretch that is left as it is, where not all is."""
        return ()

    def omega(self, dim: int) -> float:
        """Return omega with E||C(x) - x||^2 <= omega ||x||^2 for d = `dim` entries.

        Of an operator that acts on each tensor by itself, give the length of the
        longest one; that of the whole model is a bound too.

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

    def bind(self, arrays: Sequence[tuple[str, tuple[int, ...]]]) -> Compressor:
        """Return the operator for a vector made of arrays of these names and shapes."""
        return self

    # --- Vectors ----------------------------------------------------------------------

    @abstractmethod
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
            Lengths of the tensors in `x`, for an operator that acts on each; default
            one tensor.

        Raises
        ------
        NonFiniteError
            If `x` holds NaN or infinity, or a scale is too large for float32.
        """

    @abstractmethod
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

    @abstractmethod
    def num_values(
        self, dim: int, symbols: Symbols | None, sizes: Sizes | None = None
    ) -> int:
        """Return how many values go with those symbols."""

    def most_nonzeros(self, dim: int, sizes: Sizes | None = None) -> int:
        """Return how many symbols of a vector are not zero, but once in 10^8 vectors.

        For a receiver, which need not decode more; `dim` where no bound is known.
        """
        return dim

    # --- Bounds, for subclasses -------------------------------------------------------

    def _omega(self, width: int) -> float:
        """Return omega for at most `width` entries together, by default no bound."""
        return math.inf

    def _contraction(self, width: int) -> float:
        """Return the contraction for at most `width` entries together."""
        return max(0.0, 1.0 - self._omega(width))

    def _width(self, dim: int) -> int:
        """Return how many of `dim` entries C takes together, by default all."""
        return dim
