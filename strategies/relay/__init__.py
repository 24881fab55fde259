"""The relay of a decentralized run."""

from __future__ import annotations

from .relay import Relay

__all__ = ["Relay"]
