"""What the payloads of a run would take by their entropy, and by the papers' formulas.

Counting symbols takes time, so that it is done only where it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ..coding import Symbols
from ..compressors import Compressed, Compressor
from ..errors import CorruptPacket
from ..formula_bits import entropy_bits, malcom_bits, qsgd_bits, sparse_bits
from ..links import Channel, Payload
from ..streams import Purpose, Stream
from .mail import Letter
from .packet import Packet

__all__ = [
    "is_measuring",
    "measure",
    "measure_letter",
    "measure_packet",
    "measuring",
]

_num_asking = 0
_LOCK = Lock()


@contextmanager
def measuring() -> Iterator[None]:
    """Let ledgers count entropy and formula bits meanwhile; see :class:`Traffic`.

    All ledgers of this process do, until the last of those that asked for it is done.
    """
    global _num_asking
    with _LOCK:
        _num_asking += 1
    try:
        yield
    finally:
        with _LOCK:
            _num_asking -= 1


def is_measuring() -> bool:
    """Whether ledgers count entropy and formula bits now."""
    return _num_asking > 0


def measure(payloads: Iterable[Payload]) -> tuple[int, int]:
    """Return the bits of the payloads by entropy, and by formula, rounded up.

    Entropy: zero-order, of the symbols of each payload by themselves, and 32 bits for
    each value beside them. Formula: of QSGD's quantizer :func:`qsgd_bits` for each
    bucket, of sparsifiers :func:`sparse_bits`, of MALCOM's quantizer
    :func:`malcom_bits` and its range, of signs a bit each and their scale, and of
    everything else what it takes by entropy. Bytes that are no payload count nothing.
    """
    entropy = formula = 0.0
    for payload in payloads:
        measured = _MEASURED.get(payload)
        if measured is None:
            measured = _MEASURED[payload] = _measure_one(payload)
        entropy += measured[0]
        formula += measured[1]
    return math.ceil(entropy), math.ceil(formula)


_MEASURED: WeakKeyDictionary[Payload, tuple[float, float]] = WeakKeyDictionary()
"""Of each payload that lives: one that many clients are sent is measured once."""


def _measure_one(payload: Payload) -> tuple[float, float]:
    entropy = formula = 0.0
    try:
        contents = list(payload.contents())
    except CorruptPacket:
        return 0.0, 0.0
    for operator, compressed in contents:
        dense = 32.0 * len(compressed.values)
        counts = _counts(compressed.symbols)
        own = dense + entropy_bits(counts)
        entropy += own
        given = _formula(operator, compressed, counts)
        formula += own if given is None else given
    return entropy, formula


def measure_packet(packet: Packet, beside_bits: int = 0) -> tuple[int, int]:
    """Return :func:`measure` of a packet, what is dense as it is; else (0, 0).

    Parameters
    ----------
    packet : Packet
        The packet.
    beside_bits : int
        Bits of the arrays that travel beside it.
    """
    if not is_measuring():
        return 0, 0
    dense = packet.payload_bits - sum(each.num_bits for each in packet.payloads)
    dense += beside_bits
    entropy, formula = measure(packet.payloads)
    return entropy + dense, formula + dense


def measure_letter(letter: Letter, dim: int, sizes: tuple[int, ...]) -> tuple[int, int]:
    """Return :func:`measure` of a letter, a snapshot as it is; else (0, 0).

    Parameters
    ----------
    letter : Letter
        The letter.
    dim : int
        Length d of the vector.
    sizes : tuple[int, ...]
        Lengths of the tensors that it is made of.
    """
    if not is_measuring():
        return 0, 0
    if letter.kind:
        return letter.num_bits, letter.num_bits
    return _measure_data(letter.data, dim, sizes)


@lru_cache(maxsize=64)
def _measure_data(data: bytes, dim: int, sizes: tuple[int, ...]) -> tuple[int, int]:
    # All neighbours get the same bytes.
    channel = Channel(Stream(0, Purpose.GOSSIP), sizes)
    return measure((Payload(data, dim, channel),))


def _counts(symbols: Symbols | None) -> NDArray[np.int64]:
    if symbols is None:
        return np.zeros(0, np.int64)
    # Symbols need not fill their alphabet, which may be wide.
    found = symbols.entries.astype(np.int64) - symbols.low
    counts = np.bincount(found, minlength=-symbols.low + 1)
    counts[-symbols.low] += symbols.dim - found.size
    return counts


def _formula(
    operator: Compressor, compressed: Compressed, counts: NDArray[np.int64]
) -> float | None:
    dim, num_values = compressed.dim, len(compressed.values)
    if dim == 0:
        return None
    match operator.name:
        case "stochastic-quantizer" if getattr(operator, "norm", 2) == 2:
            buckets = max(num_values, 1)
            levels = int(getattr(operator, "levels", 1))
            return buckets * qsgd_bits(-(-dim // buckets), levels)
        case "top-k" | "rand-k" | "random-sparsifier" | "min-variance-sparsifier":
            kept = compressed.symbols
            return sparse_bits(dim, num_values if kept is None else kept.num_nonzero)
        case "dithered-quantizer":
            return 32.0 * num_values + malcom_bits(counts / dim, dim)
        case "scaled-sign":
            return 32.0 * num_values + dim
    return None
