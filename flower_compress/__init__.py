"""Communication compression for Flower: every model and every update, both ways."""

from __future__ import annotations

from .compressors import (
    ArrayRule,
    DitheredQuantizer,
    Identity,
    MinVarianceSparsifier,
    NaturalCompression,
    PerArray,
    RandK,
    RandomSparsifier,
    RotatedQuantizer,
    ScaledSign,
    StochasticQuantizer,
    TopK,
)
from .errors import FlowerCompressError
from .links import Direct, ErrorFeedback, Memory
from .mods import CompressionMod, ManyClientsMod
from .wire.ledger import Ledger

__all__ = [
    "ArrayRule",
    "CompressionMod",
    "Direct",
    "DitheredQuantizer",
    "ErrorFeedback",
    "FlowerCompressError",
    "Identity",
    "Ledger",
    "ManyClientsMod",
    "Memory",
    "MinVarianceSparsifier",
    "NaturalCompression",
    "PerArray",
    "RandK",
    "RandomSparsifier",
    "RotatedQuantizer",
    "ScaledSign",
    "StochasticQuantizer",
    "TopK",
]
