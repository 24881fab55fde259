"""What a reply of a stranger costs its receiver, over an honest one's.

An honest payload of the operator and code is decoded, and payloads of other symbols in
each code that the receiver lets through: their time and their memory, as ratios. What
is refused costs its refusal.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_compress.coding import Symbols, code_by_wire_id, code_ids, encode_symbols
from flower_compress.compressors import Compressor, get_compressor
from flower_compress.errors import CorruptPacket
from flower_compress.links import Payload
from flower_compress.links.forms import require_form

from .markdown import Column, columns
from .measure import Row, medians
from .subjects import CHANNEL, OPERATORS
from .suite import Settings, Suite
from .vectors import random_vector

WIDEST = {"name": "stochastic-quantizer", "levels": 32767, "bucket_size": 512}
SUBJECTS = {
    **OPERATORS,
    "QSGD s=32767, buckets": WIDEST,
    "TopK 5 %": {"name": "top-k", "fraction": 0.05},
    "min. variance 5 %": {"name": "min-variance-sparsifier", "density": 0.05},
}


def _cases(settings: Settings) -> Iterator[tuple[Any, ...]]:
    for name in SUBJECTS:
        yield name, settings.dims[0]


def _measure(settings: Settings, name: str, dim: int) -> list[Row]:
    operator = get_compressor(SUBJECTS[name])
    honest = Payload.encode(random_vector("gaussian", dim), operator, "auto", CHANNEL)
    subjects = {"honest": honest.data, **dict(_hostile(operator, dim))}
    decoders = {key: _decoder(data, dim, operator) for key, data in subjects.items()}
    seconds = medians(decoders, settings.repeats)
    peaks = {key: _peak(decode) for key, decode in decoders.items()}
    worst = max(seconds, key=lambda key: seconds[key] / seconds["honest"])
    return [
        {
            "operator": name,
            "dim": dim,
            "honest_seconds": seconds["honest"],
            "time_ratio": seconds[worst] / seconds["honest"],
            "with": worst,
            "memory_ratio": max(peaks.values()) / peaks["honest"],
            "refused": sum(_is_refused(each) for each in decoders.values()),
            "tried": len(decoders) - 1,
        }
    ]


def _hostile(operator: Compressor, dim: int) -> Iterator[tuple[str, bytes]]:
    """Payloads that say that they are the operator's, by symbols and code."""
    wire_id, parameters = operator.to_wire()
    alphabet = operator.alphabet(dim)
    if alphabet is None:
        return
    low, high = alphabet
    for kind, entries in _symbols(low, high, dim):
        symbols = Symbols(dim, low, high, entries)
        count = operator.num_values(dim, symbols)
        values = np.full(count, 1.0, dtype="<f4").tobytes()
        for code_id in sorted(code_ids("auto", low, high)):
            code = code_by_wire_id(code_id)
            _, body, _ = encode_symbols(code.name, symbols)
            head = bytes((wire_id, code_id)) + parameters
            yield f"{kind}, {code.name}", head + body + values


def _symbols(low: int, high: int, dim: int) -> Iterator[tuple[str, NDArray[Any]]]:
    generator = np.random.default_rng(1)
    dtype = np.min_scalar_type(-max(-low, high) - 1)
    yield "zeros", np.zeros(dim, dtype)
    yield "all the highest", np.full(dim, high, dtype)
    yield "any", generator.integers(low, high + 1, dim).astype(dtype)
    some = generator.integers(low, high + 1, dim)
    yield "one in ten", np.where(generator.random(dim) < 0.1, some, 0).astype(dtype)
    every = np.arange(dim) % 2 * high
    yield "every other", every.astype(dtype)


def _decoder(data: bytes, dim: int, operator: Compressor) -> Callable[[], bool]:
    """What a receiver does; false if it refuses."""

    def decode() -> bool:
        try:
            require_form(data, dim, [operator], "auto")
            payload = Payload(data, dim, CHANNEL)
            payload.num_bits  # noqa: B018
            payload.vector  # noqa: B018
        except CorruptPacket:
            return False
        return True

    return decode


def _is_refused(decode: Callable[[], bool]) -> bool:
    return not decode()


def _peak(decode: Callable[[], bool]) -> int:
    tracemalloc.start()
    try:
        decode()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


SUITE = Suite(
    "hostile-decoding",
    _cases,
    _measure,
    columns(
        1,
        Column("operator", "operator"),
        Column("an honest reply, ms", lambda row: 1e3 * row["honest_seconds"], ".2f"),
        Column("the worst, times that", "time_ratio", ".1f"),
        Column("symbols, code", "with"),
        Column("memory, times", "memory_ratio", ".1f"),
        Column("refused", lambda row: f"{row['refused']} of {row['tried']}"),
    ),
)
