"""Arrays that training leaves as they are, and the noise that lands on them."""

from __future__ import annotations

from collections.abc import Iterator
from logging import getLogger
from typing import ClassVar

from ..compressors import Vector
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
        self, session: int, layout: Layout, update: Vector, payload: Vector
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
        payload : NDArray[np.float32]
            What is decoded of it, or of its difference to a memory, shape (d,).
        """
        if session in self._told or not update.any():
            return
        noisy = list(_noisy(layout, update, payload))
        if not noisy:
            return
        self._told.add(session)
        _log.warning(
            "CompressionMod: training left %d of %d arrays as they were (%s%s), and "
            "the noise of compression lands on them. Where they are frozen, give the "
            "strategy an operator that takes each array by itself, which keeps them to "
            'the bit: MCM(RotatedQuantizer(step=1.5, per="tensor"))',
            len(noisy),
            len(layout.sizes),
            noisy[0],
            ", ..." if len(noisy) > 1 else "",
        )


def _noisy(layout: Layout, update: Vector, payload: Vector) -> Iterator[str]:
    start = 0
    for (name, _), size in zip(layout.shapes, layout.sizes, strict=True):
        end = start + size
        if not update[start:end].any() and payload[start:end].any():
            yield name
        start = end
