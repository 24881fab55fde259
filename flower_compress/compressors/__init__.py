"""Operators on vectors, one a file, and the registry that rebuilds them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..errors import ConfigurationError, CorruptPacket, UnknownNameError
from .base import Compressor
from .bucketed import operator_id
from .compressed import Compressed, Vector, as_vector
from .dithered_quantizer import DitheredQuantizer
from .identity import Identity
from .min_variance_sparsifier import MinVarianceSparsifier
from .natural_compression import NaturalCompression
from .parts import Parts
from .per_array import ArrayRule, PerArray
from .rand_k import RandK
from .random_sparsifier import RandomSparsifier
from .rotated_quantizer import RotatedQuantizer
from .scaled_sign import ScaledSign
from .stochastic_quantizer import StochasticQuantizer
from .tied import Tied
from .top_k import TopK

__all__ = [
    "COMPRESSORS",
    "ArrayRule",
    "Compressed",
    "Compressor",
    "DitheredQuantizer",
    "Identity",
    "MinVarianceSparsifier",
    "NaturalCompression",
    "Parts",
    "PerArray",
    "RandK",
    "RandomSparsifier",
    "RotatedQuantizer",
    "ScaledSign",
    "StochasticQuantizer",
    "Tied",
    "TopK",
    "Vector",
    "as_vector",
    "compressor_from_wire",
    "get_compressor",
]

_ALL: tuple[type[Compressor], ...] = (
    Identity,
    StochasticQuantizer,
    RandomSparsifier,
    TopK,
    RandK,
    MinVarianceSparsifier,
    DitheredQuantizer,
    ScaledSign,
    RotatedQuantizer,
    NaturalCompression,
)
COMPRESSORS: dict[str, type[Compressor]] = {cls.name: cls for cls in _ALL}
"""Every operator by its name; PerArray is made of them."""

_COMPOSITES: dict[str, type[Compressor]] = {cls.name: cls for cls in (PerArray, Tied)}
_BY_WIRE_ID = {cls.wire_id: cls for cls in _ALL}


def get_compressor(config: Mapping[str, Any]) -> Compressor:
    """Rebuild a compressor from :meth:`Compressor.config`.

    Raises
    ------
    UnknownNameError
        If no compressor has that name.
    ConfigurationError
        If its parameters are wrong.
    """
    parameters = dict(config)
    name = parameters.pop("name", None)
    known = COMPRESSORS | _COMPOSITES
    if not isinstance(name, str) or name not in known:
        raise UnknownNameError("compressor", name, known)
    try:
        return known[name].from_config(parameters, get_compressor)
    except (AttributeError, TypeError) as error:
        raise ConfigurationError(f"compressor {name!r}: {error}") from error


def compressor_from_wire(wire_id: int, data: memoryview) -> tuple[Compressor, int]:
    """Rebuild a compressor from a packet; also how long its parameters were."""
    operator = operator_id(wire_id)
    if operator not in _BY_WIRE_ID:
        raise CorruptPacket(
            f"compressor id {operator} is not known: expected one of "
            f"{sorted(_BY_WIRE_ID)}; is the peer's flower-compress newer?"
        )
    size = _BY_WIRE_ID[operator].wire_size(wire_id)
    return _from_wire(operator, wire_id, bytes(data[:size])), size


@lru_cache(maxsize=256)
def _from_wire(operator: int, wire_id: int, data: bytes) -> Compressor:
    try:
        return _BY_WIRE_ID[operator].from_wire(wire_id, data)
    except (struct.error, ConfigurationError) as error:
        raise CorruptPacket(
            f"bad parameters of compressor {operator}: {error}"
        ) from error
