"""Length of every code over the zero-order entropy of its symbols."""

from __future__ import annotations

from itertools import product

import numpy as np

from flower_compress.coding import choose_code
from flower_compress.compressors import get_compressor

from .markdown import Column, columns
from .measure import Row
from .subjects import CHANNEL, CODES
from .suite import Settings, Suite
from .vectors import entropy_bits, random_vector

QUANTIZERS: dict[str, dict[str, object]] = {
    **{
        f"range L={levels}": {"name": "dithered-quantizer", "levels": levels}
        for levels in (8, 16)
    },
    **{
        f"QSGD s={levels}": {"name": "stochastic-quantizer", "levels": levels}
        for levels in (1, 4, 16)
    },
}
BUCKETS = (None, 512)
KINDS = ("gaussian", "laplace")


def _measure(
    _: Settings, dim: int, kind: str, label: str, bucket_size: int | None
) -> list[Row]:
    x = random_vector(kind, dim)
    compressor = get_compressor({**QUANTIZERS[label], "bucket_size": bucket_size})
    symbols = compressor.compress(x, CHANNEL.stream).symbols
    assert symbols is not None
    entries = np.asarray(symbols.dense())
    entropy = entropy_bits(entries)
    row: Row = {
        "operator": label,
        "bucket_size": bucket_size,
        "vector": kind,
        "dim": dim,
        "levels_that_occur": len(np.unique(entries)),
        "entropy_bits_per_entry": entropy / dim,
    }
    for code in CODES:
        chosen = choose_code(code, symbols)
        row[code] = chosen.num_bits(symbols) / entropy
        if code == "auto":
            row["auto_takes"] = chosen.name
    return [row]


SUITE = Suite(
    "lengths",
    lambda settings: product(settings.dims, KINDS, QUANTIZERS, BUCKETS),
    _measure,
    columns(
        3,
        Column("operator", "operator"),
        Column("buckets", lambda row: row["bucket_size"] or "whole"),
        Column("vector", "vector"),
        Column("d", "dim", ","),
        Column("levels", "levels_that_occur"),
        Column("entropy", "entropy_bits_per_entry", ".4f"),
        *(Column(code, code, ".3f") for code in CODES),
        Column("auto takes", "auto_takes"),
    ),
)
