"""The client's end of both links, as a Flower mod."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from logging import getLogger

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from ..arguments import check_callable
from ..compressors import Vector
from ..errors import FirstModelError, OutOfSyncError, StalePacketError
from ..links import ReceiverState, SenderState, accept
from ..wire.agreement import PROTOCOL
from ..wire.building import new_array_record, with_record
from ..wire.contract import BY_NODE, Contract
from ..wire.layout import Layout
from ..wire.packet import SESSION_KEY, Packet, find_packet, packet_record
from ..wire.records import model_record, records_of
from .client_mod import ClientMod, Returns, evaluates, reply_with
from .client_state import ClientState
from .first_model import Build, first_model
from .returned import ReturnedArrays
from .untrained import UntrainedArrays

__all__ = ["CompressionMod"]

_log = getLogger("flwr")
_HEARD_KEY = "flower-compress"
"""Key of the record in an evaluation's reply that says what the client holds."""


class CompressionMod(ClientMod[ClientState]):
    """Decode what the server sends, and compress what the client answers.

    To be used with a :class:`~flower_compress.strategies.CompressedStrategy` at the
    server, which says how to answer: there is nothing to configure twice. The client
    app sees plain arrays, as without the mod. Messages of other strategies pass
    through untouched.

    An evaluation brings the round's model over the downlink, which the client then has
    to train on it; the answer says that it has.

    Parameters
    ----------
    returns : {"weights", "gradient"} (default: "weights")
        What the train function returns in its ArrayRecord: the weights after local
        training, as any Flower client, of which the difference w - w_local to the
        received ones is sent; or a gradient, which is sent as it is. Arrays that are
        never compressed (integers, BatchNorm's statistics) are values in both cases.
        An array that it leaves out counts as unchanged.
    identity : Callable[[Context], int], optional
        A number that is this client's own and survives restarts. Default: the node's
        ``partition-id`` if it has one (a number, or a name, of which the identity is a
        hash), else its node id.
    state_dir : path, optional
        Folder in which the client keeps what it remembers of its links, in a file of
        its own. Default: the one that the node names, by ``state-dir`` of its
        configuration or by the environment's ``FLOWER_COMPRESS_STATE_DIR``. Without any
        it is kept in ``Context.state``, which a SuperNode holds in memory, so that a
        restarted device begins anew, at the cost of one dense model; on a SuperNode
        more than 16 MiB are kept in a file in Flower's own folder.
    max_dim : int, optional
        Entries of the largest model that the client takes; a larger one is refused
        before anything is allocated. Default: as many as the machine's memory, or the
        container's share of it, has room for, at 40 bytes an entry.
    first_model : Callable[[int], ArrayRecord], optional
        Makes the first model from the seed that the strategy has, as the server makes
        it: with ``MCM(seed=7, first_model="seed")`` only a digest of it travels. If it
        makes another one, that is logged, and the model comes dense.

    Notes
    -----
    Put it first in the list: Flower calls mods in that order, so the ones behind it
    (differential privacy, for example) see plain arrays, not packets.

    Other ArrayRecords, in the message or in the reply, pass as they are, uncompressed:
    the model's is the one under the strategy's ``arrayrecord_key``, or the only one.

    Examples
    --------
    >>> from flwr.clientapp import ClientApp
    >>> from flower_compress import CompressionMod
    >>> app = ClientApp(mods=[CompressionMod()])
    """

    _state = ClientState
    _state_key = "flower_compress"
    _untrained = UntrainedArrays()
    _returned = ReturnedArrays()

    def __init__(
        self,
        returns: Returns = "weights",
        identity: Callable[[Context], int] | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        max_dim: int | None = None,
        first_model: Build | None = None,
    ) -> None:
        super().__init__(returns, identity, state_dir, max_dim)
        if first_model is not None:
            expected = "a function of the seed that returns an ArrayRecord"
            check_callable("first_model", first_model, expected)
        self.first_model = first_model

    def _answer(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message | None:
        found = find_packet(msg.content)
        if found is not None:
            return self._answer_packet(msg, context, call_next, *found)
        return self._evaluate_held(msg, context, call_next) if evaluates(msg) else None

    def _answer_packet(
        self,
        msg: Message,
        context: Context,
        call_next: ClientAppCallable,
        key: str,
        data: bytes,
    ) -> Message:
        packet, is_evaluation = Packet.parse(data), evaluates(msg)
        identity = self._identity_of(context)
        state = self._find(context, identity, packet.session)
        if packet.greeting:
            number = context.node_id if _asks_for_node(packet) else identity
            builds = self.first_model is not None
            return _answer_greeting(msg, key, packet, number, state, builds=builds)
        if state is None:
            if packet.contract is None:
                return _ask_for_contract(msg, key, packet)
            state = ClientState(
                packet.session, packet.contract, ReceiverState(), SenderState()
            )
        elif packet.contract is not None:
            state = state._replace(contract=packet.contract)
        contract = Contract.from_bytes(state.contract)
        self._require_room(contract.layout)
        self._store.require_room(context, 4 * contract.num_kept_vectors * packet.dim)
        packet.require_dim(contract.layout.dim)
        number = context.node_id if contract.by_node else identity
        packet = packet.on(contract.downlink_channel(number))
        state = _on_channels(state, contract, number)
        first = partial(first_model, contract, packet.exact or b"", self.first_model)
        try:
            state = _receive(state, packet, contract, first, trains=not is_evaluation)
        except StalePacketError:
            raise
        except FirstModelError as error:
            _log.warning("CompressionMod: %s. It will be sent dense", error)
            return _ask_for_contract(msg, key, packet)
        except OutOfSyncError as error:
            _log.info("CompressionMod: %s", error)
            return _ask_for_contract(msg, key, packet)
        model = state.receiver.value(contract.downlink_rate)
        if model is None:
            return _ask_for_contract(msg, key, packet)
        if state.receiver.pending is not None:
            lean = state.receiver.pending.lean()
            state = state._replace(receiver=state.receiver._replace(pending=lean))
        arrays = contract.layout.unflatten(model, state.exact)
        if contract.layout.rounds:
            model, _ = contract.layout.flatten(arrays)  # as the client sees it
        reply = call_next(with_record(msg, key, arrays), context)
        if reply.has_error():
            return reply
        if is_evaluation:
            answer = Packet(packet.session, version=packet.version, dim=packet.dim)
            reply = with_record(reply, _HEARD_KEY, _record_like(msg, key, answer))
            self._keep(context, number, state, packet.dim)
            return reply
        sent_under = key
        key, arrays = model_record(reply.content, key, "the client's reply")
        begun = None if packet.contract is None else packet.session
        update, exact_out = self._update(
            arrays, model, state.exact, contract.layout, begun
        )
        # Of a large model no more is held than what comes next needs.
        del arrays, model
        reply = with_record(reply, key, new_array_record({}))
        if packet.refused:
            _log.warning(
                "CompressionMod: the server refused this client's last update, or had "
                "forgotten the client: what its updates left out is dropped"
            )
            state = state._replace(sender=contract.uplink.refuse(state.sender))
        answer, sender = _answer(
            packet, contract, number, state.sender, update, exact_out
        )
        (payload,) = answer.payloads
        self._untrained.look(packet.session, contract.layout, update, payload)
        reply = with_record(reply, key, _record_like(msg, sent_under, answer))
        state = state._replace(sender=sender)
        if contract.downlink_rate is None and not contract.held:
            # Every version is sent whole, and this one is trained on.
            receiver = ReceiverState(state.receiver.newest)
            state = state._replace(receiver=receiver, exact=b"")
        # Last of all: a client that fails before has not moved.
        self._keep(context, number, state, packet.dim)
        return reply

    def _find(
        self, context: Context, identity: int, session: int
    ) -> ClientState | None:
        """Return the state of a client, which is its node's where it is its node id.

        Nodes may say that they are the same client, and share a folder. Releases before
        this one have kept the state under what the client says all the same.
        """
        state = self._load(context, identity, session)
        if identity == context.node_id:
            return state
        if state is not None and not Contract.from_bytes(state.contract).by_node:
            return state
        return self._load(context, context.node_id, session) or state

    def _keep(
        self, context: Context, number: int, state: ClientState, dim: int
    ) -> None:
        self._save(context, number, state.session, state.to_bytes(dim), state)

    def _update(
        self,
        arrays: ArrayRecord,
        model: Vector,
        exact: bytes,
        layout: Layout,
        begun: int | None,
    ) -> tuple[Vector, bytes]:
        """Return what the client's arrays say: the vector to send, the exact arrays.

        An array that is not among them counts as unchanged. `begun` is the session that
        the client has just begun with, if it has.
        """
        if len(arrays) < len(layout.tensors):
            unchanged = model if self.returns == "weights" else np.zeros_like(model)
            update, exact = layout.flatten(layout.complete(arrays, unchanged, exact))
        else:
            update, exact = layout.flatten(arrays)
        if begun is not None:
            self._returned.look(begun, self.returns, model, update)
        if self.returns == "weights":
            with np.errstate(over="ignore", invalid="ignore"):  # check_finite tells
                update = model - update
        layout.check_finite(update, "the client's update")
        layout.check_exact(exact, "the client's reply")
        return update, exact

    def _evaluate_held(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message | None:
        for config in records_of(msg.content, ConfigRecord):
            if SESSION_KEY in config:
                break
        else:
            return None
        identity = self._identity_of(context)
        session = config[SESSION_KEY]
        state = None
        if isinstance(session, int):
            state = self._find(context, identity, session)
        if state is None:
            raise OutOfSyncError(
                "this client holds no model of the run to evaluate: train it first, "
                'or evaluate with evaluate_on="received"'
            )
        contract = Contract.from_bytes(state.contract)
        number = context.node_id if contract.by_node else identity
        state = _on_channels(state, contract, number)
        held = state.receiver.value(contract.downlink_rate)
        if held is None:
            raise OutOfSyncError("this client holds no model to evaluate")
        arrays = contract.layout.unflatten(held, state.exact)
        key = str(config.get("arrayrecord-key", "arrays"))
        return call_next(with_record(msg, key, arrays), context)


def _receive(
    state: ClientState,
    packet: Packet,
    contract: Contract,
    first: Callable[[], tuple[Vector, bytes]],
    *,
    trains: bool,
) -> ClientState:
    """Take in what a packet brings down; `first` makes a first model.

    A model that is evaluated and then trained on is one version in two messages. Each
    version is trained on once.
    """
    has_it = packet.version == state.receiver.newest
    if has_it and not trains:
        return state
    has_it &= packet.version > state.sender.newest
    if packet.memory is not None:
        state = state._replace(sender=SenderState(packet.acked, packet.memory))
    if has_it:
        return state
    snapshot, exact = packet.snapshot, packet.exact or b""
    if _begins(packet, contract) and packet.version > state.receiver.newest:
        snapshot, exact = first()
    receiver = accept(
        state.receiver,
        base=packet.base,
        version=packet.version,
        payloads=packet.payloads,
        final=packet.final,
        rate=contract.downlink_rate,
        snapshot=snapshot,
    )
    return state._replace(receiver=receiver, exact=exact)


def _begins(packet: Packet, contract: Contract) -> bool:
    """Whether the client is to begin with a first model that is no snapshot."""
    return (
        packet.contract is not None
        and packet.snapshot is None
        and contract.first_model is not None
        and contract.downlink_rate is not None
    )


def _asks_for_node(greeting: Packet) -> bool:
    """Whether the server takes a client's node id for its identity."""
    try:
        return bool(json.loads(greeting.contract or b"{}") == BY_NODE)
    except (ValueError, RecursionError):
        return False


def _answer_greeting(
    msg: Message,
    key: str,
    packet: Packet,
    identity: int,
    state: ClientState | None,
    *,
    builds: bool,
) -> Message:
    about: dict[str, object] = {
        "protocol": PROTOCOL,
        "identity": identity,
        "held": 0,
    }
    if state is not None:
        receiver, sender = state.receiver, state.sender
        about |= {
            "held": receiver.newest,
            "crc": 0 if receiver.pending is None else receiver.pending.crc,
            "base": receiver.version,
            "sent": [sender.version, sender.pending_version],
        }
    if builds:
        about["builds"] = True
    about["plain"] = True
    answer = Packet(
        session=packet.session, contract=json.dumps(about).encode(), greeting=True
    )
    return reply_with(msg, key, packet_record(answer))


def _ask_for_contract(msg: Message, key: str, packet: Packet) -> Message:
    answer = Packet(session=packet.session, version=packet.version, resync=True)
    return reply_with(msg, key, _record_like(msg, key, answer))


def _record_like(msg: Message, key: str, answer: Packet) -> ArrayRecord | ConfigRecord:
    """Return the record of an answer, of the kind in which the server has asked."""
    return packet_record(answer, plain=isinstance(msg.content[key], ConfigRecord))


def _on_channels(state: ClientState, contract: Contract, identity: int) -> ClientState:
    return state.on(
        contract.downlink_channel(identity), contract.uplink_channel(identity)
    )


def _answer(
    packet: Packet,
    contract: Contract,
    identity: int,
    sender: SenderState,
    update: Vector,
    exact: bytes,
) -> tuple[Packet, SenderState]:
    """Compress the update into the answer to a packet."""
    sender = contract.uplink.acknowledge(sender, packet.acked, packet.detail)
    base, channel = sender.version, contract.uplink_channel(identity)
    sender, payload = contract.uplink.send(
        sender, update, packet.version, channel.at(packet.version)
    )
    answer = Packet(
        session=packet.session,
        base=base,
        version=packet.version,
        acked=packet.version,
        detail=max(1, sender.num_inputs),
        dim=packet.dim,
        payloads=(payload,),
        exact=exact or None,
    )
    return answer, sender
