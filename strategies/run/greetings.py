"""Who runs on which node: new nodes are asked for their stable identity."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from logging import getLogger
from typing import Any, NamedTuple

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from flower_compress.errors import (
    ConfigurationError,
    CorruptPacket,
    FlowerCompressError,
    MissingModError,
    OutOfSyncError,
)
from flower_compress.wire.agreement import PROTOCOL
from flower_compress.wire.ledger import Ledger
from flower_compress.wire.records import array_bytes

from .refusals import refusal

__all__ = ["Ends", "Greeted", "Greetings"]

_log = getLogger("flwr")
_MAX_BACKOFF = 10
_NOWHERE = 0
_MOST_LISTED = 3


class Ends(NamedTuple):
    """Where a client's ends of its two links stand."""

    crc: int
    """CRC-32 of the payload that it received last, 0 for none."""
    base: int
    """The version before, to which it can go back."""
    sent: tuple[int, int]
    """The version of its own that it has folded, and that of its last payload."""


class Greeted(NamedTuple):
    """What a node says of itself."""

    identity: int
    """Its own number."""
    held: int
    """The newest version that it holds of this session, 0 for none."""
    protocol: int
    """The version of the protocol that it speaks."""
    ends: Ends | None = None
    """More of what it holds; None from an older release, and from a node of a relay."""


class Greetings:
    """Stable identities of Flower's nodes.

    Flower draws node ids at random in every simulation and a restarted SuperNode may
    come back with another one. So each new node is greeted with a message that the
    mod answers by itself, with the client's identity.

    Parameters
    ----------
    record : ArrayRecord
        The greeting.
    read : Callable[[RecordDict], Greeted]
        Reads an answer; raises FlowerCompressError if it is none.
    mod : str
        Name of the mod that answers, for errors.
    ledger : Ledger
        Where greetings are billed.
    """

    def __init__(
        self,
        record: ArrayRecord,
        read: Callable[[RecordDict], Greeted],
        mod: str,
        ledger: Ledger,
    ) -> None:
        self._record, self._read, self._mod = record, read, mod
        self._ledger = ledger
        self._by_node: dict[int, int] = {}
        self._by_identity: dict[int, int] = {}
        self._calls = 0
        self._failures: dict[int, int] = {}
        self._due: dict[int, int] = {}
        self._superseded: set[int] = set()

    def identity(self, node_id: int) -> int | None:
        """Return the identity of what runs on a node, None if it is not known."""
        return self._by_node.get(node_id)

    def node_id(self, identity: int) -> int:
        """Return the node on which a client runs, 0 if it has to be greeted anew."""
        return self._by_identity.get(identity, _NOWHERE)

    def online(self, node_ids: Iterable[int]) -> list[int]:
        """Return the identities of the greeted ones among those nodes, ascending."""
        found = (self._by_node.get(node_id) for node_id in node_ids)
        return sorted(identity for identity in found if identity is not None)

    def greet(
        self,
        grid: Grid,
        node_ids: Iterable[int],
        key: str,
        config: ConfigRecord,
        config_key: str,
        timeout: float,
    ) -> list[Greeted]:
        """Greet the nodes that are new; return those that came, or moved.

        A node that does not answer is greeted again with the next call; one that cost
        the whole timeout, or answered otherwise, after 2, 4, 8, ... calls as soon as
        other clients are known.

        Raises
        ------
        MissingModError
            If nodes answered, none of them through the mod, and no client is known.
        ConfigurationError
            If nodes answered, no client is known, and what is wrong at one of them is
            something else: the order of its mods, its identity, its version. Or if two
            of them say that they are the same client.
        """
        self._calls += 1
        new = [
            node_id
            for node_id in node_ids
            if node_id not in self._by_node
            and node_id not in self._superseded
            and (not self._by_node or self._due.get(node_id, 0) <= self._calls)
        ]
        if not new:
            return []
        messages = []
        for node_id in new:
            content = RecordDict(
                {
                    key: ArrayRecord(dict(self._record.items())),
                    config_key: ConfigRecord(dict(config)),
                }
            )
            self._ledger.record_bytes("downlink", array_bytes(content), 0)
            messages.append(Message(content, node_id, MessageType.TRAIN))
        greeted: dict[int, Greeted] = {}
        silence = OutOfSyncError("it did not answer")
        reasons: dict[int, FlowerCompressError] = dict.fromkeys(new, silence)
        started = time.monotonic()
        replies = list(grid.send_and_receive(messages, timeout=timeout))
        # Errors that Flower reports about a node do not come from its node id.
        asked = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}
        for reply in replies:
            node_id = asked.get(
                reply.metadata.reply_to_message_id, reply.metadata.src_node_id
            )
            try:
                greeted[node_id] = self._open(reply)
                reasons.pop(node_id, None)
            except FlowerCompressError as error:
                reasons[node_id] = error
        arrived = self._enrol(greeted)
        refused = {
            node_id: error
            for node_id, error in reasons.items()
            if not isinstance(error, OutOfSyncError)
        }
        if refused or time.monotonic() - started >= timeout:
            for node_id in reasons:
                failures = self._failures[node_id] = self._failures.get(node_id, 0) + 1
                self._due[node_id] = self._calls + 2 ** min(failures, _MAX_BACKOFF)
        if reasons:
            self._complain(len(new), reasons, refused)
        return arrived

    def _complain(
        self,
        num_new: int,
        reasons: dict[int, FlowerCompressError],
        refused: dict[int, FlowerCompressError],
    ) -> None:
        vain = f"{len(reasons)} of {num_new} nodes were greeted in vain"
        if refused and not self._by_node:
            others = {
                node_id: error
                for node_id, error in refused.items()
                if not isinstance(error, MissingModError)
            }
            if others:
                raise ConfigurationError(f"{vain}: {_listed(others)}")
            raise MissingModError(
                f"{vain}, and none answered through {self._mod}: put it first in the "
                f"client app, `ClientApp(mods=[{self._mod}(), ...])`. "
                f"{_listed(refused)}"
            )
        listed = _listed(reasons)
        _log.warning("%d nodes are left out for now: %s", len(reasons), listed)

    def _open(self, reply: Message) -> Greeted:
        if reply.has_error():
            raise refusal(reply.error, self._mod)
        self._ledger.record_bytes("uplink", array_bytes(reply.content), 0)
        greeted = self._read(reply.content)
        if greeted.protocol != PROTOCOL:
            raise CorruptPacket(
                f"expected protocol {PROTOCOL}, got {greeted.protocol}: install the "
                "same major version of flower-compress at both ends"
            )
        return greeted

    def _enrol(self, greeted: dict[int, Greeted]) -> list[Greeted]:
        """Take in the nodes that answered, each with the identity it gave."""
        nodes: dict[int, int] = {}
        for node_id, (identity, *_) in greeted.items():
            other = nodes.setdefault(identity, node_id)
            if other != node_id:
                raise ConfigurationError(
                    f"nodes {other} and {node_id} both say that they are client "
                    f"{identity}: give each SuperNode its own partition-id, or the mod "
                    "an `identity` function"
                )
        arrived = []
        for identity, node_id in nodes.items():
            before = self._by_identity.get(identity, _NOWHERE)
            if before not in (_NOWHERE, node_id):
                # It came back under another node id. The old one may be listed until
                # its heartbeat is missed.
                _log.warning(
                    "client %d moves from node %d to node %d: if both are alive, give "
                    "each SuperNode its own partition-id",
                    identity,
                    before,
                    node_id,
                )
                self._superseded.add(before)
                self._by_node.pop(before, None)
            if before != node_id:  # Else a second answer, perhaps late.
                arrived.append(greeted[node_id])
            self._by_node[node_id] = identity
            self._by_identity[identity] = node_id
        return arrived

    # -- checkpoints ---------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {
            "nodes": list(self._by_identity.items()),
            "calls": self._calls,
            "failures": list(self._failures.items()),
            "due": list(self._due.items()),
            "superseded": sorted(self._superseded),
        }

    def restore(self, meta: dict[str, Any]) -> None:
        """Take over what :meth:`save` gave: the nodes are still the same ones."""
        self._by_identity = dict(meta["nodes"])
        self._by_node = {node: i for i, node in self._by_identity.items()}
        self._calls = meta["calls"]
        self._failures = dict(meta["failures"])
        self._due = dict(meta["due"])
        self._superseded = set(meta["superseded"])


def _listed(reasons: dict[int, FlowerCompressError]) -> str:
    """Return each reason once, with the first node that gave it."""
    nodes: dict[str, list[int]] = {}
    for node_id, error in reasons.items():
        nodes.setdefault(str(error), []).append(node_id)
    some = [*nodes.items()][:_MOST_LISTED]
    return "; ".join(f"{_named(given)}: {reason}" for reason, given in some)


def _named(nodes: list[int]) -> str:
    more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
    return f"node {nodes[0]}{more}"
