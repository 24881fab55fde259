"""A link with a memory at both ends: the difference to it is compressed.

Source: Mishchenko et al., "Distributed learning with compressed gradient
differences" (2019) for the uplink; Philippenko & Dieuleveut, "Preserved central model
for faster bidirectional compression in distributed settings" (NeurIPS 2021), eq. (3),
for the downlink.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..arguments import check_number
from ..compressors import Compressor, Identity, Vector
from ..errors import ConfigurationError
from ..theory import memory_rate
from .base import Link, SenderState, fold
from .payload import Channel, Payload

__all__ = ["Memory"]


@dataclass(frozen=True)
class Memory(Link):
    """q = C(x - h), received as h + q; then h += rate * q at both ends.

    With a lossless compressor the link sends x itself and keeps no memory: the value
    is the same, and exact where h + (x - h) is not. So it is with the arrays of a
    lossless operator of :class:`PerArray`: their h stays zero.

    Parameters
    ----------
    compressor : Compressor
        The operator C.
    code : str
        Name of the code for its symbols; ``"auto"`` takes the shortest.
    rate : float, optional
        alpha in [0, 1]; default 1 / (2 (omega + 1)) for an unbiased operator and 1
        for a contraction (as EF21, Richtarik et al. 2021).
    initial : {"zero", "first"}
        The first memory of a sender that was given none: h_0 = 0, or the first
        vector, sent dense and billed (h_0 = g_1 in MCM's algorithm 1).
    """

    rate: float | None = None
    initial: Literal["zero", "first"] = "zero"

    kind: ClassVar[str] = "memory"

    def __post_init__(self) -> None:
        Link.__post_init__(self)
        if self.rate is not None:
            check_number("rate", self.rate, "lie in [0, 1]", lambda a: 0 <= a <= 1)
        if self.initial not in ("zero", "first"):
            raise ConfigurationError(
                f'initial must be "zero" or "first", got {self.initial!r}'
            )

    def memory_rate(self, dim: int) -> float | None:
        """Rate alpha, None for a lossless compressor."""
        if self.compressor.lossless:
            return None
        if self.rate is not None:
            return self.rate
        if not self.compressor.unbiased:
            return 1.0
        return memory_rate(self.compressor.omega(dim))

    def operators(self, *, begins: bool) -> tuple[Compressor, ...]:
        """Return the operator, and where a memory begins with a dense vector that."""
        if begins and self.initial == "first":
            return self.compressor, Identity()
        return (self.compressor,)

    @property
    def forgotten(self) -> tuple[tuple[int, int], ...]:
        """Where the operators of some arrays are lossless."""
        return self.compressor.lossless_spans

    def send(
        self, state: SenderState, x: Vector, version: int, channel: Channel
    ) -> tuple[SenderState, Payload]:
        """Compress the difference between `x` and the memory."""
        compressor, difference = self.compressor, x
        if state.vector is not None:
            difference = x - state.vector
        elif self.initial == "first":
            compressor = Identity()
        payload = Payload.encode(difference, compressor, self.code, channel)
        return SenderState(state.version, state.vector, payload, version), payload

    def acknowledge(
        self, state: SenderState, version: int, crc: int | None = None
    ) -> SenderState:
        """Fold the pending payload, drop it, or start from zero."""
        if state.pending is not None and state.is_pending(version, crc):
            rate = self.memory_rate(state.pending.dim)
            if rate is None:
                return SenderState(version)
            return SenderState(version, fold(state.vector, state.pending, rate))
        if version == state.version:
            return SenderState(version, state.vector)
        return SenderState()

    def config(self) -> dict[str, Any]:
        """Return the JSON-able configuration that rebuilds the link."""
        return {**Link.config(self), "rate": self.rate, "initial": self.initial}
