"""Length of every code over the zero-order entropy of its symbols."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flower_compress.coding import choose_code
from flower_compress.compressors import get_compressor

from .measure import Row
from .throughput import CHANNEL, CODES
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


def lengths(dim: int, advance: Callable[[], None]) -> list[Row]:
    """One row for each distribution, operator and bucket size."""
    rows = []
    for kind in KINDS:
        x = random_vector(kind, dim)
        for label, config in QUANTIZERS.items():
            for bucket_size in BUCKETS:
                compressor = get_compressor({**config, "bucket_size": bucket_size})
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
                rows.append(row)
                advance()
    return rows


def num_rows() -> int:
    return len(KINDS) * len(QUANTIZERS) * len(BUCKETS)
