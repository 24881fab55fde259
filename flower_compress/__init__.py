"""Communication compression for Flower: every model and every update, both ways."""

from __future__ import annotations

from .compressors import (
    Identity,
    RandomSparsifier,
    StochasticQuantizer,
    TopK,
)
from .errors import FlowerCompressError
from .ledger import Ledger
from .links import Direct, ErrorFeedback, Memory
from .mods import CompressionMod

__all__ = [
    "CompressionMod",
    "Direct",
    "ErrorFeedback",
    "FlowerCompressError",
    "Identity",
    "Ledger",
    "Memory",
    "RandomSparsifier",
    "StochasticQuantizer",
    "TopK",
]
