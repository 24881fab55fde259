"""What is said of a model's arrays before a run."""

from __future__ import annotations

from logging import getLogger

from flower_compress.errors import ConfigurationError
from flower_compress.wire.arrays import item_size
from flower_compress.wire.layout import Layout

__all__ = ["check_arrays"]

_log = getLogger("flwr")


def check_arrays(layout: Layout) -> None:
    """Refuse bytes that are no numbers; log what float32 takes off a float64.

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
