"""The client's end of its links, as a Flower mod, and where it keeps its state."""

from __future__ import annotations

from .compression_mod import CompressionMod

__all__ = ["CompressionMod"]
