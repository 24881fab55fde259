"""What is said of a model's arrays before a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from logging import getLogger

from flower_compress.compressors import Compressor, PerArray
from flower_compress.compressors.count import Count
from flower_compress.errors import ConfigurationError
from flower_compress.wire.arrays import item_size
from flower_compress.wire.layout import Layout

__all__ = ["check_arrays"]

_log = getLogger("flwr")


def check_arrays(layout: Layout, *compressors: Compressor) -> None:
    """Refuse bytes that are no numbers; say what will not be as it looks.

    That is what float32 takes off a float64, and an operator that keeps more entries
    than there are.

    Bytes, as the trees of XGBoost, are arrays of uint8 of one dimension, and there is
    nothing else: beside weights such an array is a buffer of theirs, a mask or counts.

    Raises
    ------
    ConfigurationError
        If all arrays are such ones.
    """
    tensors = layout.tensors
    if all(t.dtype == "uint8" and len(t.shape) == 1 for t in tensors):
        raise ConfigurationError(
            "the model is bytes (uint8 arrays of one dimension, as trees of XGBoost): "
            "expected arrays of numbers, whose mean makes sense; use Flower's "
            "FedXgbBagging or FedXgbCyclic, without compression"
        )
    wide = sum(not t.exact and item_size(t.dtype) > 4 for t in tensors)
    if wide:
        _log.info(
            "%d of %d arrays have more than 32 bits an entry and travel as float32: "
            "values keep a relative precision of 6e-8",
            wide,
            len(tensors),
        )
    for operator in dict.fromkeys(_operators(compressors)):
        if isinstance(operator, Count) and (operator.k or 0) > max(layout.dim, 1):
            _log.warning(
                "%s(k=%d) keeps more entries than the model has (%d), so it keeps all "
                "and compresses nothing: give a smaller k, or fraction=0.01",
                type(operator).__name__,
                operator.k,
                layout.dim,
            )


def _operators(compressors: Iterable[Compressor]) -> Iterator[Compressor]:
    for compressor in compressors:
        if isinstance(compressor, PerArray):
            yield from (operator for _, operator in compressor.rules)
            yield compressor.default
        else:
            yield compressor
