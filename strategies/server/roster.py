"""All clients of a run, with the server's ends of their two links."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from functools import partial
from logging import getLogger
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
from ..run.columns import (
    restore_integers,
    restore_rows,
    save_integers,
    save_rows,
)
from ..run.fields import COUNT, ROWS, TABLE, fields
from ..run.greetings import Greeted, Greetings
from .downlink import Downlinks
from .downlink_end import DOWNLINK_COLUMNS, SENDER_COLUMNS, DownlinkEnd
from .uplink import Uplinks
from .uplink_end import UPLINK_COLUMNS, UplinkEnd

__all__ = ["Client", "Identities", "Roster"]

Identities = Literal["claimed", "trusted", "node"]
"""What an identity is worth; see :class:`CompressedStrategy`."""

_log = getLogger("flwr")
_MOST_LISTED = 3
_CLIENT_COLUMNS = {"missed": "u4", "is_unnamed": "?", "plain": "?"}


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
    num_unnamed : int
        How many clients have no identity but their node id.
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
        self.num_unnamed = 0

    def __iter__(self) -> Iterator[Client]:
        return iter(self._clients.values())

    def __len__(self) -> int:
        return len(self._clients)

    def find(self, node_id: int) -> Client | None:
        """Return the client that runs on a node."""
        identity = self._greetings.identity(node_id)
        return None if identity is None else self._clients[identity]

    def some(self, identities: Iterable[int]) -> Iterator[Client]:
        """Return the clients of those identities, where there are such."""
        found = map(self._clients.get, identities)
        return (client for client in found if client is not None)

    def others(self, identities: Set[int]) -> list[Client]:
        """Return the clients of all other identities, in the order they came in."""
        return [c for i, c in self._clients.items() if i not in identities]

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
        newest = self._downlinks.newest
        arrived = self._greetings.greet(
            grid, node_ids, key, config, config_key, timeout
        )
        ahead = [(greeted.held, greeted.identity) for greeted in arrived]
        if ahead and max(ahead)[0] > newest:
            _tell_of_an_old_copy(*max(ahead), newest)
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
            unnamed = not self._by_node and identity == client.node_id
            self.num_unnamed += unnamed - client.is_unnamed
            client.is_unnamed = unnamed
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
            self.num_unnamed -= client.is_unnamed
            self._observers.note("forgotten", identity, client.node_id, reason)
            self._downlinks.remove(identity, client.downlink)
            self._greetings.forget(identity)
        self._uplinks.memories.forget(gone)

    # -- checkpoints ---------------------------------------------------------------

    def save(self, arrays: Arrays) -> dict[str, Any]:
        """Return what JSON can hold of the clients' ends; add the rest to `arrays`."""
        clients = list(self._clients.values())
        for identity, client in self._clients.items():
            client.downlink.save(arrays, f"downlink/{identity}")
            client.uplink.save(arrays, f"uplink/{identity}")
        for name, kinds, rows in (
            ("client", _CLIENT_COLUMNS, clients),
            ("downlink", DOWNLINK_COLUMNS, [each.downlink for each in clients]),
            ("sender", SENDER_COLUMNS, [each.downlink.sender for each in clients]),
            ("uplink", UPLINK_COLUMNS, [each.uplink for each in clients]),
        ):
            save_rows(rows, kinds, arrays, f"roster/{name}")
        greetings = self._greetings.save()
        nodes = dict(greetings.pop("nodes"))
        numbers = {
            "identity": list(self._clients),
            "owner": [client.uplink.owner for client in clients],
            "known": list(nodes),
            "holder": list(nodes.values()),
        }
        return {
            "num_clients": len(clients),
            "greetings": greetings,
            "integers": {
                name: save_integers(column, arrays, f"roster/{name}")
                for name, column in numbers.items()
            },
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
        meta = fields(meta, num_clients=COUNT, greetings=TABLE, integers=TABLE)
        kinds = {"identity": ROWS, "owner": ROWS, "known": ROWS, "holder": ROWS}
        numbers = {
            name: restore_integers(column, checkpoint, f"roster/{name}")
            for name, column in fields(meta["integers"], **kinds).items()
        }
        known = list(zip(numbers["known"], numbers["holder"], strict=True))
        greetings = {**meta["greetings"], "nodes": known}
        self._greetings.restore(greetings, heard=clients_too)
        columns = [
            restore_rows(checkpoint, kinds, f"roster/{name}", meta["num_clients"])
            for name, kinds in (
                ("client", _CLIENT_COLUMNS),
                ("downlink", DOWNLINK_COLUMNS),
                ("sender", SENDER_COLUMNS),
                ("uplink", UPLINK_COLUMNS),
            )
        ]
        for identity, owner, own, down, sender, up in zip(
            numbers["identity"], numbers["owner"], *columns, strict=True
        ):
            client = self._take_in(identity)
            client.node_id = self._greetings.node_id(identity)
            self._downlinks.restore_end(
                identity,
                client.downlink,
                down,
                sender,
                checkpoint,
                f"downlink/{identity}",
            )
            client.uplink.restore(up, checkpoint, f"uplink/{identity}")
            client.uplink.owner = owner
            client.missed, client.is_unnamed, client.plain = own
            self.num_unnamed += client.is_unnamed
            if client.node_id:
                self._uplinks.hand_over(client.uplink, client.node_id)


def _tell_of_an_old_copy(held: int, identity: int, newest: int) -> None:
    # It is a client's word: not enough to leave out versions, which costs all of them.
    _log.warning(
        "client %d says that it holds version %d of this run, and the newest that was "
        "sent is %d here: was the folder of the checkpoints copied back from an older "
        "copy? A client takes no version that is not newer than its own. Stop the run, "
        "remove versions.sent from that folder, and start it again: it goes on from "
        "there, and every client is sent the model once",
        identity,
        held,
        newest,
    )


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
