"""Encoding and decoding speed of operators and codes, against a memory copy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from flower_compress.compressors import Compressor, Vector, get_compressor
from flower_compress.links import Channel, Payload
from flower_compress.streams import Purpose, Stream

from .measure import Row, best_of_batches, medians
from .vectors import random_vector

CHANNEL = Channel(Stream(2026, Purpose.UPLINK, 1, 1))

QSGD = {"name": "stochastic-quantizer"}
RANGE = {"name": "dithered-quantizer"}
OPERATORS: dict[str, dict[str, object]] = {
    "QSGD s=1": {**QSGD, "levels": 1},
    "QSGD s=1, buckets": {**QSGD, "levels": 1, "bucket_size": 512},
    "QSGD s=4, buckets": {**QSGD, "levels": 4, "bucket_size": 512},
    "QSGD s=16, buckets": {**QSGD, "levels": 16, "bucket_size": 512},
    "range L=8": {**RANGE, "levels": 8},
    "range L=16": {**RANGE, "levels": 16},
    "range L=8, buckets": {**RANGE, "levels": 8, "bucket_size": 512},
    "range L=16, buckets": {**RANGE, "levels": 16, "bucket_size": 512},
    "rotated, step 2": {"name": "rotated-quantizer"},
    "scaled sign": {"name": "scaled-sign"},
    "TopK 1 %": {"name": "top-k", "fraction": 0.01},
    "RandK 1 %": {"name": "rand-k", "fraction": 0.01},
    "Bernoulli 1 %": {"name": "random-sparsifier", "p": 0.01},
    "min. variance 1 %": {"name": "min-variance-sparsifier", "density": 0.01},
    "identity": {"name": "identity"},
}
CODED = (
    "QSGD s=4, buckets",
    "QSGD s=16, buckets",
    "range L=8",
    "range L=16",
    "range L=8, buckets",
    "range L=16, buckets",
)
"""Operators that are measured with every code, the others with the code "auto"."""

CODES = (
    "auto",
    "fixed-width",
    "elias",
    "nested-golomb",
    "support-vector",
    "packed-huffman",
    "entropy",
)


def throughput(dim: int, repeats: int, advance: Callable[[], None]) -> list[Row]:
    """One row for each operator and code on a Gaussian vector."""
    x = random_vector("gaussian", dim)
    target = np.empty_like(x)
    megabytes = x.nbytes / 1e6
    rows = []
    for label, code in _pairs():
        compressor = get_compressor(OPERATORS[label])
        functions: dict[str, Callable[[], object]] = {
            "copy": partial(np.copyto, target, x),
            "quantize": partial(compressor.compress, x, CHANNEL.stream),
            **_ends(x, compressor, code),
        }
        seconds = medians(functions, repeats)
        rows.append(
            {
                "operator": label,
                "code": code,
                "dim": dim,
                "bits_per_entry": Payload.encode(x, compressor, code, CHANNEL).num_bits
                / dim,
                "quantize_ms": 1e3 * seconds["quantize"],
                "encode_mb_per_s": megabytes / seconds["encode"],
                "decode_mb_per_s": megabytes / seconds["decode"],
                "encode_over_copy": seconds["encode"] / seconds["copy"],
                "decode_over_copy": seconds["decode"] / seconds["copy"],
            }
        )
        advance()
    return rows


def num_pairs() -> int:
    return len(_pairs())


def _pairs() -> list[tuple[str, str]]:
    return [
        (label, code)
        for label in OPERATORS
        for code in (CODES if label in CODED else ("auto",))
    ]


def _ends(
    x: Vector, compressor: Compressor, code: str
) -> dict[str, Callable[[], object]]:
    data = Payload.encode(x, compressor, code, CHANNEL).data
    return {
        "encode": partial(Payload.encode, x, compressor, code, CHANNEL),
        "decode": lambda: Payload(data, x.size, CHANNEL).vector,
    }


def small(dim: int, repeats: int, advance: Callable[[], None]) -> list[Row]:
    """Microseconds for a whole packet of a short vector, all Python included."""
    from flower_compress.links import payload as module
    from flower_compress.wire.packet import Packet

    x = random_vector("gaussian", dim)

    def encode(compressor: Compressor) -> bytes:
        payload = Payload.encode(x, compressor, "auto", CHANNEL)
        return Packet(1, 16, 17, 15, 0, dim, (payload,)).data

    def decode(data: bytes) -> object:
        # As the first receiver of these bytes: past the cache.
        packet = Packet.parse(data)
        packet.require_dim(dim)
        payload = packet.on(CHANNEL).payloads[0]
        return module._vector(module._decode(payload.data, dim, None), payload.channel)

    rows = []
    for label, config in OPERATORS.items():
        compressor = get_compressor(config)
        data = encode(compressor)
        sender, receiver = partial(encode, compressor), partial(decode, data)
        rows.append(
            {
                "operator": label,
                "dim": dim,
                "packet_bytes": len(data),
                "encode_us": 1e6 * best_of_batches(sender, 200, repeats),
                "decode_us": 1e6 * best_of_batches(receiver, 200, repeats),
            }
        )
        advance()
    return rows
