"""The first model at a client, where it does not come dense."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import ArrayRecord

from ..compressors import Vector
from ..errors import FirstModelError, FlowerCompressError, WrongTypeError
from ..wire.contract import Contract
from ..wire.first_model import PACKED, digest_of, unpack

__all__ = ["Build", "first_model"]

Build = Callable[[int], ArrayRecord]
"""Makes the first model from the run's seed."""

_LONGEST = 200


def first_model(
    contract: Contract, exact: bytes, build: Build | None
) -> tuple[Vector, bytes]:
    """Return what the memory of the downlink begins with, and the exact arrays.

    Parameters
    ----------
    contract : Contract
        Says where the first model comes from.
    exact : bytes
        The packet's section of exact arrays, behind a packed first model.
    build : Callable[[int], ArrayRecord], optional
        Makes it, where that is the client's part.

    Raises
    ------
    FirstModelError
        If the client cannot make it, or makes another one than the server has.
    CorruptPacket
        If a packed one cannot be decoded.
    """
    if contract.first_model == PACKED:
        return unpack(exact, contract.seed, contract.layout)
    if build is None:
        raise FirstModelError(
            "the server expects this client to make the first model, and the mod has "
            "no function for it: CompressionMod(first_model=...)"
        )
    try:
        made = build(contract.seed)
        if not isinstance(made, ArrayRecord):
            raise WrongTypeError("what it returns", "an ArrayRecord", made)
        vector, _ = contract.layout.flatten(made)
    except Exception as error:  # It is the app's own.
        kind = "" if isinstance(error, FlowerCompressError) else type(error).__name__
        reason = f"{kind}{': ' * bool(kind)}{error}"[:_LONGEST]
        raise FirstModelError(
            f"the `first_model` function made no first model: {reason}"
        ) from error
    if contract.downlink is not None:
        vector = contract.downlink.start(vector)
    found = digest_of(vector)
    if found != contract.first_model:
        raise FirstModelError(
            f"expected a first model of digest {contract.first_model}, made one of "
            f"{found}: its seed, its libraries or its device are not the server's"
        )
    return vector, exact
