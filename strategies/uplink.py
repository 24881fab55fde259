"""The server's end of all uplinks: from payloads to an estimate of the gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flower_compress.compressors import Vector
from flower_compress.errors import OutOfSyncError
from flower_compress.links import Link, ReceiverState, accept, commit
from flower_compress.packet import Packet

__all__ = ["Contribution", "UplinkEnd", "Uplinks"]


@dataclass(slots=True)
class UplinkEnd:
    """The server's end of one client's uplink.

    Attributes
    ----------
    state : ReceiverState
        Its memory h_i, and the version accepted last.
    weight : float
        The client's weight w_i; 0 until it has contributed.
    acked : int
        Newest version accepted, told to the client with the next message.
    """

    state: ReceiverState
    weight: float = 0.0
    acked: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """One client's part in a round, checked but not taken in yet."""

    end: UplinkEnd
    state: ReceiverState
    vector: Vector
    weight: float
    version: int


class Uplinks:
    """Sums over clients of what they send and of their memories.

    With N clients, of which S took part, weights w_i (all 1 if uniform) and payloads
    q_i = C(g_i - h_i):

        g = sum_{i in S} w_i q_i / sum_{i in S} w_i + hbar
        h_i += alpha q_i for i in S
        hbar = sum_i w_i h_i / sum_i w_i over all N

    where a client that never contributed counts with the mean weight. A client that
    does not take part leaves its h_i as it is, so hbar stays the mean of all h_i: the
    variant of Artemis with partial participation that needs no h_i of absent clients.
    Sums are float64, in the order of the contributions.

    Parameters
    ----------
    link : Link
        The uplink.
    dim : int
        Length d.
    """

    def __init__(self, link: Link, dim: int) -> None:
        self._dim = dim
        self._rate = link.memory_rate(dim)
        self._memory_sum: NDArray[np.float64] | None = None  # sum_i w_i h_i
        self._weight_sum = 0.0
        self._num_known = 0

    @staticmethod
    def begin() -> UplinkEnd:
        """Return the end of a client that was never heard of."""
        return UplinkEnd(ReceiverState())

    def check(self, end: UplinkEnd, packet: Packet, weight: float) -> Contribution:
        """Decode a client's packet without changing anything.

        Raises
        ------
        CorruptPacket
            If its payload cannot be decoded.
        OutOfSyncError
            If it builds on a memory that this end does not hold.
        """
        if len(packet.payloads) != 1:
            raise OutOfSyncError(f"expected one payload, got {len(packet.payloads)}")
        state = end.state
        is_new = packet.version > state.version  # Else accept refuses it, as stale.
        if self._rate is not None and is_new and packet.base == 0:
            state = ReceiverState()  # The client has lost its memory: both start anew.
        state = accept(
            state,
            base=packet.base,
            version=packet.version,
            payloads=packet.payloads,
            final=False,
            rate=self._rate,
        )
        vector = packet.payloads[0].vector
        return Contribution(end, state, vector, weight, packet.version)

    def fold(self, contributions: list[Contribution], num_clients: int) -> Vector:
        """Take contributions in and return the estimate g, shape (d,), float32."""
        total = sum(part.weight for part in contributions)
        estimate = np.zeros(self._dim, dtype=np.float64)
        for part in contributions:
            self._settle_weight(part)
            _add(estimate, part.vector, part.weight)
        estimate /= total
        if self._memory_sum is not None:
            mean_weight = self._weight_sum / self._num_known
            estimate += self._memory_sum / (mean_weight * num_clients)
        for part in contributions:
            end = part.end
            state = commit(part.state, self._rate)
            if self._rate is not None:
                self._move_memory(end.state.vector, state.vector, part.weight)
            end.state, end.acked = state, part.version
        return estimate.astype(np.float32)

    def _settle_weight(self, part: Contribution) -> None:
        """Bring the sums in line with a client's new weight, or lost memory."""
        end, held = part.end, part.end.state.vector
        if held is not None and self._memory_sum is not None:
            if part.state.vector is None:
                _add(self._memory_sum, held, -end.weight)
                end.state = ReceiverState()
            elif part.weight != end.weight:
                _add(self._memory_sum, held, part.weight - end.weight)
        self._num_known += end.weight == 0.0
        self._weight_sum += part.weight - end.weight
        end.weight = part.weight

    def _move_memory(
        self, before: Vector | None, after: Vector | None, weight: float
    ) -> None:
        if after is None:
            return
        if self._memory_sum is None:
            self._memory_sum = np.zeros(self._dim, dtype=np.float64)
        # In float64 from the float32 memories: the sum never drifts from them.
        change = after.astype(np.float64)
        if before is not None:
            change -= before
        _add(self._memory_sum, change, weight)


def _add(
    total: NDArray[np.float64], vector: NDArray[np.floating], weight: float
) -> None:
    if weight == 1.0:
        total += vector
    else:
        total += vector.astype(np.float64) * weight
