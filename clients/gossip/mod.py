"""The node of a decentralized run, as a Flower mod."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from logging import getLogger

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from flower_compress.compressors import Vector
from flower_compress.errors import (
    ConfigurationError,
    CorruptPacket,
    FlowerCompressError,
    OutOfSyncError,
    StalePacketError,
)
from flower_compress.mods.compression_mod import (
    Returns,
    check_returns,
    refusal,
    stable_identity,
    with_record,
)
from flower_compress.mods.state_store import StateStore
from flower_compress.wire.agreement import PROTOCOL
from flower_compress.wire.gossip_contract import GossipContract
from flower_compress.wire.layout import Layout
from flower_compress.wire.mail import (
    EVERYONE,
    ZEROS_METRIC,
    Delivery,
    Letter,
    Posting,
    find_mail,
    mail_record,
)
from flower_compress.wire.records import only_array_record, records_of

from .cdprox_sgt import CDProxSGT
from .choco_sgd import ChocoSGD
from .dpsgd import DPSGD
from .malcom_psgd import MalcomPSGD
from .node_algorithm import NodeAlgorithm
from .posting import compress, post
from .settle import settle
from .state import GossipState

__all__ = ["GossipMod"]

_STATE_KEY = "flower_compress.gossip"
_log = getLogger("flwr")
_ALGORITHMS: dict[str, type[NodeAlgorithm]] = {
    algorithm.name: algorithm for algorithm in (MalcomPSGD, ChocoSGD, CDProxSGT, DPSGD)
}


class GossipMod:
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
        Default: in ``Context.state``, which a SuperNode holds in memory, so that a
        restarted device begins anew, with the mean of its neighbours.

    Examples
    --------
    >>> from flwr.clientapp import ClientApp
    >>> from flower_compress.clients import GossipMod
    >>> app = ClientApp(mods=[GossipMod()])
    """

    def __init__(
        self,
        returns: Returns = "weights",
        identity: Callable[[Context], int] | None = None,
        state_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.returns = check_returns(returns)
        self.identity = identity or stable_identity
        self._store = StateStore(_STATE_KEY, state_dir, kind="node")

    def __call__(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message:
        """Handle one message."""
        found = find_mail(msg.content)
        if found is None:
            return call_next(msg, context)
        try:
            return self._answer(msg, context, call_next, *found)
        except FlowerCompressError as error:
            return refusal(msg, "GossipMod", error)

    def _answer(
        self,
        msg: Message,
        context: Context,
        call_next: ClientAppCallable,
        key: str,
        data: bytes,
    ) -> Message:
        delivery, identity = Delivery.parse(data), self.identity(context)
        state = self._load(context, identity, delivery.session)
        if delivery.number == 0:
            return _answer_greeting(msg, key, delivery, identity, state)
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
        if delivery.dim != contract.layout.dim:
            raise CorruptPacket(
                f"expected vectors of length {contract.layout.dim}, got {delivery.dim}"
            )
        algorithm = _algorithm(contract)
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
        app = _App(msg, context, call_next, key, contract.layout, self.returns, state)
        if delivery.train and _may_step(state, delivery):
            phase = algorithm.phases[delivery.phase]
            try:
                with np.errstate(over="ignore", invalid="ignore"):  # check_finite tells
                    vectors = algorithm.step(
                        phase, state.vectors, app, delivery.step_size
                    )
            except _TrainFailedError as error:
                return error.reply
            for name, vector in vectors.items():
                contract.layout.check_finite(vector, f"the node's {name}")
            state = replace(state, vectors=vectors, exact=app.exact)
            state = compress(state, delivery, contract, algorithm.phases)
            reply = app.reply or reply
            _add_zeros(reply, phase, vectors)
        elif delivery.evaluate and state.vectors:
            reply = app.call(state.vectors["model"])
            if reply.has_error():
                return reply
        posting = post(state, delivery, contract)
        reply = with_record(reply, key, mail_record(posting.data))
        # Last of all: a node that fails before has not moved.
        self._store.save(context, identity, state.to_bytes())
        return reply

    def _load(
        self, context: Context, identity: int, session: int
    ) -> GossipState | None:
        data = self._store.load(context, identity)
        state = None if data is None else GossipState.from_bytes(data)
        return state if state is not None and state.session == session else None


class _TrainFailedError(FlowerCompressError):
    """The train function answered with an error."""

    def __init__(self, reply: Message) -> None:
        super().__init__(reply.error.reason)
        self.reply = reply


class _App:
    """The client app behind the mod, as the node's F_i."""

    def __init__(
        self,
        msg: Message,
        context: Context,
        call_next: ClientAppCallable,
        key: str,
        layout: Layout,
        returns: str,
        state: GossipState,
    ) -> None:
        self._msg, self._context, self._call_next = msg, context, call_next
        self._key, self._layout, self._returns = key, layout, returns
        self.exact = state.exact
        self.reply: Message | None = None

    def call(self, x: Vector) -> Message:
        """Return the app's reply to a message with the node's model."""
        arrays = self._layout.unflatten(x, self.exact)
        return self._call_next(with_record(self._msg, self._key, arrays), self._context)

    def gradient(self, x: Vector) -> Vector:
        """Return what the train function returns at x; see :class:`LocalProblem`."""
        if self._returns != "gradient":
            raise ConfigurationError(
                "the relay's algorithm needs gradients: expected a train function "
                'that returns a gradient and GossipMod(returns="gradient"), got '
                f"returns={self._returns!r}"
            )
        return self._train(x)

    def descend(self, x: Vector, step_size: float) -> Vector:
        """Return x - eta g, or the weights after local training."""
        if self._returns == "weights":
            return self._train(x)
        descended: Vector = x - np.float32(step_size) * self._train(x)
        return descended

    def _train(self, x: Vector) -> Vector:
        reply = self.call(x)
        if reply.has_error():
            raise _TrainFailedError(reply)
        _, arrays = only_array_record(reply.content, "the node's reply")
        result, exact = self._layout.flatten(arrays)
        self._layout.check_finite(result, "the node's update")
        self._layout.check_exact(exact, "the node's reply")
        self.exact, self.reply = exact, reply
        return result


def _algorithm(contract: GossipContract) -> NodeAlgorithm:
    kind = _ALGORITHMS.get(contract.algorithm)
    if kind is None:
        raise CorruptPacket(
            f"expected an algorithm of {', '.join(_ALGORITHMS)}, got "
            f"{contract.algorithm!r}: is the relay's flower-compress newer?"
        )
    try:
        return kind(**contract.parameters)
    except TypeError as error:
        raise CorruptPacket(f"algorithm {contract.algorithm}: {error}") from error


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
    msg: Message, key: str, delivery: Delivery, identity: int, state: GossipState | None
) -> Message:
    if not 0 <= identity < EVERYONE:
        raise ConfigurationError(
            "the nodes of a decentralized run are numbered from 0, and this one says "
            f"that it is {identity}: start it with "
            '--node-config "partition-id=0 num-partitions=10", or give GossipMod an '
            "`identity` function"
        )
    held = 0 if state is None else state.number
    about = Letter(identity, held, PROTOCOL, b"", 0)
    answer = Posting(session=delivery.session, number=0, letters=(about,))
    return Message(RecordDict({key: mail_record(answer.data)}), reply_to=msg)


def _ask_for_contract(msg: Message, key: str, delivery: Delivery) -> Message:
    answer = Posting(
        session=delivery.session,
        number=delivery.number,
        phase=delivery.phase,
        dim=delivery.dim,
        resync=True,
    )
    return Message(RecordDict({key: mail_record(answer.data)}), reply_to=msg)
