"""Defaults that the algorithms share."""

from __future__ import annotations

from flower_compress.compressors import Compressor, StochasticQuantizer

__all__ = ["DEFAULT_COMPRESSOR"]

DEFAULT_COMPRESSOR: Compressor = StochasticQuantizer(levels=4, bucket_size=512)
"""QSGD with four levels in buckets of 512: omega 5.7 at any dimension."""
