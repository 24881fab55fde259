"""What is measured: operators and codes, on one channel."""

from __future__ import annotations

from flower_compress.links import Channel
from flower_compress.streams import Purpose, Stream

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
    "natural": {"name": "natural-compression"},
    "scaled sign": {"name": "scaled-sign"},
    "TopK 1 %": {"name": "top-k", "fraction": 0.01},
    "RandK 1 %": {"name": "rand-k", "fraction": 0.01},
    "Bernoulli 1 %": {"name": "random-sparsifier", "p": 0.01},
    "min. variance 1 %": {"name": "min-variance-sparsifier", "density": 0.01},
    "identity": {"name": "identity"},
}

CODES = (
    "auto",
    "fixed-width",
    "elias",
    "nested-golomb",
    "support-vector",
    "packed-huffman",
    "entropy",
)
