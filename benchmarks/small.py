"""Whole packets of a short vector, all Python included, with and without numba."""

from __future__ import annotations

from functools import partial

from flower_compress.compressors import Compressor, get_compressor
from flower_compress.links import Payload
from flower_compress.links import payload as module
from flower_compress.wire.packet import Packet

from .markdown import Column, columns
from .measure import Row, best_of_batches, each_way
from .subjects import CHANNEL, OPERATORS
from .suite import Settings, Suite
from .vectors import random_vector

DIM = 124


def _measure(settings: Settings, label: str) -> list[Row]:
    x = random_vector("gaussian", DIM)

    def encode(compressor: Compressor) -> bytes:
        payload = Payload.encode(x, compressor, "auto", CHANNEL)
        return Packet(1, 16, 17, 15, 0, DIM, (payload,)).data

    def decode(data: bytes) -> object:
        # As the first receiver of these bytes: past the cache.
        packet = Packet.parse(data)
        packet.require_dim(DIM)
        payload = packet.on(CHANNEL).payloads[0]
        return module._vector(module._decode(payload.data, DIM, None), payload.channel)

    compressor = get_compressor(OPERATORS[label])
    data = encode(compressor)
    batches = partial(best_of_batches, batch=200, repeats=7 * settings.repeats)
    row: Row = {"operator": label, "dim": DIM, "packet_bytes": len(data)}
    for on in each_way():
        prefix = "compiled_" if on else ""
        row[f"{prefix}encode_us"] = 1e6 * batches(partial(encode, compressor))
        row[f"{prefix}decode_us"] = 1e6 * batches(partial(decode, data))
    return [row]


def _compiled(what: str) -> Column:
    def show(row: Row) -> str:
        value = row.get(f"compiled_{what}_us")
        return "" if value is None else f"{value:.0f}"

    return Column(f"compiled, {what}", show)


SUITE = Suite(
    "small",
    lambda _: [(label,) for label in OPERATORS],
    _measure,
    columns(
        1,
        Column("operator", "operator"),
        Column("d", "dim"),
        Column("packet, bytes", "packet_bytes"),
        Column("encode, us", "encode_us", ".0f"),
        Column("decode, us", "decode_us", ".0f"),
        _compiled("encode"),
        _compiled("decode"),
    ),
)
