"""The node of a decentralized run."""

from __future__ import annotations

from .mod import GossipMod

__all__ = ["GossipMod"]
