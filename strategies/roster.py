"""Who the clients are: greetings, stable identities, both links' ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from logging import getLogger
from typing import Any, NamedTuple

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from flower_compress.contract import PROTOCOL
from flower_compress.errors import (
    ConfigurationError,
    CorruptPacket,
    FlowerCompressError,
    MissingModError,
    OutOfSyncError,
)
from flower_compress.ledger import Ledger
from flower_compress.mods import find_packet, packet_record
from flower_compress.packet import Packet
from flower_compress.records import array_bytes

from .checkpoint import Arrays, Checkpoint
from .downlink import DownlinkEnd, Downlinks
from .uplink import UplinkEnd, Uplinks

__all__ = ["Client", "Roster"]

_log = getLogger("flwr")
_MAX_BACKOFF = 10
_NOWHERE = 0
_TRANSIENT = (
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
)


@dataclass(slots=True)
class Client:
    """What the server knows of a client.

    Attributes
    ----------
    identity : int
        Its own number, stable over restarts.
    node_id : int
        The Flower node it runs on now; 0 after the server came back, until the client
        is greeted.
    downlink : DownlinkEnd
        The server's end of its downlink.
    uplink : UplinkEnd
        The server's end of its uplink.
    """

    identity: int
    node_id: int
    downlink: DownlinkEnd
    uplink: UplinkEnd


class _Greeted(NamedTuple):
    """What a client says of itself: its number, the newest version that it holds."""

    identity: int
    held: int


class Roster:
    """All clients by their stable identity.

    Flower draws node ids at random in every simulation and a restarted SuperNode may
    come back with another one. So each new node is greeted with a message that the
    mod answers by itself, with the client's identity.
    """

    def __init__(
        self, session: int, downlinks: Downlinks, uplinks: Uplinks, ledger: Ledger
    ) -> None:
        self._session, self._ledger = session, ledger
        self._downlinks, self._uplinks = downlinks, uplinks
        self._by_node: dict[int, Client] = {}
        self._by_identity: dict[int, Client] = {}
        self._calls = 0
        self._failures: dict[int, int] = {}
        self._due: dict[int, int] = {}
        self._superseded: set[int] = set()

    def __iter__(self) -> Iterator[Client]:
        return iter(self._by_identity.values())

    def __len__(self) -> int:
        return len(self._by_identity)

    def find(self, node_id: int) -> Client | None:
        """Return the client that runs on a node."""
        return self._by_node.get(node_id)

    def online(self, node_ids: Iterable[int]) -> list[Client]:
        """Return the greeted clients among those nodes, by identity."""
        clients = (self._by_node.get(node_id) for node_id in node_ids)
        return sorted(
            (client for client in clients if client is not None),
            key=lambda client: client.identity,
        )

    def greet(
        self,
        grid: Grid,
        node_ids: Iterable[int],
        key: str,
        config: ConfigRecord,
        config_key: str,
        timeout: float,
    ) -> None:
        """Greet the nodes that are new.

        A node that does not answer is greeted again with the next call; one that cost
        the whole timeout, or answered otherwise, after 2, 4, 8, ... calls as soon as
        other clients are known.

        Raises
        ------
        MissingModError
            If nodes answered, none of them through the mod, and no client is known.
        ConfigurationError
            If two of them say that they are the same client.
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
            return
        packet = Packet(session=self._session, greeting=True)
        messages = []
        for node_id in new:
            self._ledger.record("downlink", packet)
            content = RecordDict(
                {key: packet_record(packet), config_key: ConfigRecord(dict(config))}
            )
            messages.append(Message(content, node_id, MessageType.TRAIN))
        greeted: dict[int, _Greeted] = {}
        reasons = dict.fromkeys(new, "it did not answer")
        without_mod = False
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
                without_mod |= not isinstance(error, OutOfSyncError)
                reasons[node_id] = str(error)
        self._enrol(greeted)
        if without_mod or time.monotonic() - started >= timeout:
            for node_id in reasons:
                failures = self._failures[node_id] = self._failures.get(node_id, 0) + 1
                self._due[node_id] = self._calls + 2 ** min(failures, _MAX_BACKOFF)
        if not reasons:
            return
        listed = "; ".join(
            f"node {node_id}: {reason}" for node_id, reason in [*reasons.items()][:3]
        )
        if without_mod and not self._by_node:
            raise MissingModError(
                f"{len(reasons)} of {len(new)} nodes were greeted in vain, and none "
                "answered through the compression mod: add it to the client app, "
                f"`ClientApp(mods=[CompressionMod()])`. {listed}"
            )
        _log.warning("%d nodes are left out for now: %s", len(reasons), listed)

    def _open(self, reply: Message) -> _Greeted:
        if reply.has_error():
            text = f"error {reply.error.code}: {reply.error.reason}"
            if reply.error.code in _TRANSIENT:
                raise OutOfSyncError(text)
            raise MissingModError(text)
        num_bytes = array_bytes(reply.content)
        self._ledger.record_bytes("uplink", num_bytes, 0)
        found = find_packet(reply.content)
        if found is None:
            raise MissingModError("it answered with a reply that holds no packet")
        packet = Packet.parse(found[1])
        try:
            about = json.loads(packet.contract or b"")
            identity, held = int(about["identity"]), int(about["held"])
            protocol = about["protocol"]
        except (
            ValueError,
            KeyError,
            TypeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise CorruptPacket(f"not an answer to a greeting: {error}") from error
        if protocol != PROTOCOL:
            raise CorruptPacket(
                f"expected protocol {PROTOCOL}, got {protocol}: install the same "
                "major version of flower-compress at both ends"
            )
        return _Greeted(identity, held)

    def _enrol(self, greeted: dict[int, _Greeted]) -> None:
        """Take in the nodes that answered, each with the identity it gave."""
        nodes: dict[int, int] = {}
        for node_id, (identity, _) in greeted.items():
            other = nodes.setdefault(identity, node_id)
            if other != node_id:
                raise ConfigurationError(
                    f"nodes {other} and {node_id} both say that they are client "
                    f"{identity}: give each SuperNode its own partition-id, or the mod "
                    "an `identity` function"
                )
        for identity, node_id in nodes.items():
            client = self._by_identity.get(identity)
            if client is None:
                client = self._take_in(identity, node_id)
            elif client.node_id not in (_NOWHERE, node_id):
                # It came back under another node id. The old one may be listed until
                # its heartbeat is missed.
                _log.warning(
                    "client %d moves from node %d to node %d: if both are alive, give "
                    "each SuperNode its own partition-id",
                    identity,
                    client.node_id,
                    node_id,
                )
                self._superseded.add(client.node_id)
                self._by_node.pop(client.node_id, None)
            if client.node_id != node_id:  # Else a second answer, perhaps late.
                client.node_id = node_id
                self._downlinks.confirm(client.downlink, greeted[node_id].held)
            self._by_node[node_id] = client

    def _take_in(self, identity: int, node_id: int) -> Client:
        client = Client(
            identity, node_id, self._downlinks.begin(), self._uplinks.begin()
        )
        self._by_identity[identity] = client
        return client

    # -- checkpoints ---------------------------------------------------------------

    def save(self, arrays: Arrays) -> dict[str, Any]:
        """Return what JSON can hold of the clients' ends; add the rest to `arrays`."""
        return {
            "clients": [
                {
                    "identity": identity,
                    "node_id": client.node_id,
                    "downlink": client.downlink.save(arrays, f"downlink/{identity}"),
                    "uplink": client.uplink.save(arrays, f"uplink/{identity}"),
                }
                for identity, client in self._by_identity.items()
            ],
            "calls": self._calls,
            "failures": list(self._failures.items()),
            "due": list(self._due.items()),
            "superseded": sorted(self._superseded),
        }

    def restore(
        self, meta: dict[str, Any], checkpoint: Checkpoint, *, clients_too: bool
    ) -> None:
        """Take over what :meth:`save` gave.

        Parameters
        ----------
        meta, checkpoint
            What was saved.
        clients_too : bool
            Whether the clients are back where they were then. If not, they have to be
            greeted anew, and say what they hold.
        """
        for row in meta["clients"]:
            client = self._take_in(row["identity"], row["node_id"])
            name = row["identity"]
            self._downlinks.restore_end(
                name, client.downlink, row["downlink"], checkpoint, f"downlink/{name}"
            )
            client.uplink.restore(row["uplink"], checkpoint, f"uplink/{name}")
            if not clients_too:
                client.node_id = _NOWHERE
            elif client.node_id != _NOWHERE:
                self._by_node[client.node_id] = client
        if clients_too:
            self._calls = meta["calls"]
            self._failures = dict(meta["failures"])
            self._due = dict(meta["due"])
            self._superseded = set(meta["superseded"])
