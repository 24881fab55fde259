"""The node of a decentralized run, as a Flower mod."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from logging import getLogger

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from flower_compress.arguments import check_callable
from flower_compress.compressors import Vector
from flower_compress.errors import (
    ConfigurationError,
    CorruptPacket,
    OutOfSyncError,
    StalePacketError,
    shown,
)
from flower_compress.mods.client_mod import ClientMod, Returns, reply_with
from flower_compress.wire.agreement import PROTOCOL
from flower_compress.wire.building import with_record
from flower_compress.wire.gossip_contract import GossipContract
from flower_compress.wire.mail import (
    EVERYONE,
    ZEROS_METRIC,
    Delivery,
    Letter,
    Posting,
    find_mail,
    mail_record,
)
from flower_compress.wire.records import records_of

from .algorithms import algorithm_of
from .client_problem import ClientProblem, TrainFailedError
from .posting import compress, post
from .settle import settle
from .state import GossipState

__all__ = ["GossipMod"]

_log = getLogger("flwr")
_ESTIMATE_BYTES = 8
_VECTOR_BYTES = 4
_USUAL_ESTIMATES = 2
"""A node's own, and the sum of its neighbours'."""


class GossipMod(ClientMod[GossipState]):
    """Make a client app a node of a decentralized run.

    To be used with a :class:`~flower_compress.strategies.Relay` at the server, which
    says who the neighbours are and what to do with a gradient: there is nothing to
    configure twice. The client app sees its own model as plain arrays, as in any Flower
    app; the server does not see it. Messages of other strategies pass untouched.

    Arrays that are never compressed (integers, BatchNorm's statistics) stay at their
    node.

    Parameters
    ----------
    returns : {"weights", "gradient"} (default: "weights")
        What the train function returns: the weights after local training, which take
        the place of x - eta g; or a gradient.
    identity : Callable[[Context], int], optional
        A number that is this node's own and survives restarts. Default: the node's
        ``partition-id`` if it has one, else its node id.
    state_dir : path, optional
        Folder in which the node keeps its model and what it holds of its neighbours.
        Default: as for :class:`~flower_compress.CompressionMod`; from
        ``Context.state`` a restarted device begins anew, with the mean of its
        neighbours.
    device : str or Callable[[Message], str or None], optional
        Where torch is to compress what the node sends, as ``"cuda"``, or a function of
        the message that says so. Default: NumPy does, on the host. What travels and
        what is decoded keep their form; a device draws other private dithers.
    max_dim : int, optional
        Entries of the largest model that the node takes; a larger one is refused before
        anything is allocated. Default: as many as the machine's memory, or the
        container's share of it, has room for, at 48 bytes an entry; less where each
        edge has estimates of its own, or the algorithm exchanges several vectors.

    Examples
    --------
    >>> from flwr.clientapp import ClientApp
    >>> from flower_compress.clients import GossipMod
    >>> app = ClientApp(mods=[GossipMod()])
    """

    _state = GossipState
    _state_key = "flower_compress.gossip"
    _state_kind = "node"
    _entry_bytes = 48
    _foreign = "the server's strategy is no Relay"

    def __init__(
        self,
        returns: Returns = "weights",
        identity: Callable[[Context], int] | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        max_dim: int | None = None,
        device: str | Callable[[Message], str | None] | None = None,
    ) -> None:
        super().__init__(returns, identity, state_dir, max_dim)
        if device is not None and not isinstance(device, str):
            check_callable("device", device, 'a name as "cuda", or a function')
        self.device = device

    def _answer(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message | None:
        found = find_mail(msg.content)
        if found is None:
            return None
        key, data = found
        delivery, identity = Delivery.parse(data), self._identity_of(context)
        state = self._load(context, identity, delivery.session)
        if delivery.number == 0:
            name = context.node_config.get("partition-id", identity)
            return _answer_greeting(msg, key, delivery, identity, name, state)
        if delivery.contract is not None:
            # Whatever was here before, the relay does not count on it.
            state = GossipState(
                delivery.session,
                delivery.contract,
                number=0 if state is None else state.number,
                received=delivery.first,
                committed=delivery.acked,
                exact=delivery.exact,
            )
        if state is None:
            return _ask_for_contract(msg, key, delivery)
        contract = GossipContract.from_bytes(state.contract)
        algorithm = algorithm_of(contract)
        num_phases = len(algorithm.phases)
        estimates = contract.num_estimates(num_phases)
        further = estimates - _USUAL_ESTIMATES
        self._require_room(contract.layout, _ESTIMATE_BYTES * further)
        kept = _ESTIMATE_BYTES * estimates if contract.keeps_estimates else 0
        kept += _VECTOR_BYTES * num_phases
        self._store.require_room(context, kept * contract.layout.dim)
        if delivery.dim != contract.layout.dim:
            raise CorruptPacket(
                f"expected vectors of length {contract.layout.dim}, got {delivery.dim}"
            )
        if delivery.phase >= len(algorithm.phases):
            raise CorruptPacket(
                f"{contract.algorithm} has {len(algorithm.phases)} exchanges a round, "
                f"got phase {delivery.phase}: is num_phases right at the relay?"
            )
        try:
            state = settle(state, delivery, contract, algorithm.phases)
        except StalePacketError:
            raise
        except OutOfSyncError as error:
            _log.info("GossipMod: %s", error)
            return _ask_for_contract(msg, key, delivery)
        reply = Message(RecordDict(), reply_to=msg)
        app = ClientProblem(
            msg, context, call_next, key, contract.layout, self.returns, state.exact
        )
        if delivery.train and _may_step(state, delivery):
            phase = algorithm.phases[delivery.phase]
            try:
                with np.errstate(over="ignore", invalid="ignore"):  # check_finite tells
                    vectors = algorithm.step(
                        phase, state.vectors, app, delivery.step_size
                    )
            except TrainFailedError as error:
                return error.reply
            for name, vector in vectors.items():
                contract.layout.check_finite(vector, f"the node's {name}")
            state = replace(state, vectors=vectors, exact=app.exact)
            device = self.device(msg) if callable(self.device) else self.device
            state = compress(state, delivery, contract, algorithm.phases, device)
            reply = app.reply or reply
            _add_zeros(reply, phase, vectors)
        elif delivery.evaluate and state.vectors:
            reply = app.call(state.vectors["model"])
            if reply.has_error():
                return reply
        posting = post(state, delivery, contract)
        reply = with_record(reply, app.key, mail_record(posting.data))
        # Last of all: a node that fails before has not moved.
        self._save(context, identity, state.session, state.to_bytes())
        return reply


def _may_step(state: GossipState, delivery: Delivery) -> bool:
    """Whether there is a model, and this round's earlier phase took place."""
    before = delivery.round, delivery.phase - 1
    return bool(state.vectors) and (delivery.phase == 0 or state.stepped == before)


def _add_zeros(reply: Message, phase: str, vectors: Mapping[str, Vector]) -> None:
    if phase != "model":
        return
    z = vectors[phase]
    share = 1.0 - np.count_nonzero(z) / max(z.size, 1)
    metrics = next(records_of(reply.content, MetricRecord), None)
    if metrics is None:
        metrics = reply.content["metrics"] = MetricRecord()
    metrics[ZEROS_METRIC] = float(share)


def _answer_greeting(
    msg: Message,
    key: str,
    delivery: Delivery,
    identity: int,
    name: object,
    state: GossipState | None,
) -> Message:
    if not 0 <= identity < EVERYONE:
        raise ConfigurationError(
            "the nodes of a decentralized run are numbered from 0, and this one says "
            f"that it is {shown(name)}: start it with "
            '--node-config "partition-id=0 num-partitions=10", or give GossipMod an '
            "`identity` function"
        )
    held = 0 if state is None else state.number
    about = Letter(identity, held, PROTOCOL, b"", 0)
    answer = Posting(session=delivery.session, number=0, letters=(about,))
    return reply_with(msg, key, mail_record(answer.data))


def _ask_for_contract(msg: Message, key: str, delivery: Delivery) -> Message:
    answer = Posting(
        session=delivery.session,
        number=delivery.number,
        phase=delivery.phase,
        dim=delivery.dim,
        resync=True,
    )
    return reply_with(msg, key, mail_record(answer.data))
