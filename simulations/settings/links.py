"""Downlinks of the papers that are for simulations alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flower_compress import Direct, Identity, Memory, StochasticQuantizer
from flower_compress.compressors import Compressor, Vector
from flower_compress.links import Channel, Payload, SenderState

__all__ = ["Ghost", "LevelsByClient"]


@dataclass(frozen=True)
class Ghost(Direct):
    """w_hat_{k+1} = w_k + C(w_{k+1} - w_k): from a model that no client has.

    "Impossible to implement in practice": here w_hat is sent as it is, and billed so.
    Source: Philippenko & Dieuleveut (NeurIPS 2021), appendix D, eq. (S10).

    Parameters
    ----------
    compressor : Compressor
        Identity, for w_hat.
    operator : Compressor
        C.
    """

    operator: Compressor = Identity()

    def send(
        self, state: SenderState, x: Vector, version: int, channel: Channel
    ) -> tuple[SenderState, Payload]:
        """Send w_hat; the state keeps w."""
        perturbed = x
        if state.vector is not None:
            update = Payload.encode(x - state.vector, self.operator, "auto", channel)
            perturbed = state.vector + update.vector
        payload = Payload.encode(perturbed, self.compressor, self.code, channel)
        return SenderState(state.version, x, payload, version), payload

    def acknowledge(
        self, state: SenderState, version: int, crc: int | None = None
    ) -> SenderState:
        """Keep w."""
        return SenderState(version, state.vector)

    def config(self) -> dict[str, Any]:
        """Return what tells the link from others."""
        return {**super().config(), "operator": self.operator.config()}


@dataclass(frozen=True)
class LevelsByClient(Memory):
    """Rand-MCM's downlink with a number of levels for each client.

    Source: Philippenko & Dieuleveut (NeurIPS 2021), section 4.1, "worker dependent
    compression". The rate is one for all, that of the coarsest quantizer.

    Parameters
    ----------
    compressor : StochasticQuantizer
        The coarsest.
    levels : tuple[int, ...]
        Those of clients 0, 1, ..., over and over.
    """

    levels: tuple[int, ...] = (1,)

    def send(
        self, state: SenderState, x: Vector, version: int, channel: Channel
    ) -> tuple[SenderState, Payload]:
        """Compress the difference with the levels of the channel's client."""
        levels = self.levels[channel.stream.index % len(self.levels)]
        operator = StochasticQuantizer(
            levels, bucket_size=getattr(self.compressor, "bucket_size", None)
        )
        own = Memory(operator, self.code, rate=self.rate, initial=self.initial)
        return own.send(state, x, version, channel)

    def config(self) -> dict[str, Any]:
        """Return what tells the link from others."""
        return {**super().config(), "levels": list(self.levels)}
