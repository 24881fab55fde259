"""The server's end of all uplinks: from payloads to an estimate of the gradient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flower_compress.compressors import Vector
from flower_compress.errors import OutOfSyncError, RefusedUpdateError
from flower_compress.links import Link, Payload, ReceiverState, accept, commit, fold
from flower_compress.links.forms import require_form
from flower_compress.wire.packet import Packet

from ..run.checkpoint import Arrays, Checkpoint
from ..run.claims import Ends
from ..run.fields import COUNT, FLAG, INTEGER, NUMBER, OPTIONAL_INTEGER, fields
from .memory_sum import MemorySum, add_weighted
from .sketch import SLACK, Sketch, Sketched, length
from .vector_store import Slot, VectorStore

__all__ = ["Contribution", "UplinkEnd", "UplinkMemory", "Uplinks"]

UplinkMemory = Literal["each", "mean", "sampled"]
"""What the server keeps of the uplinks' memories; see :class:`Uplinks`."""

_SAVED = (
    "version",
    "crc",
    "weight",
    "epoch",
    "refused",
    "asked",
    "bound",
    "owner",
    "anew",
)


@dataclass(slots=True)
class UplinkEnd:
    """The server's end of one client's uplink.

    Attributes
    ----------
    memory : Slot
        h_i, empty where it is zero or not kept.
    version : int
        Newest version accepted, 0 if there is none.
    crc : int
        CRC-32 of that payload.
    weight : float
        The client's weight w_i in the sum of the memories.
    epoch : int
        The epoch of the client's memory, with ``"mean"``.
    refused : bool
        Whether the client's last update was refused, and it was not told yet.
    asked : int
        How often it was asked since its last update was taken in.
    bound : float
        Of ||h_i||, where it is kept.
    sketch : NDArray[np.float64], optional
        S h_i, where its length is all that is kept of the memory; None for zero.
    holder : int
        The node that the client runs on.
    owner : int
        The node whose payloads the memory is made of, 0 if there is none, or two.
    anew : bool
        Whether the client was told to start from zero, and has not done so yet.
    """

    memory: Slot
    version: int = 0
    crc: int = 0
    weight: float = 0.0
    epoch: int = 0
    refused: bool = False
    asked: int = 0
    bound: float = 0.0
    sketch: Sketched | None = None
    holder: int = 0
    owner: int = 0
    anew: bool = False

    def save(self, arrays: Arrays, name: str) -> dict[str, Any]:
        """Return what JSON can hold; add the memory to `arrays`."""
        self.memory.save(arrays, name)
        if self.sketch is not None:
            arrays[f"{name}/sketch"] = self.sketch
        return {number: getattr(self, number) for number in _SAVED}

    def restore(self, meta: dict[str, Any], checkpoint: Checkpoint, name: str) -> None:
        """Take over what :meth:`save` gave."""
        kinds = {"weight": NUMBER, "bound": NUMBER, "refused": FLAG, "anew": FLAG}
        kinds |= {"owner": INTEGER, "holder": INTEGER}
        saved = fields(meta, **{name: kinds.get(name, COUNT) for name in _SAVED})
        for number, value in saved.items():
            setattr(self, number, value)
        self.memory.restore(checkpoint, name)
        self.sketch = checkpoint.find(f"{name}/sketch")


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """One client's part in a round, checked but not taken in yet.

    Attributes
    ----------
    end : UplinkEnd
        The client's end.
    state : ReceiverState
        h_i, where it is kept, and the payload.
    payload : Payload
        q_i.
    weight : float
        w_i.
    version : int
        The payload's version.
    is_new : bool
        Whether the payload builds on no memory.
    num_inputs : int
        How many of the client's gradients the payload carries.
    norm : float
        ||h_i + q_i|| for each of them.
    """

    end: UplinkEnd
    state: ReceiverState
    payload: Payload
    weight: float
    version: int
    is_new: bool
    num_inputs: int
    norm: float = 0.0


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
    not known: it stays in both, with its weight (:attr:`orphaned_weight`), until a new
    epoch begins.

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
        self._link, self._dim, self._memory, self._store = link, dim, memory, store
        self._rate = link.memory_rate(dim)
        self._feeds_back = link.kind == "error-feedback"
        self._sum = MemorySum(dim)  # sum_i w_i h_i
        self._ends: dict[int, UplinkEnd] = {}
        self._sketch: Sketch | None = None
        measures |= max_norm is not None
        if memory == "mean" and self._rate is not None and measures:
            self._sketch = Sketch(dim)
        self._max_norm, self._trusted = max_norm, trusted
        self._num_known = 0
        self._orphaned_weight, self._num_orphaned = 0.0, 0
        self._epoch = 0

    @property
    def memory_sum(self) -> NDArray[np.float64] | None:
        """sum_i w_i h_i, shape (d,), where the estimate uses it; None for zero."""
        return self._sum.vector

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
        end = UplinkEnd(self._store.slot(), epoch=self._epoch)
        end.refused = had_state and self._feeds_back
        self._ends[identity] = end
        return end

    def acked(self, end: UplinkEnd) -> tuple[int, int]:
        """Return version and CRC-32 of the payload that the client shall fold.

        Version 0 tells it to start from zero.
        """
        if self._rate is not None and (end.anew or end.epoch != self._epoch):
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

    def require_form(self, packet: Packet) -> None:
        """Raise CorruptPacket unless its payload is of the link's operator and code."""
        operators = self._link.operators(begins=packet.base == 0)
        for payload in packet.payloads:
            sizes = None if payload.channel is None else payload.channel.sizes
            require_form(payload.data, payload.dim, operators, self._link.code, sizes)

    def check(self, end: UplinkEnd, packet: Packet, weight: float) -> Contribution:
        """Decode a client's packet without changing anything.

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
        if end.epoch != self._epoch and not is_new:
            raise OutOfSyncError("the update builds on a memory of an earlier epoch")
        if end.anew and not is_new:
            raise OutOfSyncError("the update builds on a memory that another node had")
        held = ReceiverState(end.version)
        if self._rate is not None and packet.version > end.version:
            # Else accept refuses it, as stale.
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
        sketch = None if is_new or end.epoch != self._epoch else end.sketch
        norm = self._check_size(state, num_inputs, sketch)
        return Contribution(
            end, state, payload, weight, packet.version, is_new, num_inputs, norm
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
            if not np.isfinite(squared):  # float32 overflows long before the sum does
                squared = float(np.sum(np.square(value, dtype=np.float64)))
        if not np.isfinite(squared):
            count = int(np.size(value) - np.count_nonzero(np.isfinite(value)))
            raise RefusedUpdateError(
                f"the update holds {count} values that are NaN or infinite"
            )
        norm, slack = float(squared**0.5) / num_inputs, 1.0
        if self._sketch is not None:
            sketched = self._sketch.of(value)
            norm, slack = length(sketched if held is None else sketched + held), SLACK
        if self._max_norm is not None and norm > slack * self._max_norm:
            raise RefusedUpdateError(
                f"expected an update of norm at most {self._max_norm:g} "
                f"(max_update_norm), got {norm:g}"
            )
        return norm

    def fold(
        self, contributions: Sequence[Contribution], num_clients: int
    ) -> Vector | None:
        """Take contributions in and return the estimate g, shape (d,), float32.

        None if they all have weight 0: their memories move, and there is no estimate.
        """
        contributions = [part for part in contributions if not self._waits(part)]
        lost = [part for part in contributions if self._memory_was_lost(part)]
        begins_epoch = self._memory == "mean" and bool(lost)
        used = [part for part in contributions if not begins_epoch or part not in lost]
        if lost and not used:  # All lost theirs: q_i is their whole gradient.
            used = lost
            self._clear()
        for part in contributions:
            self._settle(part)
        estimate = self._estimate(used, num_clients)
        if begins_epoch:
            self.begin_epoch()
        self._advance(contributions, moves_memory=not begins_epoch)
        return estimate

    def begin_epoch(self) -> None:
        """Let every memory start from zero; between rounds, as answers build on them.

        With ``"mean"``, where nobody knows what is to be taken out of hbar.
        """
        self._clear()
        self._epoch += 1

    def _clear(self) -> None:
        self._sum.clear()
        self._orphaned_weight, self._num_orphaned = 0.0, 0

    def take_in(self, contributions: Sequence[Contribution]) -> None:
        """Take contributions in without an estimate: every value was used by itself."""
        for part in contributions:
            self._settle(part)
        self._advance(contributions, moves_memory=True)

    def value(self, part: Contribution) -> Vector:
        """Return what a client sent, h_i + q_i, shape (d,).

        With error feedback it is the mean of the inputs that the payload carries.
        """
        value = part.state.value(self._rate)
        value = part.payload.vector if value is None else value
        if part.num_inputs == 1:
            return value
        return value / np.float32(part.num_inputs)

    def _advance(
        self, contributions: Sequence[Contribution], *, moves_memory: bool
    ) -> None:
        for part in contributions:
            end = part.end
            if self._rate is not None and moves_memory and not self._move_memory(part):
                self._take_back(end)
                continue
            if part.is_new:
                end.owner, end.anew = end.holder, False
            elif end.owner != end.holder:
                end.owner = 0  # From now on it tells of two nodes.
            end.version, end.crc, end.asked = part.version, part.payload.crc, 0
        self._renew_sum(max((_bound(part.end) for part in contributions), default=0.0))

    def _waits(self, part: Contribution) -> bool:
        """Whether a memory cannot begin yet, since its weight would stay 0."""
        has_none = self._rate is not None and self._memory == "mean"
        return has_none and not part.end.weight and not part.weight

    def _memory_was_lost(self, part: Contribution) -> bool:
        """Whether the server counted on a memory that the client has not."""
        end = part.end
        return part.is_new and end.version > 0 and end.epoch == self._epoch

    def _estimate(
        self, parts: Sequence[Contribution], num_clients: int
    ) -> Vector | None:
        total = sum(part.weight * part.num_inputs for part in parts)
        if not total:
            return None
        estimate = np.zeros(self._dim, dtype=np.float64)
        for part in parts:
            if self._memory == "sampled" and part.state.vector is not None:
                add_weighted(estimate, part.state.vector, part.weight)
            add_weighted(estimate, part.payload.vector, part.weight)
        estimate /= total
        if self._sum.vector is not None:
            # In an order of their own: whoever came first, the result is the same.
            weights = sorted(end.weight for end in self._ends.values())
            num_known = self._num_known + self._num_orphaned
            mean_weight = (sum(weights) + self._orphaned_weight) / num_known
            num_clients += self._num_orphaned
            estimate += self._sum.vector / (mean_weight * num_clients)
        return estimate.astype(np.float32)

    def _settle(self, part: Contribution) -> None:
        """Bring the sums in line with a client's new weight, or lost memory."""
        end = part.end
        if self._memory == "mean" and end.weight:
            return
        counted = 0.0 if part.is_new else part.weight
        if self._memory == "each" and counted != end.weight:
            held = end.memory.vector
            if held is not None:
                bound = max(counted, end.weight) * end.bound
                self._sum.add(held, counted - end.weight, bound)
        if part.is_new:
            end.memory.vector, end.bound = None, 0.0
        self._num_known += end.version == 0
        end.weight = part.weight

    def _take_back(self, end: UplinkEnd) -> None:
        """Count a client not yet whose first memory could not be kept.

        It is told that its payload was not taken in: its memory, too, stays as it was.
        """
        if end.version == 0:
            self._num_known -= 1
            end.weight = 0.0

    def _move_memory(self, part: Contribution) -> bool:
        """h_i += alpha q_i, and the sum of all memories with it.

        False if h_i cannot be kept: then nothing has moved.
        """
        end = part.end
        if part.is_new or end.epoch != self._epoch:
            end.sketch = None
        if self._memory == "mean":
            end.epoch = self._epoch
            step = fold(None, part.payload, self._rate or 0.0)
            self._sum.add(step, end.weight)
            if self._sketch is not None:
                moved = self._sketch.of(step)
                end.sketch = moved if end.sketch is None else end.sketch + moved
            return True
        after = commit(part.state, self._rate).vector
        if after is not None and not end.memory.keep(after):
            return False
        end.epoch, before = self._epoch, end.bound
        # ||h + alpha q|| <= (1 - alpha) ||h|| + alpha ||h + q||, and h + q if lossless.
        rate = 1.0 if part.payload.compressor.lossless else self._rate or 0.0
        end.bound = (1.0 - rate) * before + rate * part.norm
        if self._memory == "each" and after is not None:
            # In float64 from the float32 memories: the sum never drifts from them.
            change = after.astype(np.float64)
            if part.state.vector is not None:
                change -= part.state.vector
            self._sum.add(change, end.weight, end.weight * max(before, end.bound))
        return True

    def _renew_sum(self, bound: float) -> None:
        """Make the sum anew if it is worn; `bound` is that of some terms of today."""
        if self._memory != "each" or not self._sum.is_worn(bound):
            return
        bound = max((_bound(end) for end in self._ends.values()), default=0.0)
        if self._sum.is_worn(bound):
            held = (
                (vector, end.weight)
                for _, end in sorted(self._ends.items())
                if (vector := end.memory.vector) is not None
            )
            self._sum.renew(held, bound)

    # -- clients that are gone -------------------------------------------------------

    def forget(self, identities: Iterable[int]) -> None:
        """Take clients out of the sums, and free what is kept of them."""
        for identity in identities:
            end = self._ends.pop(identity)
            self._num_known -= end.version > 0
            held = end.memory.vector
            if self._memory == "each" and held is not None:
                self._sum.add(held, -end.weight, _bound(end))
            elif self._memory == "mean" and (weight := self.weight_in_mean(end)):
                self._orphaned_weight += weight
                self._num_orphaned += 1
            end.memory.vector = None
        self._renew_sum(0.0)

    @property
    def has_mean(self) -> bool:
        """Whether the estimate uses memories of clients that took no part."""
        return self._rate is not None and self._memory != "sampled"

    def weight_in_mean(self, end: UplinkEnd) -> float:
        """Return w_i of a client whose h_i is in hbar, else 0."""
        is_in = self.has_mean and end.version > 0 and end.epoch == self._epoch
        return end.weight if is_in else 0.0

    @property
    def orphaned_weight(self) -> float:
        """The sum of the weights of forgotten clients whose h_i are still in hbar."""
        return self._orphaned_weight

    # -- checkpoints -----------------------------------------------------------------

    def save(self, arrays: Arrays) -> dict[str, Any]:
        """Return what JSON can hold; add the sum of the memories to `arrays`."""
        return {
            "peak": self._sum.save(arrays),
            "num_known": self._num_known,
            "orphaned_weight": self._orphaned_weight,
            "num_orphaned": self._num_orphaned,
            "epoch": self._epoch,
            "sketch": None if self._sketch is None else self._sketch.key,
        }

    def restore(self, meta: dict[str, Any], checkpoint: Checkpoint) -> None:
        """Take over what :meth:`save` gave."""
        meta = fields(
            meta,
            peak=NUMBER,
            num_known=COUNT,
            orphaned_weight=NUMBER,
            num_orphaned=COUNT,
            epoch=COUNT,
            sketch=OPTIONAL_INTEGER,
        )
        self._sum.restore(meta["peak"], checkpoint)
        self._num_known, self._epoch = meta["num_known"], meta["epoch"]
        self._orphaned_weight = meta["orphaned_weight"]
        self._num_orphaned = meta["num_orphaned"]
        key = meta["sketch"]
        if self._sketch is not None and key is not None:
            self._sketch = Sketch(self._dim, key)


def _bound(end: UplinkEnd) -> float:
    """Return a bound of ||w_i h_i||."""
    return end.weight * end.bound
