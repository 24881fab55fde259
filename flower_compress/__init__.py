"""Communication compression for Flower: every model and every update, both ways.

What needs Flower is imported when it is asked for: operators, codes and links run where
there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    if name == "CompressionMod":
        from .mods import CompressionMod

        return CompressionMod
    if name == "ManyClientsMod":
        from .mods import ManyClientsMod

        return ManyClientsMod
    if name == "Ledger":
        from .wire.ledger import Ledger

        return Ledger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
