"""Arrays that training leaves as they are, and the noise that lands on them."""

from __future__ import annotations

from collections.abc import Iterator
from logging import getLogger
from typing import ClassVar

import numpy as np

from ..compressors import Vector
from ..links import Payload
from ..wire.layout import Layout

__all__ = ["UntrainedArrays"]

_log = getLogger("flwr")


class UntrainedArrays:
    """Says once a run that an operator puts noise on arrays that are not trained.

    One that mixes entries, as a rotation does, spreads what trained arrays lose over
    all that it compresses at once: a frozen backbone moves, a little in every round.
    """

    _told: ClassVar[set[int]] = set()
    """The sessions of which this process has said so."""

    def look(
        self, session: int, layout: Layout, update: Vector, payload: Payload
    ) -> None:
        """Compare what a client has to say with what its payload says.

        Parameters
        ----------
        session : int
            The run.
        layout : Layout
            Its arrays.
        update : NDArray[np.float32]
            What training did, shape (d,).
        payload : Payload
            What is sent of it, or of its difference to a memory.
        """
        if session in self._told:
            return
        untrained = [
            (name, span) for name, span in _spans(layout) if not _any(update[span])
        ]
        if not untrained or len(untrained) == len(layout.sizes):
            return
        noisy = [name for name, span in untrained if _any(payload.vector[span])]
        if not noisy:
            return
        self._told.add(session)
        _log.warning(
            "CompressionMod: training left %d of %d arrays as they were (%s%s), and "
            "the noise of compression lands on them. Where they are frozen from the "
            "first round on, an operator that takes each array by itself keeps them to "
            'the bit, as the default, RotatedQuantizer(step=1.5, per="tensor"). On '
            "what was trained before, the noise fades within some rounds",
            len(noisy),
            len(layout.sizes),
            noisy[0],
            ", ..." if len(noisy) > 1 else "",
        )


def _spans(layout: Layout) -> Iterator[tuple[str, slice]]:
    start = 0
    for (name, _), size in zip(layout.shapes, layout.sizes, strict=True):
        yield name, slice(start, start + size)
        start += size


def _any(entries: Vector) -> bool:
    return bool(np.count_nonzero(entries))
