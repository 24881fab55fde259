"""Bits per entry against normalised error, all operators."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flower_compress.compressors import get_compressor
from flower_compress.links import Payload

from .measure import Row
from .throughput import CHANNEL
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
    {"name": "scaled-sign", "bucket_size": 512},
    {"name": "random-sparsifier", "p": 0.03},
    {"name": "rand-k", "fraction": 0.03},
    {"name": "min-variance-sparsifier", "density": 0.03},
    {"name": "top-k", "fraction": 0.03},
    {"name": "identity"},
)


def operators(draws: int, advance: Callable[[], None]) -> list[Row]:
    """One row for each vector and operator: bits with the code "auto"."""
    vectors = {
        "gaussian": random_vector("gaussian", 10**6),
        "laplace": random_vector("laplace", 10**6),
        "gradient of the CNN": gradient_of_cnn(),
    }
    rows = []
    for vector, x in vectors.items():
        wide = x.astype(np.float64)
        for config in OPERATORS:
            compressor = get_compressor(config)
            bits, errors = [], []
            for version in range(1, draws + 1):
                payload = Payload.encode(x, compressor, "auto", CHANNEL.at(version))
                bits.append(payload.num_bits)
                errors.append(float(np.square(payload.vector - wide).sum()))
            squares = float(np.square(wide).sum())
            rows.append(
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
            )
            advance()
    return rows


def num_rows() -> int:
    return 3 * len(OPERATORS)
