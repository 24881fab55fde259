"""Who the clients are: greetings, stable identities, both links' ends."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from logging import getLogger

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from flower_compress.contract import PROTOCOL
from flower_compress.errors import (
    ConfigurationError,
    CorruptPacket,
    FlowerCompressError,
    MissingModError,
)
from flower_compress.ledger import Ledger
from flower_compress.mods import find_packet, packet_record
from flower_compress.packet import Packet

from .downlink import DownlinkEnd, Downlinks
from .uplink import UplinkEnd, Uplinks

__all__ = ["Client", "Roster"]

_log = getLogger("flwr")
_MAX_GREETINGS = 3


@dataclass(slots=True)
class Client:
    """What the server knows of a client.

    Attributes
    ----------
    identity : int
        Its own number, stable over restarts.
    node_id : int
        The Flower node it runs on now.
    downlink : DownlinkEnd
        The server's end of its downlink.
    uplink : UplinkEnd
        The server's end of its uplink.
    """

    identity: int
    node_id: int
    downlink: DownlinkEnd
    uplink: UplinkEnd


class Roster:
    """All clients by their stable identity.

    Flower draws node ids at random in every simulation and a restarted SuperNode may
    come back with another one. So each new node is greeted with a message that the
    mod answers by itself, with the client's identity.
    """

    def __init__(self, session: int, downlinks: Downlinks, ledger: Ledger) -> None:
        self._session, self._downlinks, self._ledger = session, downlinks, ledger
        self._by_node: dict[int, Client] = {}
        self._by_identity: dict[int, Client] = {}
        self._failed: dict[int, int] = {}
        self._current: set[int] = set()

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

        Raises
        ------
        MissingModError
            If nodes answered, none of them through the mod, and no client is known.
        """
        new = [
            node_id
            for node_id in node_ids
            if node_id not in self._by_node
            and self._failed.get(node_id, 0) < _MAX_GREETINGS
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
        failures: list[str] = []
        self._current = set(node_ids)
        for reply in grid.send_and_receive(messages, timeout=timeout):
            node_id = reply.metadata.src_node_id
            try:
                self._enrol(node_id, self._identity(reply))
            except ConfigurationError:
                raise
            except FlowerCompressError as error:
                self._failed[node_id] = self._failed.get(node_id, 0) + 1
                failures.append(f"node {node_id}: {error}")
        if not failures:
            return
        listed = "; ".join(failures[:3])
        if not self._by_node:
            raise MissingModError(
                f"{len(failures)} of {len(new)} nodes answered the greeting, none "
                "through the compression mod: add it to the client app, "
                f"`ClientApp(mods=[CompressionMod()])`. {listed}"
            )
        _log.warning("%d nodes are left out: %s", len(failures), listed)

    def _identity(self, reply: Message) -> int:
        if reply.has_error():
            raise MissingModError(f"error {reply.error.code}: {reply.error.reason}")
        found = find_packet(reply.content)
        if found is None:
            raise MissingModError("it answered with a reply that holds no packet")
        packet = Packet.parse(found[1])
        self._ledger.record("uplink", packet)
        try:
            about = json.loads(packet.contract or b"")
            identity, protocol = int(about["identity"]), about["protocol"]
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptPacket(f"not an answer to a greeting: {error}") from error
        if protocol != PROTOCOL:
            raise CorruptPacket(
                f"expected protocol {PROTOCOL}, got {protocol}: install the same "
                "major version of flower-compress at both ends"
            )
        return identity

    def _enrol(self, node_id: int, identity: int) -> None:
        client = self._by_identity.get(identity)
        if client is None:
            client = Client(identity, node_id, self._downlinks.begin(), Uplinks.begin())
            self._by_identity[identity] = client
        elif client.node_id != node_id:
            if client.node_id in self._current:
                raise ConfigurationError(
                    f"nodes {client.node_id} and {node_id} both say that they are "
                    f"client {identity}: give each SuperNode its own partition-id, or "
                    "the mod an `identity` function"
                )
            # The node came back under another id; what it remembers shows later.
            del self._by_node[client.node_id]
            client.node_id = node_id
            self._downlinks.forget(client.downlink)
        self._by_node[node_id] = client
