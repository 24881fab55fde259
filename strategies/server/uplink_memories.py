"""The memories of all uplinks at the server, and the mean that they make."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flower_compress.links import commit, fold

from ..run.checkpoint import Arrays, Checkpoint
from ..run.fields import COUNT, NUMBER, OPTIONAL_INTEGER, fields
from .memory_sum import MemorySum
from .sketch import Sketch
from .uplink_end import Contribution, UplinkEnd
from .weight_sum import WeightSum

__all__ = ["UplinkMemories", "UplinkMemory"]

UplinkMemory = Literal["each", "mean", "sampled"]
"""What the server keeps of the uplinks' memories; see :class:`Uplinks`."""


class UplinkMemories:
    """The h_i of all clients as :class:`Uplinks` has them, and hbar.

    Parameters
    ----------
    dim : int
        Length d.
    kind : {"each", "mean", "sampled"}
        What is kept.
    rate : float, optional
        alpha; None for a link without memory.
    sketches : bool
        Whether lengths of memories that are not kept are wanted.

    Attributes
    ----------
    ends : dict[int, UplinkEnd]
        The clients' ends, by identity.
    sketch : Sketch, optional
        Tells the lengths of memories that are not kept.
    epoch : int
        How often all memories began anew.
    orphaned_weight : float
        The sum of the weights of forgotten clients whose h_i are still in hbar.
    """

    def __init__(
        self, dim: int, kind: UplinkMemory, rate: float | None, *, sketches: bool
    ) -> None:
        self._dim, self.kind, self.rate = dim, kind, rate
        self.ends: dict[int, UplinkEnd] = {}
        sketches &= kind == "mean" and rate is not None
        self.sketch = Sketch(dim) if sketches else None
        self._sum = MemorySum(dim)  # sum_i w_i h_i
        self._num_known = 0
        self._weights: WeightSum | None = None  # Once it is asked for.
        self.orphaned_weight, self._num_orphaned = 0.0, 0
        self.epoch = 0

    @property
    def sum(self) -> NDArray[np.float64] | None:
        """sum_i w_i h_i, shape (d,), where the estimate uses it; None for zero."""
        return self._sum.vector

    def is_current(self, end: UplinkEnd) -> bool:
        """Whether a client's memory is of this epoch."""
        return end.epoch == self.epoch

    def mean(self, num_clients: int) -> NDArray[np.float64] | None:
        """Return hbar over so many clients, shape (d,); None for zero."""
        if self._sum.vector is None:
            return None
        num_known = self._num_known + self._num_orphaned
        mean_weight = (self._total_weight() + self.orphaned_weight) / num_known
        num_clients += self._num_orphaned
        return self._sum.vector / (mean_weight * num_clients)

    def _total_weight(self) -> float:
        """Return sum_i w_i."""
        if self._weights is None:
            self._weights = WeightSum(end.weight for end in self.ends.values())
        exact = self._weights.exact
        if exact is not None:
            return exact
        # In an order of their own: whoever came first, the result is the same.
        return sum(sorted(end.weight for end in self.ends.values()))

    def _weigh(self, end: UplinkEnd, weight: float) -> None:
        if self._weights is not None:
            self._weights.replace(end.weight, weight)
        end.weight = weight

    # -- a round ---------------------------------------------------------------------

    def settle(self, part: Contribution) -> None:
        """Bring the sums in line with a client's new weight, or lost memory."""
        end = part.end
        if self.kind == "mean" and end.weight:
            return
        counted = 0.0 if part.is_new else part.weight
        if self.kind == "each" and counted != end.weight:
            held = end.memory.vector
            if held is not None:
                bound = max(counted, end.weight) * end.bound
                self._sum.add(held, counted - end.weight, bound)
        if part.is_new:
            end.memory.vector, end.bound = None, 0.0
        self._num_known += end.version == 0
        self._weigh(end, part.weight)

    def take_back(self, end: UplinkEnd) -> None:
        """Count a client not yet whose first memory could not be kept.

        It is told that its payload was not taken in: its memory, too, stays as it was.
        """
        if end.version == 0:
            self._num_known -= 1
            self._weigh(end, 0.0)

    def move(self, part: Contribution) -> bool:
        """h_i += alpha q_i, and the sum of all memories with it.

        False if h_i cannot be kept: then nothing has moved.
        """
        end = part.end
        if part.is_new or not self.is_current(end):
            end.sketch = None
        if self.kind == "mean":
            end.epoch = self.epoch
            step = fold(None, part.payload, self.rate or 0.0)
            self._sum.add(step, end.weight)
            if self.sketch is not None:
                moved = self.sketch.of(step)
                end.sketch = moved if end.sketch is None else end.sketch + moved
            return True
        state = part.state
        after = commit(state, self.rate).vector
        if after is not None and not end.memory.keep(after):
            return False
        end.epoch, before = self.epoch, end.bound
        # ||h + alpha q|| <= (1 - alpha) ||h|| + alpha ||h + q||, and h + q if lossless.
        rate = 1.0 if part.payload.compressor.lossless else self.rate or 0.0
        end.bound = (1.0 - rate) * before + rate * part.norm
        if self.kind == "each" and after is not None:
            # In float64 from the float32 memories: the sum never drifts from them.
            bound = end.weight * max(before, end.bound)
            if state.vector is None:
                self._sum.add(after, end.weight, bound)
            else:
                self._sum.move(state.vector, after, end.weight, bound)
        return True

    def renew(self, bound: float) -> None:
        """Make the sum anew if it is worn; `bound` is that of some terms of today."""
        if self.kind != "each" or not self._sum.is_worn(bound):
            return
        bound = max((end.weighted_bound for end in self.ends.values()), default=0.0)
        if self._sum.is_worn(bound):
            held = (
                (vector, end.weight)
                for _, end in sorted(self.ends.items())
                if (vector := end.memory.vector) is not None
            )
            self._sum.renew(held, bound)

    def begin_epoch(self) -> None:
        """Let every memory start from zero; between rounds, as answers build on them.

        With ``"mean"``, where nobody knows what is to be taken out of hbar.
        """
        self.clear()
        self.epoch += 1

    def clear(self) -> None:
        """Let hbar be 0."""
        self._sum.clear()
        self.orphaned_weight, self._num_orphaned = 0.0, 0

    # -- clients that are gone -------------------------------------------------------

    def forget(self, identities: Iterable[int]) -> None:
        """Take clients out of the sums, and free what is kept of them."""
        for identity in identities:
            end = self.ends.pop(identity)
            self._num_known -= end.version > 0
            held = end.memory.vector
            if self.kind == "each" and held is not None:
                self._sum.add(held, -end.weight, end.weighted_bound)
            elif self.kind == "mean" and (weight := self.weight_in_mean(end)):
                self.orphaned_weight += weight
                self._num_orphaned += 1
            end.memory.vector = None
            if self._weights is not None:
                self._weights.replace(end.weight, 0.0)
        self.renew(0.0)

    @property
    def has_mean(self) -> bool:
        """Whether the estimate uses memories of clients that took no part."""
        return self.rate is not None and self.kind != "sampled"

    def weight_in_mean(self, end: UplinkEnd) -> float:
        """Return w_i of a client whose h_i is in hbar, else 0."""
        is_in = self.has_mean and end.version > 0 and self.is_current(end)
        return end.weight if is_in else 0.0

    def total_in_mean(self) -> float:
        """Return the sum of :meth:`weight_in_mean`, without forgotten clients."""
        if not self.has_mean:
            return 0.0
        if self.epoch == 0 and self._weights is not None:
            exact = self._weights.exact
            if exact is not None:
                return exact
        epoch, ends = self.epoch, self.ends.values()
        return sum(e.weight for e in ends if e.version > 0 and e.epoch == epoch)

    # -- checkpoints -----------------------------------------------------------------

    def save(self, arrays: Arrays) -> dict[str, Any]:
        """Return what JSON can hold; add the sum of the memories to `arrays`."""
        return {
            "peak": self._sum.save(arrays),
            "num_known": self._num_known,
            "orphaned_weight": self.orphaned_weight,
            "num_orphaned": self._num_orphaned,
            "epoch": self.epoch,
            "sketch": None if self.sketch is None else self.sketch.key,
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
        self._num_known, self.epoch = meta["num_known"], meta["epoch"]
        self.orphaned_weight = meta["orphaned_weight"]
        self._num_orphaned = meta["num_orphaned"]
        key = meta["sketch"]
        if self.sketch is not None and key is not None:
            self.sketch = Sketch(self._dim, key)
