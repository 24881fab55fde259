"""All clients of a run, with the server's ends of their two links."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp import Grid

from flower_compress.errors import (
    ConfigurationError,
    CorruptPacket,
    MissingModError,
)
from flower_compress.wire.contract import BY_NODE
from flower_compress.wire.ledger import Ledger
from flower_compress.wire.packet import Packet, array_of, find_packet

from ..callbacks.observers import Observers
from ..run.checkpoint import Arrays, Checkpoint
from ..run.claims import Ends
from ..run.fields import COUNT, FLAG, INTEGER, ROWS, TABLE, fields
from ..run.greetings import Greeted, Greetings
from .downlink import Downlinks
from .downlink_end import DownlinkEnd
from .uplink import Uplinks
from .uplink_end import UplinkEnd

__all__ = ["Client", "Identities", "Roster"]

Identities = Literal["claimed", "trusted", "node"]
"""What an identity is worth; see :class:`CompressedStrategy`."""

_MOST_LISTED = 3


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
    missed : int
        How often in a row it took no part in a round though it could have, see
        :class:`Departures`.
    is_unnamed : bool
        Whether its identity is its node id: it has no other one.
    plain : bool
        Whether its packets need no array around them.
    """

    identity: int
    node_id: int
    downlink: DownlinkEnd
    uplink: UplinkEnd
    missed: int = 0
    is_unnamed: bool = False
    plain: bool = False


class Roster:
    """All clients by their stable identity, see :class:`Greetings`.

    Parameters
    ----------
    session : int
        The session's id.
    downlinks, uplinks : Downlinks, Uplinks
        Make the ends of new clients.
    ledger : Ledger
        Where greetings are billed.
    identities : {"claimed", "trusted", "node"}
        See :class:`CompressedStrategy`.
    observers : Observers
        Who is told of clients that come and go.

    Attributes
    ----------
    in_arrays : bool
        Whether packets travel in arrays even where clients know them without. So they
        do in a wrapper's rounds: it finds that they are none of a model's.
    """

    def __init__(
        self,
        session: int,
        downlinks: Downlinks,
        uplinks: Uplinks,
        ledger: Ledger,
        identities: Identities,
        observers: Observers,
    ) -> None:
        self._observers, self.in_arrays = observers, False
        self._downlinks, self._uplinks = downlinks, uplinks
        self._by_node = identities == "node"
        asks = json.dumps(BY_NODE).encode() if self._by_node else None
        greeting = Packet(session=session, greeting=True, contract=asks)
        self._greetings = Greetings(
            array_of(greeting.data),
            partial(_read, greeting),
            "CompressionMod",
            ledger,
            observers,
            trusted=identities == "trusted",
        )
        self._clients: dict[int, Client] = {}

    def __iter__(self) -> Iterator[Client]:
        return iter(self._clients.values())

    def __len__(self) -> int:
        return len(self._clients)

    def find(self, node_id: int) -> Client | None:
        """Return the client that runs on a node."""
        identity = self._greetings.identity(node_id)
        return None if identity is None else self._clients[identity]

    def online(self, node_ids: Iterable[int]) -> list[Client]:
        """Return the greeted clients among those nodes, by identity."""
        return [self._clients[i] for i in self._greetings.online(node_ids)]

    def greet(
        self,
        grid: Grid,
        node_ids: Iterable[int],
        key: str,
        config: ConfigRecord,
        config_key: str,
        timeout: float,
    ) -> None:
        """Greet the nodes that are new; see :meth:`Greetings.greet`."""
        arrived = self._greetings.greet(
            grid, node_ids, key, config, config_key, timeout
        )
        for identity, held, _, ends, builds, plain in arrived:
            client = self._clients.get(identity)
            reason = f"known, holds version {held}"
            if client is None:
                client = self._take_in(identity, had_state=held > 0)
                reason = ""
            self._downlinks.expect(client.downlink, builds=builds)
            client.node_id = self._greetings.node_id(identity)
            client.plain = plain and not self.in_arrays
            self._observers.note("joined", identity, client.node_id, reason)
            client.is_unnamed = not self._by_node and identity == client.node_id
            self._uplinks.hand_over(client.uplink, client.node_id)
            if not (
                self._downlinks.confirm(identity, client.downlink, held, ends)
                and self._uplinks.confirm(client.uplink, ends)
            ):
                self._downlinks.forget(identity, client.downlink)

    def keep_claims(self, before: Roster) -> None:
        """Let every node have the first claim to the identity that it had before."""
        self._greetings.restore(before._greetings.save(), heard=False)

    def _take_in(self, identity: int, *, had_state: bool = False) -> Client:
        uplink = self._uplinks.begin(identity, had_state=had_state)
        client = Client(identity, 0, self._downlinks.begin(), uplink)
        self._clients[identity] = client
        return client

    def forget(self, identities: Iterable[int], reason: str) -> None:
        """Free all that is kept of clients; those that come back begin as new ones.

        Parameters
        ----------
        identities : Iterable[int]
            Those clients.
        reason : str
            Why, for the log.

        Raises
        ------
        ConfigurationError
            If one of them is not known; then none is forgotten.
        """
        gone = list(identities)
        for identity in gone:
            if identity not in self._clients:
                known = ", ".join(map(str, sorted(self._clients)[:_MOST_LISTED]))
                raise ConfigurationError(
                    f"there is no client {identity!r} to forget: expected one of the "
                    f"{len(self)} identities that are known, as {known or 'none yet'}"
                )
        for identity in gone:
            client = self._clients.pop(identity)
            self._observers.note("forgotten", identity, client.node_id, reason)
            self._downlinks.remove(identity, client.downlink)
            self._greetings.forget(identity)
        self._uplinks.memories.forget(gone)

    # -- checkpoints ---------------------------------------------------------------

    def save(self, arrays: Arrays) -> dict[str, Any]:
        """Return what JSON can hold of the clients' ends; add the rest to `arrays`."""
        return {
            "clients": [
                {
                    "identity": identity,
                    "downlink": client.downlink.save(arrays, f"downlink/{identity}"),
                    "uplink": client.uplink.save(arrays, f"uplink/{identity}"),
                    "missed": client.missed,
                    "is_unnamed": client.is_unnamed,
                    "plain": client.plain,
                }
                for identity, client in self._clients.items()
            ],
            "greetings": self._greetings.save(),
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
        self._greetings.restore(meta["greetings"], heard=clients_too)
        for row in fields(meta, clients=ROWS, greetings=TABLE)["clients"]:
            row = fields(
                row,
                identity=INTEGER,
                downlink=TABLE,
                uplink=TABLE,
                missed=COUNT,
                is_unnamed=FLAG,
                plain=FLAG,
            )
            name = row["identity"]
            client = self._take_in(name)
            client.node_id = self._greetings.node_id(name)
            self._downlinks.restore_end(
                name, client.downlink, row["downlink"], checkpoint, f"downlink/{name}"
            )
            client.uplink.restore(row["uplink"], checkpoint, f"uplink/{name}")
            client.missed, client.is_unnamed = row["missed"], row["is_unnamed"]
            client.plain = row["plain"]
            if client.node_id:
                self._uplinks.hand_over(client.uplink, client.node_id)


def _read(greeting: Packet, node_id: int, content: RecordDict) -> Greeted:
    """Read a client's answer to the greeting."""
    found = find_packet(content)
    if found is None:
        raise MissingModError("it answered with a reply that holds no packet")
    packet = Packet.parse(found[1])
    if packet.greeting and packet.contract == greeting.contract:
        raise MissingModError("it gave the greeting back as it was")
    try:
        about = json.loads(packet.contract or b"")
        held, protocol = int(about["held"]), about["protocol"]
        ends = None
        if "sent" in about:  # Not from a release before 0.2.
            folded, pending = map(int, about["sent"])
            ends = Ends(int(about["crc"]), int(about["base"]), (folded, pending))
        builds = about.get("builds") is True
        plain = about.get("plain") is True
        identity = int(about["identity"])
        greeted = Greeted(identity, held, protocol, ends, builds, plain)
    except (
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise CorruptPacket(f"not an answer to a greeting: {error}") from error
    if greeting.contract is not None and greeted.identity != node_id:
        raise ConfigurationError(
            'with identities="node" a client is what its node id says, and this one '
            f"answers as {greeted.identity}: update flower-compress there"
        )
    return greeted
