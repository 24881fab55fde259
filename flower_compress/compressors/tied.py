"""Arrays that are equal, as those of layers that share their weights, sent once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, ClassVar, NamedTuple, NoReturn, Self

from ..coding import Symbols
from ..errors import ConfigurationError
from ..streams import Stream
from .arrays import Array, array_ops
from .base import Compressor
from .compressed import Compressed
from .parts import Parts
from .tables import Sizes

__all__ = ["Tied"]


class _Reduced(NamedTuple):
    """The vector without the copies that are left out."""

    operator: Compressor
    sizes: Sizes
    kept: tuple[tuple[int, int], ...]
    """Start and end of each array that is sent, in the whole vector."""
    sources: tuple[tuple[int, int], ...]
    """For each array of the whole vector, where it lies in the one that is sent."""


@dataclass(frozen=True, repr=False)
class Tied(Compressor):
    """An operator on a vector in which arrays may be equal: copies are not sent.

    Whether they are is seen in each vector: a tie is no more than where to look. So
    arrays that are equal at the start and part later are sent whole from then on, and
    those that share their weights stay equal, bit for bit, at both ends: whatever is
    done to them, is done to both. The run is that of the model without the copies, and
    so are omega and contraction.

    Parameters
    ----------
    operator : Compressor
        The operator, which may be one with rules by array.
    ties : tuple[tuple[int, int], ...]
        Numbers of two arrays of the vector each: a copy, and the one before it that it
        may be equal to, which is no copy itself.
    arrays : tuple[tuple[str, tuple[int, ...]], ...]
        Name and shape of each array of the vector; none before they are known.

    Raises
    ------
    ConfigurationError
        If the ties are no such numbers, or of arrays of other shapes.
    """

    operator: Compressor
    ties: tuple[tuple[int, int], ...]
    arrays: tuple[tuple[str, tuple[int, ...]], ...] = ()

    name: ClassVar[str] = "tied"
    wire_id: ClassVar[int] = 12

    def __post_init__(self) -> None:
        if isinstance(self.operator, Tied):
            raise ConfigurationError("expected an operator without ties of its own")
        copies = [copy for copy, _ in self.ties]
        originals = {original for _, original in self.ties}
        if (
            not copies
            or any(not 0 <= original < copy for copy, original in self.ties)
            or sorted(set(copies)) != copies
            or originals & set(copies)
        ):
            raise ConfigurationError(
                "expected ties of ascending copies to arrays before them, got "
                f"{self.ties}"
            )

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.operator, self.ties, self.arrays))

    def __repr__(self) -> str:
        return repr(self.operator)

    def config(self) -> dict[str, Any]:
        """Return the JSON-able configuration that rebuilds the operator."""
        return {
            "name": self.name,
            "ties": [list(tie) for tie in self.ties],
            "operator": self.operator.config(),
        }

    @classmethod
    def from_config(
        cls,
        parameters: Mapping[str, Any],
        rebuild: Callable[[Mapping[str, Any]], Compressor],
    ) -> Self:
        """Rebuild the operator from what :meth:`config` gave, without the name."""
        if set(parameters) != {"ties", "operator"}:
            raise ConfigurationError(
                f"compressor {cls.name!r}: expected ties and an operator, got "
                f"{sorted(parameters)}"
            )
        ties = tuple(
            (int(copy), int(original)) for copy, original in parameters["ties"]
        )
        return cls(rebuild(parameters["operator"]), ties)

    def bind(self, arrays: Sequence[tuple[str, tuple[int, ...]]]) -> Compressor:
        """Return the operator for a vector made of these arrays.

        Without the ties where another rule is for the copy than for the original.
        """
        whole = self.operator.bind(arrays)
        for copy, original in self.ties:
            if copy >= len(arrays) or arrays[copy][1] != arrays[original][1]:
                raise ConfigurationError(
                    f"expected ties of arrays of one shape, got {copy} to {original} "
                    f"of {len(arrays)} arrays"
                )
        groups = whole.groups if isinstance(whole, Parts) else (0,) * len(arrays)
        ties = tuple(
            (copy, original)
            for copy, original in self.ties
            if groups[copy] == groups[original]
        )
        if whole.lossless or not ties:
            return whole
        return replace(self, ties=ties, arrays=tuple(arrays))

    # --- What the whole is ------------------------------------------------------------

    @cached_property
    def _whole(self) -> Compressor:
        return self.operator.bind(self.arrays)

    @property
    def unbiased(self) -> bool:
        """Whether the operator is."""
        return self.operator.unbiased

    @property
    def shared_randomness(self) -> bool:
        """Whether the operator's is."""
        return self.operator.shared_randomness

    @property
    def lossless_spans(self) -> tuple[tuple[int, int], ...]:
        """Where the operator is lossless."""
        return self._whole.lossless_spans

    def omega(self, dim: int) -> float:
        """Return the operator's omega."""
        return self._whole.omega(dim)

    def contraction(self, dim: int) -> float:
        """Return the operator's contraction."""
        return self._whole.contraction(dim)

    def alphabet(self, dim: int) -> None:
        """There are no symbols but those of the vector without copies."""
        return

    @property
    def mask_bytes(self) -> int:
        """How many bytes say which ties hold, a bit each."""
        return -(-len(self.ties) // 8)

    # --- Vectors ----------------------------------------------------------------------

    def compress(
        self, x: Array, stream: Stream, sizes: Sizes | None = None
    ) -> Compressed:
        """Quantize `x` without its copies; see :meth:`Compressor.compress`."""
        ops = array_ops(x)
        x = ops.vector(x)
        if int(x.shape[0]) != self._ends[-1]:
            self._refuse(int(x.shape[0]))
        mask = 0
        for bit, (copy, original) in enumerate(self.ties):
            one, other = (
                x[self._ends[i] : self._ends[i + 1]] for i in (copy, original)
            )
            mask |= bool((one == other).all()) << bit
        reduced = self.reduced(mask)
        sent = ops.concat([x[start:end] for start, end in reduced.kept])
        part = reduced.operator.compress(sent, stream, reduced.sizes)
        return Compressed(int(x.shape[0]), ops.empty(), parts=(part,), ties=mask)

    def decompress(
        self,
        compressed: Compressed,
        stream: Stream | None = None,
        sizes: Sizes | None = None,
    ) -> Array:
        """Return C(x), shape (d,), float32; see :meth:`Compressor.decompress`."""
        reduced = self.reduced(compressed.ties)
        (part,) = compressed.parts
        sent = reduced.operator.decompress(part, stream, reduced.sizes)
        return array_ops(compressed.values).concat(
            [sent[start:end] for start, end in reduced.sources]
        )

    def num_values(
        self, dim: int, symbols: Symbols | None, sizes: Sizes | None = None
    ) -> int:
        """There are no values but those of the vector without copies."""
        return 0

    def reduced(self, mask: int) -> _Reduced:
        """Return what is sent where the ties of `mask` hold, the first its lowest bit.

        Of the last mask that was asked for it is kept.
        """
        kept: tuple[int, _Reduced] | None = self.__dict__.get("_reduced")
        if kept is None or kept[0] != mask:
            kept = self.__dict__["_reduced"] = mask, self._reduce(mask)
        return kept[1]

    def _reduce(self, mask: int) -> _Reduced:
        held = {
            copy: original
            for bit, (copy, original) in enumerate(self.ties)
            if mask >> bit & 1
        }
        sent = [i for i in range(len(self.arrays)) if i not in held]
        places, start = {}, 0
        for i in sent:
            size = self._ends[i + 1] - self._ends[i]
            places[i] = start, start + size
            start += size
        return _Reduced(
            self.operator.bind([self.arrays[i] for i in sent]),
            tuple(self._ends[i + 1] - self._ends[i] for i in sent),
            tuple((self._ends[i], self._ends[i + 1]) for i in sent),
            tuple(places[held.get(i, i)] for i in range(len(self.arrays))),
        )

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        """Where each array starts, and the length of the vector."""
        ends = [0]
        for _, shape in self.arrays:
            ends.append(ends[-1] + prod(shape))
        return tuple(ends)

    def _refuse(self, dim: int) -> NoReturn:
        raise ConfigurationError(
            f"expected a vector of {self._ends[-1]} entries, the tied arrays and the "
            f"others, got {dim}"
        )
