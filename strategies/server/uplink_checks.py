"""What a client sends over its uplink, decoded and checked, and not taken in yet."""

from __future__ import annotations

from math import isfinite

import numpy as np

from flower_compress.errors import OutOfSyncError, RefusedUpdateError
from flower_compress.links import Link, ReceiverState, accept
from flower_compress.links.forms import require_form
from flower_compress.wire.packet import Packet

from .sketch import SLACK, Sketched, length
from .uplink_end import Contribution, UplinkEnd
from .uplink_memories import UplinkMemories

__all__ = ["UplinkChecks"]


class UplinkChecks:
    """Decodes what clients send, and refuses what no end can take in.

    Parameters
    ----------
    link : Link
        The uplink.
    memories : UplinkMemories
        What payloads build on.
    max_norm : float, optional
        See :class:`Uplinks`.
    """

    def __init__(
        self, link: Link, memories: UplinkMemories, max_norm: float | None
    ) -> None:
        self._link, self._memories, self._max_norm = link, memories, max_norm
        self._rate = memories.rate
        self._feeds_back = link.kind == "error-feedback"

    def require_form(self, packet: Packet) -> None:
        """Raise CorruptPacket unless its payload is of the link's operator and code."""
        operators = self._link.operators(begins=packet.base == 0)
        for payload in packet.payloads:
            sizes = None if payload.channel is None else payload.channel.sizes
            require_form(payload.data, payload.dim, operators, self._link.code, sizes)

    def check(
        self, end: UplinkEnd, packet: Packet, weight: float, *, keeps: bool
    ) -> Contribution:
        """Decode a client's packet without changing anything.

        Parameters
        ----------
        end, packet, weight
            The client's end, what it sends, and its weight.
        keeps : bool
            Whether the decoded vector is kept until it is taken in. If not, it is
            decoded a second time then: nothing can be taken in before all lengths of
            the round are known, by which too long ones are told.

        Raises
        ------
        CorruptPacket
            If its payload cannot be decoded.
        OutOfSyncError
            If it builds on a memory that this end does not hold.
        RefusedUpdateError
            If the update is not finite, or larger than the limit.
        """
        if len(packet.payloads) != 1:
            raise OutOfSyncError(f"expected one payload, got {len(packet.payloads)}")
        (payload,) = packet.payloads
        is_new = self._rate is not None and packet.base == 0
        is_current = self._memories.is_current(end)
        if not (is_current or is_new):
            raise OutOfSyncError("the update builds on a memory of an earlier epoch")
        if end.anew and not is_new:
            raise OutOfSyncError("the update builds on a memory that another node had")
        has_memory = False
        held = ReceiverState(end.version)
        if self._rate is not None and packet.version > end.version:
            # Else accept refuses it, as stale.
            has_memory = not is_new
            held = ReceiverState(
                *((0, None) if is_new else (end.version, end.memory.vector))
            )
        state = accept(
            held,
            base=packet.base,
            version=packet.version,
            payloads=packet.payloads,
            final=False,
            rate=self._rate,
        )
        num_inputs = 1
        if self._feeds_back:
            # As many as it says, but no more than it was asked for.
            num_inputs = max(1, min(packet.detail, end.asked))
        sketch = end.sketch if is_current and not is_new else None
        norm = self._check_size(state, num_inputs, sketch)
        return Contribution(
            end,
            state.version,
            payload if keeps else payload.compact(),
            has_memory,
            weight,
            packet.version,
            is_new,
            num_inputs,
            norm,
        )

    def _check_size(
        self, state: ReceiverState, num_inputs: int, held: Sketched | None
    ) -> float:
        """Return ||h_i + q_i|| for each input, which is finite and within the limit."""
        value = state.value(self._rate)
        if value is None:
            return 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            squared = float(np.dot(value, value))
            if not isfinite(squared):  # float32 overflows long before the sum does
                squared = float(np.sum(np.square(value, dtype=np.float64)))
        if not isfinite(squared):
            count = int(np.size(value) - np.count_nonzero(np.isfinite(value)))
            raise RefusedUpdateError(
                f"the update holds {count} values that are NaN or infinite"
            )
        norm, slack = float(squared**0.5) / num_inputs, 1.0
        if self._memories.sketch is not None:
            sketched = self._memories.sketch.of(value)
            norm, slack = length(sketched if held is None else sketched + held), SLACK
        if self._max_norm is not None and norm > slack * self._max_norm:
            raise RefusedUpdateError(
                f"expected an update of norm at most {self._max_norm:g} "
                f"(max_update_norm), got {norm:g}"
            )
        return norm
