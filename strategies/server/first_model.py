"""What both ends of a downlink begin with, and how clients come by it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from flower_compress.coding import Symbols
from flower_compress.compressors import Compressed, StochasticQuantizer, Vector
from flower_compress.errors import ConfigurationError, shown
from flower_compress.links import Carries, Link, Payload
from flower_compress.wire.first_model import PACKED, channel_of, digest_of, pack
from flower_compress.wire.layout import Layout

from .arrays import Ties, ties_of

__all__ = ["Beginning", "FirstModel", "check_first_model"]

FirstModel = Literal["dense", "seed"] | int
"""How the first model travels: dense, not at all, or with so many bits an entry."""

_FEWEST, _MOST = 2, 16
_BUCKET = 512


def check_first_model(first: object, downlink: Link, carries: Carries) -> None:
    """Raise ConfigurationError unless the downlink can begin with such a model."""
    if first == "dense":
        return
    is_bits = type(first) is int and _FEWEST <= first <= _MOST
    if first != "seed" and not is_bits:
        raise ConfigurationError(
            'first_model must be "dense", "seed" or a number of bits from '
            f"{_FEWEST} to {_MOST}, got {shown(first)}"
        )
    if carries == "model" and downlink.kind != "memory":
        raise ConfigurationError(
            f"a {type(downlink).__name__} downlink sends the whole model in every "
            "round, so that none is the first: expected a Memory downlink with "
            f"first_model={first!r}, as MCM has"
        )


@dataclass(frozen=True, eq=False)
class Beginning:
    """The vector with which the memories at both ends of a downlink begin.

    Parameters
    ----------
    vector : NDArray[np.float32]
        The vector, shape (d,).
    term : str, optional
        What the contract says of it; None if it is sent dense.
    payload : Payload, optional
        What it is decoded from, where that is sent.
    """

    vector: Vector
    term: str | None = None
    payload: Payload | None = None

    @classmethod
    def of(
        cls, first: FirstModel, link: Link, layout: Layout, model: Vector, seed: int
    ) -> Beginning:
        """Return how a run begins whose model is `model`."""
        vector = link.start(model)
        if first == "dense":
            return cls(vector)
        if first == "seed":
            return cls(vector, digest_of(vector))
        levels = (1 << (first - 1)) - 1
        operator = StochasticQuantizer(
            levels=levels, norm="inf", bucket_size=_BUCKET, per="tensor"
        )
        channel = channel_of(seed, layout)
        made = operator.compress(vector, channel.stream, channel.sizes).numpy()
        made = _alike(made, ties_of(layout, vector), layout.sizes)
        payload = Payload.of(made, operator, "auto", channel)
        return cls(payload.vector, PACKED, payload)

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes where it is not sent dense."""
        return 0 if self.payload is None else len(self.payload.data)

    def takes(self, builds: bool) -> bool:
        """Whether a client is to begin with it, which says whether it makes models."""
        return self.payload is not None or (self.term is not None and builds)

    def before(self, exact: bytes) -> bytes:
        """Return the exact arrays of a packet that begins with it."""
        return exact if self.payload is None else pack(self.payload, exact)


def _alike(made: Compressed, ties: Ties, sizes: tuple[int, ...]) -> Compressed:
    """Give copies the draws of their originals: what was equal stays equal."""
    if not ties or made.symbols is None:
        return made
    entries = made.symbols.dense().copy()
    ends = [0, *accumulate(sizes)]
    for copy, original in ties:
        entries[ends[copy] : ends[copy + 1]] = entries[
            ends[original] : ends[original + 1]
        ]
    symbols = Symbols(made.dim, made.symbols.low, made.symbols.high, entries)
    return Compressed(made.dim, made.values, symbols)
