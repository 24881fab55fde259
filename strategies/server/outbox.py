"""The messages of a round: what each client is sent."""

from __future__ import annotations

from typing import NamedTuple

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from flower_compress.wire.packet import SESSION_KEY, Packet, packet_record
from flower_compress.wire.records import array_bytes

from .roster import Client
from .session import Session

__all__ = ["Keys", "evaluate_messages", "train_messages", "train_packets"]


class Keys(NamedTuple):
    """Keys of the records in a message, as the strategy was told."""

    arrays: str
    config: str


def train_messages(
    session: Session,
    clients: list[Client],
    config: ConfigRecord,
    keys: Keys,
    server_round: int,
) -> list[Message]:
    """Return the messages that bring those clients the model over their downlinks."""
    messages = []
    packets = train_packets(session, clients, server_round)
    for client, packet in zip(clients, packets, strict=True):
        # One RecordDict a node: messages that share one would share its mutations.
        content = RecordDict(
            {
                keys.arrays: packet_record(packet),
                keys.config: ConfigRecord(dict(config)),
            }
        )
        messages.append(Message(content, client.node_id, MessageType.TRAIN))
    return messages


def train_packets(
    session: Session, clients: list[Client], server_round: int
) -> list[Packet]:
    """Return the packets that bring those clients the model, and bill them."""
    if session.composition.downlink_carries == "model":
        identities = [client.identity for client in clients]
        session.downlinks.publish(session.model, identities, server_round)
    # Clients that need the same get the same bytes, held in memory once.
    shared: dict[tuple[int, ...], Packet] = {}
    packets = [_train_packet(session, client, shared) for client in clients]
    for packet in packets:
        session.ledger.record("downlink", packet)
    return packets


def _train_packet(
    session: Session, client: Client, shared: dict[tuple[int, ...], Packet]
) -> Packet:
    end = client.downlink
    is_new = end.held is None
    needed = session.downlinks.send(client.identity, end, session.model)
    acked, crc = session.uplinks.acked(client.uplink)
    client.uplink.asked += 1
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
        exact=session.exact or None,
        refused=client.uplink.refused,
        memory=session.uplinks.memory(client.uplink) if is_new else None,
    )
    if packet.final and packet.memory is None:
        group = session.downlinks.group(client.identity)
        rest = (packet.acked, packet.detail, int(is_new), int(packet.refused))
        key = (group, needed.base, needed.version, *rest)
        packet = shared.setdefault(key, packet)
    return packet


def evaluate_messages(
    session: Session,
    clients: list[Client],
    config: ConfigRecord,
    keys: Keys,
    *,
    send_model: bool,
) -> list[Message]:
    """Return the messages that ask those clients to evaluate a model.

    The server's, which is sent dense and billed, or the one that each client holds.
    """
    model = None
    if send_model:
        model = session.layout.unflatten(session.model, session.exact)
    messages = []
    for client in clients:
        record = ConfigRecord(dict(config))
        content = RecordDict({keys.config: record})
        if model is None:
            record[SESSION_KEY] = session.id
            record["arrayrecord-key"] = keys.arrays
        else:
            content[keys.arrays] = ArrayRecord(dict(model.items()))
            session.ledger.record_bytes(
                "downlink", array_bytes(content), 8 * session.layout.num_bytes
            )
        messages.append(Message(content, client.node_id, MessageType.EVALUATE))
    return messages
