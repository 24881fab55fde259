"""Several operators on one vector, each on the arrays that are its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

from ..coding import Symbols
from ..errors import ConfigurationError, CorruptPacket
from ..streams import Stream
from .arrays import Array, ArrayOps, array_ops
from .base import Compressor
from .compressed import Compressed
from .tables import Sizes

__all__ = ["MAX_PARTS", "Parts"]

MAX_PARTS = 255
Spans = tuple[tuple[int, int], ...]
"""Start and end of each stretch of a vector."""


@dataclass(frozen=True, repr=False)
class Parts(Compressor):
    """What :class:`PerArray` is once a vector's arrays are known.

    Part j of the vector is the arrays of group j, one after the other; operator j acts
    on it, with draws of stream part j.

    Parameters
    ----------
    operators : tuple[Compressor, ...]
        One for each group.
    groups : tuple[int, ...]
        The group of each array of the vector; none is empty.
    sizes : tuple[int, ...]
        The length of each array.
    policy : Compressor
        The rules that said so, which are the configuration.
    """

    operators: tuple[Compressor, ...]
    groups: tuple[int, ...]
    sizes: Sizes
    policy: Compressor = field(compare=False)

    name: ClassVar[str] = "parts"
    wire_id: ClassVar[int] = 11

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.operators, self.groups, self.sizes))

    def __repr__(self) -> str:
        return repr(self.policy)

    def config(self) -> dict[str, Any]:
        """Return the configuration of the rules."""
        return self.policy.config()

    # --- Which entries ----------------------------------------------------------------

    @cached_property
    def part_sizes(self) -> tuple[Sizes, ...]:
        """Lengths of the arrays of each part."""
        pairs = list(zip(self.groups, self.sizes, strict=True))
        return tuple(
            tuple(size for group, size in pairs if group == part)
            for part in range(len(self.operators))
        )

    @cached_property
    def dims(self) -> tuple[int, ...]:
        """Length of each part."""
        return tuple(sum(sizes) for sizes in self.part_sizes)

    @cached_property
    def spans(self) -> tuple[Spans, ...]:
        """Where each part lies in the vector, neighbours joined."""
        spans: list[list[tuple[int, int]]] = [[] for _ in self.operators]
        for group, start, end in self._runs:
            spans[group].append((start, end))
        return tuple(tuple(each) for each in spans)

    @property
    def lossless_spans(self) -> Spans:
        """Where operators are lossless."""
        return self._lossless_spans

    @cached_property
    def _lossless_spans(self) -> Spans:
        return tuple(
            span
            for operator, spans in zip(self.operators, self.spans, strict=True)
            if operator.lossless
            for span in spans
        )

    @cached_property
    def _runs(self) -> tuple[tuple[int, int, int], ...]:
        """Group, start and end of each stretch, in the order of the vector."""
        ends, end = [0], 0
        for size in self.sizes:
            end += size
            ends.append(end)
        runs: list[tuple[int, int, int]] = []
        for group, (start, stop) in zip(self.groups, pairwise(ends), strict=True):
            if runs and runs[-1][0] == group:
                runs[-1] = (group, runs[-1][1], stop)
            else:
                runs.append((group, start, stop))
        return tuple(runs)

    # --- What the whole is ------------------------------------------------------------

    @property
    def unbiased(self) -> bool:
        """Whether all operators are."""
        return all(operator.unbiased for operator in self.operators)

    @property
    def shared_randomness(self) -> bool:
        """Whether any operator's is."""
        return any(operator.shared_randomness for operator in self.operators)

    def omega(self, dim: int) -> float:
        """Return the largest omega of the parts, each of its own length."""
        pairs = zip(self.operators, self.dims, strict=True)
        return max(operator.omega(width) for operator, width in pairs)

    def contraction(self, dim: int) -> float:
        """Return the least contraction of the parts."""
        pairs = zip(self.operators, self.dims, strict=True)
        return min(operator.contraction(width) for operator, width in pairs)

    def alphabet(self, dim: int) -> None:
        """There are no symbols but those of the parts."""
        return

    # --- Vectors ----------------------------------------------------------------------

    def compress(
        self, x: Array, stream: Stream, sizes: Sizes | None = None
    ) -> Compressed:
        """Quantize each part of `x`; see :meth:`Compressor.compress`."""
        ops = array_ops(x)
        x = ops.vector(x)
        self.require_dim(int(x.shape[0]))
        parts = tuple(
            operator.compress(_take(x, spans, ops), stream.of_part(part), own)
            for part, (operator, spans, own) in enumerate(
                zip(self.operators, self.spans, self.part_sizes, strict=True)
            )
        )
        return Compressed(int(x.shape[0]), ops.empty(), parts=parts)

    def decompress(
        self,
        compressed: Compressed,
        stream: Stream | None = None,
        sizes: Sizes | None = None,
    ) -> Array:
        """Return C(x), shape (d,), float32; see :meth:`Compressor.decompress`."""
        ops = array_ops(compressed.values)
        if len(compressed.parts) != len(self.operators):
            raise CorruptPacket(
                f"expected a vector of {len(self.operators)} parts, got "
                f"{len(compressed.parts)}"
            )
        vectors = [
            operator.decompress(
                each, None if stream is None else stream.of_part(part), own
            )
            for part, (operator, each, own) in enumerate(
                zip(self.operators, compressed.parts, self.part_sizes, strict=True)
            )
        ]
        taken = [0] * len(vectors)
        pieces = []
        for group, start, end in self._runs:
            first = taken[group]
            taken[group] += end - start
            pieces.append(vectors[group][first : taken[group]])
        return ops.concat(pieces)

    def num_values(
        self, dim: int, symbols: Symbols | None, sizes: Sizes | None = None
    ) -> int:
        """There are no values but those of the parts."""
        return 0

    def require_dim(self, dim: int) -> None:
        """Raise ConfigurationError unless the arrays make up vectors of that length."""
        if dim != sum(self.sizes):
            raise ConfigurationError(
                f"expected a vector of {sum(self.sizes)} entries, the arrays of the "
                f"rules, got {dim}"
            )


def _take(x: Array, spans: Spans, ops: ArrayOps) -> Array:
    if len(spans) == 1:
        ((start, end),) = spans
        return x[start:end]
    return ops.concat([x[start:end] for start, end in spans])
