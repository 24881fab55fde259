"""A link without state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compressors import Vector
from .base import Link, SenderState
from .payload import Channel, Payload

__all__ = ["Direct"]


@dataclass(frozen=True)
class Direct(Link):
    """The receiver's value is C(x)."""

    kind: ClassVar[str] = "direct"

    def send(
        self, state: SenderState, x: Vector, version: int, channel: Channel
    ) -> tuple[SenderState, Payload]:
        """Compress `x`."""
        payload = Payload.encode(x, self.compressor, self.code, channel)
        return SenderState(state.version, None, None, version), payload

    def acknowledge(
        self, state: SenderState, version: int, crc: int | None = None
    ) -> SenderState:
        """Remember the version; there is nothing to fold."""
        return SenderState(version)
