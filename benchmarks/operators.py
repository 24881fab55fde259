"""Bits per entry against normalised error, all operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np

from flower_compress.compressors import Vector, get_compressor
from flower_compress.links import Payload

from .markdown import table
from .measure import Row
from .subjects import CHANNEL
from .suite import Settings, Suite
from .vectors import gradient_of_cnn, random_vector

QSGD = {"name": "stochastic-quantizer", "bucket_size": 512}
RANGE = {"name": "dithered-quantizer", "tau": "none", "bucket_size": 512}
OPERATORS: tuple[dict[str, object], ...] = (
    {**QSGD, "levels": 1},
    {**QSGD, "levels": 4},
    {**QSGD, "levels": 16},
    {**QSGD, "levels": 16, "subtractive": True},
    {**QSGD, "levels": 64},
    {**QSGD, "levels": 64, "subtractive": True},
    {**QSGD, "levels": 4, "norm": "inf"},
    {**QSGD, "levels": 4, "norm": "inf", "subtractive": True},
    {**RANGE, "levels": 2},
    {**RANGE, "levels": 2, "subtractive": True},
    {**RANGE, "levels": 8},
    {**RANGE, "levels": 8, "subtractive": True},
    {**RANGE, "levels": 8, "tau": "exact"},
    {**RANGE, "levels": 8, "tau": "lemma"},
    {"name": "rotated-quantizer", "step": 4.0},
    {"name": "rotated-quantizer", "step": 3.0},
    {"name": "rotated-quantizer", "step": 2.0},
    {"name": "rotated-quantizer", "step": 1.0},
    {"name": "rotated-quantizer", "step": 0.5},
    {"name": "natural-compression"},
    {"name": "scaled-sign", "bucket_size": 512},
    {"name": "random-sparsifier", "p": 0.03},
    {"name": "rand-k", "fraction": 0.03},
    {"name": "min-variance-sparsifier", "density": 0.03},
    {"name": "top-k", "fraction": 0.03},
    {"name": "identity"},
)
VECTORS: dict[str, Callable[[], Vector]] = {
    "gaussian": partial(random_vector, "gaussian", 10**6),
    "laplace": partial(random_vector, "laplace", 10**6),
    "gradient of the CNN": gradient_of_cnn,
}


def _measure(settings: Settings, vector: str, config: dict[str, object]) -> list[Row]:
    """Bits with the code "auto", on as many draws as there are repeats."""
    x = VECTORS[vector]()
    wide = x.astype(np.float64)
    compressor = get_compressor(config)
    bits, errors = [], []
    for version in range(1, settings.repeats + 1):
        payload = Payload.encode(x, compressor, "auto", CHANNEL.at(version))
        bits.append(payload.num_bits)
        errors.append(float(np.square(payload.vector - wide).sum()))
    squares = float(np.square(wide).sum())
    return [
        {
            "vector": vector,
            "dim": x.size,
            "operator": config,
            "unbiased": compressor.unbiased,
            "bits_per_entry": float(np.mean(bits)) / x.size,
            "normalised_error": float(np.mean(errors)) / squares,
            "bound": compressor.omega(x.size)
            if compressor.unbiased
            else 1.0 - compressor.contraction(x.size),
        }
    ]


def _table(rows: list[Row]) -> str:
    vectors = list(dict.fromkeys(row["vector"] for row in rows))
    by_operator: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_operator.setdefault(_name(row["operator"]), {})[row["vector"]] = row
    head = ["operator", "unbiased"]
    for vector in vectors:
        head += [f"{vector}: bits", "error", "bound"]
    lines = []
    for name, found in by_operator.items():
        cells = [name, "yes" if next(iter(found.values()))["unbiased"] else "no"]
        for vector in vectors:
            row = found[vector]
            cells += [
                f"{row['bits_per_entry']:.3f}",
                f"{row['normalised_error']:.4g}",
                f"{row['bound']:.4g}",
            ]
        lines.append(cells)
    return table(head, lines, 2)


def _name(config: Row) -> str:
    parameters = [f"{key}={value}" for key, value in config.items() if key != "name"]
    return " ".join([str(config["name"]), *parameters])


SUITE = Suite("operators", lambda _: product(VECTORS, OPERATORS), _measure, _table)
