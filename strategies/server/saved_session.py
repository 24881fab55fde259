"""A session in a checkpoint."""

from __future__ import annotations

from collections import Counter
from operator import index
from typing import Any

import numpy as np

from flower_compress.wire.first_model import channel_of
from flower_compress.wire.ledger import Ledger

from ..run.checkpoint import Arrays, Checkpoint
from ..run.fields import COUNT, NUMBER, ROWS, TABLE, fields
from .first_model import Beginning
from .saved_links import restore_payload, save_payload
from .session import Session

__all__ = ["restore_session", "save_session"]


def save_session(session: Session, arrays: Arrays) -> dict[str, Any]:
    """Return what JSON can hold of a session; add the rest to `arrays`."""
    arrays["model"] = session.model
    arrays["exact"] = np.frombuffer(session.exact, dtype=np.uint8)
    save_payload(arrays, "beginning", session.beginning.payload)
    if session.begun_again is not None:
        first, exact = session.layout.flatten(session.begun_again)
        arrays["again/model"] = first
        arrays["again/exact"] = np.frombuffer(exact, dtype=np.uint8)
    for name, vector in session.optimizer_state.items():
        arrays[f"optimizer/{name}"] = vector
    return {
        "session": session.id,
        "damping": session.damping,
        "ledger": session.ledger.as_dict(),
        "refused": list(session.refused.items()),
        "odd_metrics": list(session.odd_metrics.items()),
        "bounds": session.bounds.save(),
        "sync_budget": session.sync_budget.save(),
        "epoch_budget": session.epoch_budget.save(),
        "optimizer": list(session.optimizer_state),
        "downlinks": session.downlinks.save(arrays),
        "uplinks": session.uplinks.memories.save(arrays),
        "roster": session.roster.save(arrays),
        "departures": session.departures.save(),
    }


def restore_session(
    session: Session, saved: Checkpoint, skip_to: int | None
) -> Session:
    """Return the saved session, as one that has just begun, and has taken it over.

    That is the one given, or if the run has gone back, one that begins as the saved one
    did.

    Parameters
    ----------
    session : Session
        Of the same algorithm and model.
    saved : Checkpoint
        What :func:`save_session` gave.
    skip_to : int, optional
        The version from which the links go on, where clients are not back where they
        were then and have to be greeted anew; None if they are.
    """
    meta = fields(
        saved.meta,
        session=COUNT,
        damping=NUMBER,
        ledger=TABLE,
        refused=ROWS,
        odd_metrics=ROWS,
        bounds=TABLE,
        sync_budget=ROWS,
        epoch_budget=ROWS,
        departures=TABLE,
        optimizer=ROWS,
        downlinks=TABLE,
        uplinks=TABLE,
        roster=TABLE,
    )
    layout = session.layout
    again = saved.find("again/model", (layout.dim,), np.float32)
    if again is not None:
        exact = saved.array("again/exact", dtype=np.uint8).tobytes()
        arrays = layout.unflatten(again, exact)
        session = session.begin_again(arrays, meta["damping"])
    session.id, session.damping = meta["session"], meta["damping"]
    session.model = saved.array("model", (layout.dim,), np.float32)
    session.exact = saved.array("exact", (len(session.exact),), np.uint8).tobytes()
    session.optimizer_state = {
        name: saved.array(f"optimizer/{name}") for name in meta["optimizer"]
    }
    session.ledger = Ledger.from_dict(meta["ledger"])
    session.refused = _counter(meta["refused"])
    session.odd_metrics = _counter(meta["odd_metrics"])
    session.beginning = _beginning(session, saved)
    session.begin_ends()
    session.bounds.restore(meta["bounds"])
    session.sync_budget.restore(meta["sync_budget"])
    session.epoch_budget.restore(meta["epoch_budget"])
    session.downlinks.restore(meta["downlinks"], saved)
    session.uplinks.memories.restore(meta["uplinks"], saved)
    session.roster.restore(meta["roster"], saved, clients_too=skip_to is None)
    session.departures.restore(meta["departures"])
    if skip_to is not None:
        session.downlinks.skip_to(skip_to)
    session.arrays = layout.unflatten(session.model, session.exact)
    return session


def _beginning(session: Session, saved: Checkpoint) -> Beginning:
    channel = channel_of(session.composition.seed, session.layout)
    packed = restore_payload(
        saved, "beginning", session.layout.dim, channel, channel.stream.version
    )
    if packed is None:
        return session.beginning
    return Beginning(packed.vector, session.beginning.term, packed)


def _counter(rows: list[Any]) -> Counter[int]:
    return Counter({index(identity): index(count) for identity, count in rows})
