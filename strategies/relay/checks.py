"""What a relay can be made of."""

from __future__ import annotations

from numpy.typing import ArrayLike

from flower_compress.coding import CODE_NAMES
from flower_compress.compressors import Compressor, PerArray
from flower_compress.errors import (
    ConfigurationError,
    UnknownNameError,
    WrongTypeError,
)
from flower_compress.links.checks import require_compressor

from ..topology import Schedule, Topology, from_matrix

__all__ = ["check_operator", "topology_of"]


def topology_of(given: Topology | Schedule | ArrayLike) -> Topology | Schedule:
    """Return who talks to whom, where a mixing matrix was given too.

    Raises
    ------
    WrongTypeError
        If it is neither.
    ConfigurationError
        If the matrix is no mixing matrix.
    """
    if isinstance(given, Topology | Schedule):
        return given
    if isinstance(given, Compressor | str):
        raise WrongTypeError("topology", "who talks to whom, as ring(10)", given)
    return from_matrix(given)


def check_operator(
    compressor: Compressor, code: str, topology: Topology | Schedule, *, residual: bool
) -> None:
    """Raise an error unless nodes on that topology can exchange so.

    Raises
    ------
    WrongTypeError
        If the operator is none.
    UnknownNameError
        If there is no such code.
    ConfigurationError
        If the operator is by array, or loses something that only estimates make good,
        where there are none.
    """
    require_compressor(compressor)
    if code not in CODE_NAMES:
        raise UnknownNameError("code", code, CODE_NAMES)
    if isinstance(compressor, PerArray):
        raise ConfigurationError(
            "nodes compress whole models: expected one operator for all arrays, "
            f"got {compressor!r}"
        )
    if isinstance(topology, Schedule) and not (residual or compressor.lossless):
        raise ConfigurationError(
            "a topology that changes needs estimates for its edges: expected "
            "residual=True, or a lossless operator"
        )
