"""The server's end of a downlink in a checkpoint: payloads, and shared ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from flower_compress.links import (
    Broadcast,
    Channel,
    Payload,
    ReceiverState,
    SenderState,
)

from ..run.checkpoint import Arrays, Checkpoint
from ..run.fields import COUNT, COUNTS, fields

__all__ = ["restore_broadcast", "restore_payload", "save_broadcast", "save_payload"]


def save_payload(arrays: Arrays, name: str, payload: Payload | None) -> None:
    """Add a payload's bytes to `arrays`, if there is one."""
    if payload is not None:
        arrays[name] = np.frombuffer(payload.data, dtype=np.uint8)


def restore_payload(
    checkpoint: Checkpoint, name: str, dim: int, channel: Channel, version: int
) -> Payload | None:
    """Return what :func:`save_payload` added, None if nothing."""
    data = checkpoint.find(name, dtype=np.uint8)
    if data is None:
        return None
    return Payload(data.tobytes(), dim, channel.at(version))


def save_broadcast(arrays: Arrays, name: str, broadcast: Broadcast) -> dict[str, Any]:
    """Return what JSON can hold of a shared end; add the rest to `arrays`."""
    sender, replica = broadcast.sender, broadcast.replica
    for end, vector in (("sender", sender.vector), ("replica", replica.vector)):
        if vector is not None:
            arrays[f"{name}/{end}"] = vector
    save_payload(arrays, f"{name}/pending", sender.pending)
    for age, payload in enumerate(reversed(broadcast.log)):
        save_payload(arrays, f"{name}/log/{age}", payload)
    return {
        "version": sender.version,
        "pending_version": sender.pending_version,
        "folded": replica.version,
        "newest": broadcast.version,
        "log": len(broadcast.log),
        "unsure": list(broadcast.unsure),
    }


def restore_broadcast(
    broadcast: Broadcast,
    meta: dict[str, Any],
    checkpoint: Checkpoint,
    name: str,
    dim: int,
    channel: Channel,
) -> Broadcast:
    """Return `broadcast` with what :func:`save_broadcast` gave."""
    meta = fields(
        meta,
        version=COUNT,
        pending_version=COUNT,
        folded=COUNT,
        newest=COUNT,
        log=COUNT,
        unsure=COUNTS,
    )
    newest, version = meta["newest"], meta["pending_version"]
    log = tuple(
        payload
        for age in reversed(range(min(meta["log"], newest)))
        if (
            payload := restore_payload(
                checkpoint, f"{name}/log/{age}", dim, channel, newest - age
            )
        )
    )
    pending = restore_payload(checkpoint, f"{name}/pending", dim, channel, version)
    memory = checkpoint.find(f"{name}/sender", (dim,), np.float32)
    sender = SenderState(meta["version"], memory, pending, version)
    held = checkpoint.find(f"{name}/replica", (dim,), np.float32)
    replica = ReceiverState(meta["folded"], held)
    if newest > meta["folded"]:
        replica = ReceiverState(meta["folded"], held, log[-1], newest, final=True)
    oldest, first, last = meta["unsure"]
    unsure = (oldest, first, last)
    return replace(broadcast, sender=sender, replica=replica, log=log, unsure=unsure)
