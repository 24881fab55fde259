"""Where a run that diverges goes on from, and with what step."""

from __future__ import annotations

import math
from logging import getLogger

from flwr.app import ArrayRecord

from .session import Session

__all__ = ["Recovery"]

_log = getLogger("flwr")
_HALF = 0.5


class Recovery:
    """The model to go back to: the one that the smallest update was asked for at.

    Noise that feeds itself makes updates grow exponentially, and a smaller step makes
    it die out: what a round multiplies the noise with falls below 1 with the step (see
    :mod:`flower_compress.stability`). So every time a run diverges it goes back, and on
    with half of the step that its links bear from clients that go all the way to their
    optima, where that is known, and else, or if that was too much, with half of each
    step.

    Parameters
    ----------
    arrays : ArrayRecord
        The initial model.
    """

    def __init__(self, arrays: ArrayRecord) -> None:
        self._arrays, self._norm, self._round = arrays, math.inf, 0

    def note(self, server_round: int, update_norm: float, before: ArrayRecord) -> None:
        """Keep the model from before a round if its update is the smallest so far.

        Parameters
        ----------
        server_round : int
            The round.
        update_norm : float
            ||u||, the Euclidean norm of its update.
        before : ArrayRecord
            The model that the clients were at.
        """
        if update_norm < self._norm:
            self._arrays, self._norm = before, update_norm
            self._round = server_round - 1

    def go_back(
        self, session: Session, server_round: int, bearable: float | None
    ) -> Session:
        """Return the session that goes on from that model with a smaller step.

        Parameters
        ----------
        session : Session
            The one that diverges.
        server_round : int
            The round in which it does.
        bearable : float, optional
            How far clients may go in a round, times the step; None if not known.
        """
        is_first = session.damping == 1.0
        borne = bearable if is_first and bearable is not None else session.damping
        damping = _HALF * borne
        _log.warning(
            "round %d: goes on from the model of round %d, which every client is sent "
            'dense, with %g of each step (on_divergence="repair")',
            server_round,
            self._round,
            damping,
        )
        self._norm = math.inf  # Of steps of another size.
        return session.begin_again(self._arrays, damping)
