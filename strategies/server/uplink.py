"""The server's end of all uplinks: from payloads to an estimate of the gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flower_compress.compressors import Vector
from flower_compress.links import Link
from flower_compress.wire.packet import Packet

from ..run.claims import Ends
from .memory_sum import add_weighted
from .uplink_checks import UplinkChecks
from .uplink_end import Contribution, UplinkEnd
from .uplink_memories import UplinkMemories, UplinkMemory
from .vector_store import VectorStore

__all__ = ["Uplinks"]


class Uplinks:
    """Sums over clients of what they send and of their memories.

    With N clients, of which S took part, weights w_i (all 1 if uniform) and payloads
    q_i = C(g_i - h_i), sums weighted by w_i:

        g = sum_{i in S} q_i / |S| + hbar,   hbar = sum_i h_i / N,
        h_i += alpha q_i for i in S

    where a client that never contributed counts with the mean weight. A client that
    does not take part leaves its h_i as it is. With error feedback a payload carries
    n_i gradients, more than one if earlier payloads were lost, and |S| is the sum of
    the n_i: else losses would lengthen the step. Sums are float64, in the order of the
    contributions.

    With ``memory="each"`` every h_i is kept. A client that comes back without its state
    is sent its h_i, dense, beside the model: without it the client's answers would be
    noisy for 1 / alpha rounds. It is if the client runs on the node that built h_i, of
    whose gradients h_i tells, or if identities are trusted. If it runs on another one,
    or says that it has lost h_i only, h_i is taken out of hbar, and both ends start
    from zero.

    With ``memory="mean"`` only hbar is, hbar += alpha sum_{i in S} q_i / N, to float32
    rounding, and a client's weight is the one it had first; as long as that is 0 its
    memory stays zero. If a client comes back
    without its memory, what it should take out of hbar is not known: a new epoch
    begins, in which hbar = 0 and every client starts from zero when it next hears of
    the server. That round's estimate leaves those clients out.

    With ``memory="sampled"`` every h_i is kept, and those of absent clients are not
    used: g = sum_{i in S} (h_i + q_i) / |S|. Its noise is larger where clients differ.

    A client that is forgotten is taken out of hbar and of N. With ``"mean"`` its h_i is
    not known: it stays in both, with its weight
    (:attr:`UplinkMemories.orphaned_weight`), until a new epoch begins.

    Parameters
    ----------
    link : Link
        The uplink.
    dim : int
        Length d.
    memory : {"each", "mean", "sampled"}
        What is kept, see above.
    store : VectorStore
        Where memories are kept.
    max_norm : float, optional
        Largest Euclidean norm of an update h_i + q_i that is taken in, for each of the
        gradients that it carries. With ``"mean"`` a sketch of h_i says how long that
        is, to about a tenth (see :class:`~.sketch.Sketch`), and half as much again is
        taken in. Since h_i moves towards what was taken in and no further,
        h_i + alpha q_i = (1 - alpha) h_i + alpha (h_i + q_i), it is never longer.
    measures : bool
        Whether the lengths of updates are asked for.
    trusted : bool (default: False)
        Whether h_i is sent to whatever node the client runs on.

    Attributes
    ----------
    memories : UplinkMemories
        The h_i, and hbar.
    """

    def __init__(
        self,
        link: Link,
        dim: int,
        memory: UplinkMemory,
        store: VectorStore,
        max_norm: float | None,
        *,
        measures: bool = False,
        trusted: bool = False,
    ) -> None:
        self._dim, self._store, self._trusted = dim, store, trusted
        self._rate = link.memory_rate(dim)
        self._feeds_back = link.kind == "error-feedback"
        measures |= max_norm is not None
        self.memories = UplinkMemories(dim, memory, self._rate, sketches=measures)
        self._checks = UplinkChecks(link, self.memories, max_norm)

    # -- who is known, and what it is told -------------------------------------------

    def begin(self, identity: int, *, had_state: bool = False) -> UplinkEnd:
        """Return the end of a client that is not known, or not any more.

        Parameters
        ----------
        identity : int
            The client.
        had_state : bool
            Whether it remembers this run. A memory starts from zero, as it is told; an
            error has to be dropped, since nobody knows what of it has arrived.
        """
        end = UplinkEnd(self._store.slot(), epoch=self.memories.epoch)
        end.refused = had_state and self._feeds_back
        self.memories.ends[identity] = end
        return end

    def acked(self, end: UplinkEnd) -> tuple[int, int]:
        """Return version and CRC-32 of the payload that the client shall fold.

        Version 0 tells it to start from zero.
        """
        if self._rate is not None and (end.anew or not self.memories.is_current(end)):
            return 0, 0
        return end.version, end.crc

    def confirm(self, end: UplinkEnd, told: Ends | None) -> bool:
        """Return whether a client's memory is what this end takes it for, or can be.

        It goes back by one payload if that was not taken in.
        """
        version, _ = self.acked(end)
        if self._rate is None or told is None or not version:
            return True
        return version in told.sent

    def hand_over(self, end: UplinkEnd, node_id: int) -> None:
        """Note on which node the client runs from now on."""
        end.holder = node_id
        end.anew &= end.owner != node_id

    def memory(self, end: UplinkEnd) -> Vector | None:
        """Return h_i for a client that may have lost it, None if it is not kept.

        Nor if another node built it: then both ends start from zero.
        """
        held = end.memory.vector
        if held is None or self._trusted or end.owner == end.holder:
            return held
        end.anew = True
        return None

    # -- a round ---------------------------------------------------------------------

    def require_form(self, packet: Packet) -> None:
        """See :meth:`UplinkChecks.require_form`."""
        self._checks.require_form(packet)

    def check(
        self, end: UplinkEnd, packet: Packet, weight: float, *, keeps: bool = True
    ) -> Contribution:
        """See :meth:`UplinkChecks.check`."""
        return self._checks.check(end, packet, weight, keeps=keeps)

    def ends_epoch(self, part: Contribution) -> bool:
        """Whether a contribution makes all memories start from zero."""
        is_mean = self.memories.kind == "mean"
        return is_mean and not self._waits(part) and self._memory_was_lost(part)

    def fold(
        self, contributions: Sequence[Contribution], num_clients: int
    ) -> Vector | None:
        """Take contributions in and return the estimate g, shape (d,), float32.

        None if they all have weight 0: their memories move, and there is no estimate.
        One after the other, so that no more than one vector is decoded at a time of
        those that are not by now.
        """
        contributions = [part for part in contributions if not self._waits(part)]
        lost = [part for part in contributions if self._memory_was_lost(part)]
        begins_epoch = self.memories.kind == "mean" and bool(lost)
        used = [part for part in contributions if not begins_epoch or part not in lost]
        if lost and not used:  # All lost theirs: q_i is their whole gradient.
            used = lost
            self.memories.clear()
        for part in contributions:
            self.memories.settle(part)
        total = sum(part.weight * part.num_inputs for part in used)
        mean = self.memories.mean(num_clients) if total else None
        if begins_epoch:
            self.memories.begin_epoch()
        left_out = set() if len(used) == len(contributions) else {*map(id, lost)}
        estimate = np.zeros(self._dim if total else 0, dtype=np.float64)
        for part in contributions:
            opened = part.opened()
            if total and id(part) not in left_out:
                self._add(opened, estimate)
            self._advance(opened, moves_memory=not begins_epoch)
        self._renew(contributions)
        if not total:
            return None
        estimate /= total
        if mean is not None:
            estimate += mean
        return estimate.astype(np.float32)

    def take_in(self, contributions: Sequence[Contribution]) -> None:
        """Take contributions in without an estimate: every value was used by itself."""
        for part in contributions:
            self.memories.settle(part)
        for part in contributions:
            self._advance(part.opened(), moves_memory=True)
        self._renew(contributions)

    def value(self, part: Contribution) -> Vector:
        """Return what a client sent, h_i + q_i, shape (d,).

        With error feedback it is the mean of the inputs that the payload carries.
        """
        value = part.state.value(self._rate)
        value = part.payload.vector if value is None else value
        if part.num_inputs == 1:
            return value
        return value / np.float32(part.num_inputs)

    def _advance(self, part: Contribution, *, moves_memory: bool) -> None:
        end = part.end
        if self._rate is not None and moves_memory and not self.memories.move(part):
            self.memories.take_back(end)
            return
        if part.is_new:
            end.owner, end.anew = end.holder, False
        elif end.owner != end.holder:
            end.owner = 0  # From now on it tells of two nodes.
        end.version, end.crc, end.asked = part.version, part.payload.crc, 0

    def _renew(self, contributions: Sequence[Contribution]) -> None:
        bounds = (part.end.weighted_bound for part in contributions)
        self.memories.renew(max(bounds, default=0.0))

    def _waits(self, part: Contribution) -> bool:
        """Whether a memory cannot begin yet, since its weight would stay 0."""
        has_none = self._rate is not None and self.memories.kind == "mean"
        return has_none and not part.end.weight and not part.weight

    def _memory_was_lost(self, part: Contribution) -> bool:
        """Whether the server counted on a memory that the client has not."""
        end = part.end
        return part.is_new and end.version > 0 and self.memories.is_current(end)

    def _add(self, part: Contribution, estimate: NDArray[np.float64]) -> None:
        """Add w_i q_i, and w_i h_i if only the memories of those that took part count.

        They are not added to each other first: in float64 every order has its bytes.
        """
        held = part.memory if self.memories.kind == "sampled" else None
        if held is not None:
            add_weighted(estimate, held, part.weight)
        add_weighted(estimate, part.payload.vector, part.weight)
