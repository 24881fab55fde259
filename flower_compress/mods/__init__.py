"""The client's end of its links, as a Flower mod, and where it keeps its state."""

from __future__ import annotations

from .compression_mod import CompressionMod
from .many_clients_mod import ManyClientsMod

__all__ = ["CompressionMod", "ManyClientsMod"]
