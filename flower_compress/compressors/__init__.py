"""Operators on vectors, one a file, and the registry that rebuilds them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigurationError, CorruptPacket, UnknownNameError
from .base import Compressed, Compressor, Vector, as_vector
from .identity import Identity
from .random_sparsifier import RandomSparsifier
from .stochastic_quantizer import StochasticQuantizer
from .top_k import TopK

__all__ = [
    "COMPRESSORS",
    "Compressed",
    "Compressor",
    "Identity",
    "RandomSparsifier",
    "StochasticQuantizer",
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
)
COMPRESSORS: dict[str, type[Compressor]] = {cls.name: cls for cls in _ALL}
"""Every compressor by its name."""

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
    if not isinstance(name, str) or name not in COMPRESSORS:
        raise UnknownNameError("compressor", name, COMPRESSORS)
    try:
        return COMPRESSORS[name](**parameters)
    except TypeError as error:
        raise ConfigurationError(f"compressor {name!r}: {error}") from error


def compressor_from_wire(wire_id: int, data: memoryview) -> tuple[Compressor, int]:
    """Rebuild a compressor from a packet; also how long its parameters were."""
    if wire_id not in _BY_WIRE_ID:
        raise CorruptPacket(
            f"compressor id {wire_id} is not known: expected one of "
            f"{sorted(_BY_WIRE_ID)}; is the peer's flower-compress newer?"
        )
    try:
        return _BY_WIRE_ID[wire_id].from_wire(data)
    except (struct.error, ConfigurationError) as error:
        raise CorruptPacket(
            f"bad parameters of compressor {wire_id}: {error}"
        ) from error
