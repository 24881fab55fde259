"""The messages of a round: what each client is sent."""

from __future__ import annotations

from typing import NamedTuple

from flwr.app import ConfigRecord, Message, MessageType

from flower_compress.wire.building import (
    addressed,
    entries,
    new_config_record,
    new_record_dict,
)
from flower_compress.wire.packet import Packet, packet_record

from .roster import Client
from .session import Session

__all__ = ["Keys", "messages_with_model", "packets_with_model", "rests"]


class Keys(NamedTuple):
    """Keys of the records in a message, as the strategy was told."""

    arrays: str
    config: str


def messages_with_model(
    session: Session,
    clients: list[Client],
    config: ConfigRecord,
    keys: Keys,
    server_round: int,
    *,
    trains: bool,
) -> list[Message]:
    """Return the messages that bring those clients the model over their downlinks.

    Parameters
    ----------
    session, clients, config, keys
        The run, whom to write to, and what goes with the model.
    server_round : int
        The round that trains on this model.
    trains : bool
        Whether the clients are to train, or to evaluate it before that round. The
        message that lets them evaluate it brings what the other would have brought.
    """
    kind = MessageType.TRAIN if trains else MessageType.EVALUATE
    messages: list[Message] = []
    clients = [client for client in clients if not rests(session, client)]
    packets = packets_with_model(session, clients, server_round, trains=trains)
    for client, packet in zip(clients, packets, strict=True):
        # One RecordDict a node: messages that share one would share its mutations.
        content = new_record_dict(
            {
                # First: who looks for a ConfigRecord before the mod finds this one.
                keys.config: new_config_record(entries(config)),
                keys.arrays: packet_record(packet, plain=client.plain),
            }
        )
        if messages:  # A new one takes longer.
            messages.append(addressed(messages[0], client.node_id, content))
        else:
            messages.append(Message(content, client.node_id, kind))
    return messages


def rests(session: Session, client: Client) -> bool:
    """Whether a client asks for the whole model too often to be sent it now."""
    identity, node_id = client.identity, client.node_id
    if client.downlink.held is not None or not session.sync_budget.rests(identity):
        return False
    session.observers.note("lost", identity, node_id, "rests: not sent the model again")
    session.warn_once(
        f"rests {identity}",
        "client %d (node %d) asks for the whole model again and again: it is sent that "
        "ever more rarely, at least once in 65 rounds. Its log says why",
        *(identity, node_id),
    )
    return True


def packets_with_model(
    session: Session, clients: list[Client], server_round: int, *, trains: bool
) -> list[Packet]:
    """Return the packets of :func:`messages_with_model`, and bill them."""
    if session.composition.downlink_carries == "model":
        identities = [client.identity for client in clients]
        session.downlinks.publish(
            session.model, identities, server_round, trains=trains
        )
    # Clients that need the same get the same bytes, held in memory once.
    shared: dict[tuple[int, ...], Packet] = {}
    packets = [_packet(session, client, shared, trains) for client in clients]
    for client, packet in zip(clients, packets, strict=True):
        session.ledger.record(
            "downlink", packet, evaluation=not trains, plain=client.plain
        )
    return packets


def _packet(
    session: Session,
    client: Client,
    shared: dict[tuple[int, ...], Packet],
    trains: bool,
) -> Packet:
    end = client.downlink
    is_new = end.held is None
    needed = session.downlinks.send(client.identity, end, session.model, trains=trains)
    has_it = end.held == needed.version
    memory = session.uplinks.memory(client.uplink) if is_new else None
    acked, crc = session.uplinks.acked(client.uplink)
    client.uplink.asked += trains
    exact = None if has_it else session.exact or None
    if needed.begins:
        exact = session.beginning.before(session.exact) or None
    packet = Packet(
        session=session.id,
        base=needed.base,
        version=needed.version,
        acked=acked,
        detail=crc,
        dim=session.layout.dim,
        payloads=needed.payloads,
        final=session.downlinks.is_final(),
        snapshot=needed.snapshot,
        contract=session.contract_bytes if is_new else None,
        exact=exact,
        refused=trains and client.uplink.refused,
        memory=memory,
    )
    if packet.final and packet.memory is None:
        group = session.downlinks.group(client.identity)
        rest = (packet.acked, packet.detail, int(is_new), int(packet.refused))
        begins = int(needed.begins)
        key = (group, needed.base, needed.version, begins, *rest)
        packet = shared.setdefault(key, packet)
    return packet
