"""Defaults that the algorithms share.

The papers' operators (a level or four, omega of 5 to 8) are for clients that send
gradients. Clients that train locally and return weights go far in a round, and with
that much noise MCM, Rand-MCM, Artemis and Dore diverge as soon as they go more than a
tenth to a quarter of the way to optima of their own (:mod:`flower_compress.stability`).
With these operators all of them bear any local training, at half participation too.

Each array is rotated by itself. Over the whole model a rotation spreads the noise of
arrays of large norm over those of small norm, and over those that nobody trains; for a
scale more each array has an omega of 3/16 of its own, and zeros stay zeros.
"""

from __future__ import annotations

from flower_compress.compressors import Compressor, RotatedQuantizer

__all__ = ["DEFAULT_COMPRESSOR", "QUIET_COMPRESSOR"]

DEFAULT_COMPRESSOR: Compressor = RotatedQuantizer(step=1.5, per="tensor")
"""omega = 3/16 at any dimension, 1.7 bits an entry."""

QUIET_COMPRESSOR: Compressor = RotatedQuantizer(step=1.0, per="tensor")
"""omega = 1/12, 2.2 bits an entry: for links that feed their error back."""
