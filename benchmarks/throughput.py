"""Encoding and decoding speed of operators and codes, against a memory copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from flower_compress.compressors import get_compressor
from flower_compress.links import Payload

from .markdown import Column, columns
from .measure import Row, medians
from .subjects import CHANNEL, CODES, OPERATORS
from .suite import Case, Settings, Suite
from .vectors import random_vector

CODED = (
    "QSGD s=4, buckets",
    "QSGD s=16, buckets",
    "range L=8",
    "range L=16",
    "range L=8, buckets",
    "range L=16, buckets",
)
"""Operators that are measured with every code, the others with the code "auto"."""


def _cases(settings: Settings) -> Iterator[Case]:
    for dim in settings.dims:
        for label in OPERATORS:
            for code in CODES if label in CODED else ("auto",):
                yield dim, label, code


def _measure(settings: Settings, dim: int, label: str, code: str) -> list[Row]:
    x = random_vector("gaussian", dim)
    megabytes = x.nbytes / 1e6
    compressor = get_compressor(OPERATORS[label])
    payload = Payload.encode(x, compressor, code, CHANNEL)
    functions: dict[str, Callable[[], object]] = {
        "copy": partial(np.copyto, np.empty_like(x), x),
        "quantize": partial(compressor.compress, x, CHANNEL.stream),
        "encode": partial(Payload.encode, x, compressor, code, CHANNEL),
        "decode": lambda: Payload(payload.data, dim, CHANNEL).vector,
    }
    seconds = medians(functions, settings.repeats)
    return [
        {
            "operator": label,
            "code": code,
            "dim": dim,
            "bits_per_entry": payload.num_bits / dim,
            "quantize_ms": 1e3 * seconds["quantize"],
            "encode_mb_per_s": megabytes / seconds["encode"],
            "decode_mb_per_s": megabytes / seconds["decode"],
            "encode_over_copy": seconds["encode"] / seconds["copy"],
            "decode_over_copy": seconds["decode"] / seconds["copy"],
        }
    ]


SUITE = Suite(
    "throughput",
    _cases,
    _measure,
    columns(
        2,
        Column("operator", "operator"),
        Column("code", "code"),
        Column("d", "dim", ","),
        Column("bits/entry", "bits_per_entry", ".3f"),
        Column("quantize, ms", "quantize_ms", ".1f"),
        Column("encode, MB/s", "encode_mb_per_s", ".0f"),
        Column("decode, MB/s", "decode_mb_per_s", ".0f"),
        Column("encode / copy", "encode_over_copy", ".1f"),
        Column("decode / copy", "decode_over_copy", ".1f"),
    ),
)
