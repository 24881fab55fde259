"""The server's step, watched: where a run that diverges goes on from, and how."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from logging import getLogger
from typing import Any, Literal

import numpy as np
from flwr.app import ArrayRecord

from flower_compress.errors import NonFiniteError

from ..run.checkpoint import Arrays, Checkpoint
from ..run.fields import COUNT, OPTIONAL_NUMBER, TABLE, fields
from ..run.saving import has_diverged
from .session import Session
from .watch import NoiseWatch

__all__ = ["GuardedStep", "OnDivergence", "Recovery"]

_log = getLogger("flwr")
_HALF = 0.5

OnDivergence = Literal["warn", "repair"]
"""What happens when the noise of compression feeds itself."""


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

    def save(self, session: Session, arrays: Arrays) -> dict[str, Any]:
        """Return what JSON can hold; add the model to `arrays`."""
        arrays["recovery/model"], exact = session.layout.flatten(self._arrays)
        arrays["recovery/exact"] = np.frombuffer(exact, np.uint8)
        norm = self._norm if math.isfinite(self._norm) else None
        return {"norm": norm, "round": self._round}

    def restore(self, session: Session, saved: Checkpoint, meta: object) -> None:
        """Take over what :meth:`save` gave; without it, begin with the model of now."""
        if meta is None:
            self._arrays, self._round = session.arrays, saved.server_round
            return
        found = fields(meta, norm=OPTIONAL_NUMBER, round=COUNT)
        layout = session.layout
        self._arrays = layout.unflatten(
            saved.array("recovery/model", (layout.dim,), np.float32),
            saved.array("recovery/exact", dtype=np.uint8).tobytes(),
        )
        self._norm = math.inf if found["norm"] is None else found["norm"]
        self._round = found["round"]


class GuardedStep:
    """Steps, and goes back where the run diverges, if it is to repair itself.

    Parameters
    ----------
    watch : NoiseWatch
        Says when it diverges.
    recovery : Recovery, optional
        Where it goes back to; None to go on, and to be told only.
    weighted_by : str
        Key of the clients' weights, for the log.
    """

    def __init__(
        self, watch: NoiseWatch, recovery: Recovery | None, weighted_by: str = ""
    ) -> None:
        self._watch, self._recovery = watch, recovery
        self._weighted_by = weighted_by

    def take(
        self, session: Session, server_round: int, step: Callable[[], bool]
    ) -> Session:
        """Step, and return the session that the run goes on with.

        Parameters
        ----------
        session : Session
            The run.
        server_round : int
            The round.
        step : Callable[[], bool]
            Moves the session's model and notes the update's norm; returns whether there
            was a step.

        Raises
        ------
        NonFiniteError
            If the step is not finite, and the run does not repair itself.
        """
        before = session.arrays
        try:
            moves = step()
        except NonFiniteError:
            if self._recovery is None:
                raise
            return self._go_back(session, self._recovery, server_round)
        if not moves:
            _log.warning(
                "round %d: no step, since %r is 0 in every reply",
                server_round,
                self._weighted_by,
            )
            return session
        diverges = self._watch.note(server_round, session.update_norm, session.model)
        if self._recovery is None:
            return session
        if diverges:
            return self._go_back(session, self._recovery, server_round)
        if session.update_norm:  # A step of size 0 says nothing of its model.
            self._recovery.note(server_round, session.update_norm, before)
        return session

    def without_replies(
        self, session: Session, server_round: int, reasons: Sequence[str]
    ) -> Session:
        """Return the session that goes on after a round without a usable reply.

        Where every answer is NaN, infinite or far too large, the model that the clients
        were sent has diverged beyond what the norms of updates could tell.

        Parameters
        ----------
        session : Session
            The run.
        server_round : int
            The round.
        reasons : Sequence[str]
            Why the answers cannot be used.
        """
        if not has_diverged(reasons):
            return session
        if self._recovery is not None:
            return self._go_back(session, self._recovery, server_round)
        _log.warning(
            "round %d: every update is NaN, infinite or far too large. If the clients' "
            "own training does not diverge (a smaller learning rate) and honest "
            "updates are shorter than max_update_norm, the noise of compression does: "
            "an operator of less noise, a smaller step_size, or "
            'on_divergence="repair", which goes back to an earlier model',
            server_round,
        )
        return session

    def _go_back(
        self, session: Session, recovery: Recovery, server_round: int
    ) -> Session:
        self._watch.begin_again()
        return recovery.go_back(session, server_round, self._watch.bearable)

    def save(self, session: Session, arrays: Arrays) -> dict[str, Any]:
        """Return what JSON can hold; add the rest to `arrays`."""
        saved = {"watch": self._watch.save()}
        if self._recovery is not None:
            saved["recovery"] = self._recovery.save(session, arrays)
        return saved

    def restore(self, session: Session, saved: Checkpoint) -> None:
        """Take over what :meth:`save` gave, if the checkpoint has it."""
        meta = saved.meta.get("step", {})
        if meta:
            meta = fields(saved.meta, step=TABLE)["step"]
            self._watch.restore(fields(meta, watch=TABLE)["watch"])
        if self._recovery is not None:
            self._recovery.restore(session, saved, meta.get("recovery"))
