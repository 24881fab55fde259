"""How a delivery changes what a node remembers.

y_i takes a payload q_i when the relay says that it has it, and every neighbour will.
"""

from __future__ import annotations

from dataclasses import replace
from logging import getLogger

import numpy as np
from numpy.typing import NDArray

from flower_compress.compressors import Vector
from flower_compress.errors import CorruptPacket, OutOfSyncError, StalePacketError
from flower_compress.links import Payload
from flower_compress.wire.gossip_contract import GossipContract
from flower_compress.wire.mail import EVERYONE, Delivery, Estimate, Letter

from .averaging import average
from .blocked import add_scaled, scaled
from .state import GossipState, Key

__all__ = ["settle"]

_log = getLogger("flwr")


def settle(
    state: GossipState,
    delivery: Delivery,
    contract: GossipContract,
    phases: tuple[str, ...],
) -> GossipState:
    """Take a delivery in: acknowledgement, letters, then the averaging that is due.

    Parameters
    ----------
    state : GossipState
        The state before.
    delivery : Delivery
        What came.
    contract : GossipContract
        The node's contract.
    phases : tuple[str, ...]
        Names of the vectors that are exchanged, in order; the model's is the last.

    Raises
    ------
    StalePacketError
        If the delivery was answered before, or a newer one.
    OutOfSyncError
        If it builds on what the node does not have: a state that is as new, letters,
        or an acknowledged payload.

    Notes
    -----
    A letter that cannot be read counts as received, and the relay is told of its
    sender: it has the estimates renewed by snapshots.
    """
    if delivery.number <= state.number:
        raise StalePacketError(
            f"delivery {delivery.number} is not newer than delivery {state.number}, "
            "which was answered before: a duplicate, or late"
        )
    if delivery.contract is None and state.number < delivery.answered:
        raise OutOfSyncError(
            f"this node has answered delivery {delivery.answered}, and its state is "
            f"that of delivery {state.number}: it was taken back"
        )
    untold = {
        node: number
        for node, number in state.unreadable.items()
        if number > delivery.answered
    }
    state = replace(state, number=delivery.number, unreadable=untold)
    if delivery.rebuild:
        state = replace(
            state,
            heard={},
            present=frozenset(),
            received=delivery.first,
            unreadable={},
        )
    state = _acknowledge(state, delivery, contract)
    if delivery.forget:
        state = _begin_trackers_anew(state, phases)
    if delivery.model is not None:
        state = _begin(state, delivery.model, contract, phases)
        if delivery.rebuild:
            # It is late: what its neighbours have sent since is replaced by snapshots.
            state = replace(state, heard={}, present=frozenset())
    state = _read_letters(state, delivery, contract)
    if not state.vectors:
        state = _adopt(state, contract, phases)
    return average(state, contract, phases)


def _acknowledge(
    state: GossipState, delivery: Delivery, contract: GossipContract
) -> GossipState:
    """Fold the pending payloads into y_i, or drop them."""
    acked = delivery.acked, delivery.crc
    if state.pending and acked == (state.pending[0].version, state.pending_crc):
        try:
            state = replace(state, own=_own_with_pending(state, contract))
        except CorruptPacket as error:
            raise OutOfSyncError(
                f"this node cannot read what it has sent itself: {error}"
            ) from error
    elif delivery.acked != state.committed and not delivery.forget:
        raise OutOfSyncError(
            f"the relay took in version {delivery.acked} of this node, which holds "
            f"version {state.committed}"
        )
    return replace(state, committed=delivery.acked, pending=(), pending_crc=0)


def _own_with_pending(
    state: GossipState, contract: GossipContract
) -> dict[Key, Estimate]:
    own = dict(state.own)
    for letter in state.pending:
        key = letter.phase, letter.node
        if contract.keeps_estimates:
            own[key] = own[key].copy()
            q = _gain(letter, contract.node, letter.node, contract)
            add_scaled(own[key], q, 1.0)
        elif not contract.compressor.lossless:
            q = _gain(letter, contract.node, letter.node, contract)
            own[key] = q.astype(np.float64)
    return own


def _begin_trackers_anew(state: GossipState, phases: tuple[str, ...]) -> GossipState:
    """Keep the model alone: all other vectors, and their estimates, begin with zero.

    The relay asks all nodes for it, as what they sum up has lost a part.
    """
    last = len(phases) - 1
    if not last or not state.vectors:
        return state
    return replace(
        state,
        vectors={phases[last]: state.vectors[phases[last]]},
        own={
            key: y if key[0] == last else np.zeros_like(y)
            for key, y in state.own.items()
        },
        due={phase: round_ for phase, round_ in state.due.items() if phase == last},
        stepped=(0, 0),
    )


def _begin(
    state: GossipState,
    model: Vector,
    contract: GossipContract,
    phases: tuple[str, ...],
) -> GossipState:
    """Start from the common initial model, which is everyone's first estimate."""
    last = len(phases) - 1
    first: Estimate = model.astype(np.float64)
    own: dict[Key, Estimate] = {}
    heard: dict[Key, Estimate] = {}
    present: set[Key] = set()
    fresh: set[Key] = set()
    if contract.keeps_estimates:
        for phase in range(len(phases)):
            start = first if phase == last else np.zeros_like(first)
            own |= {(phase, target): start for target in contract.targets}
            for node, weight in contract.sources.items():
                present.add((phase, node))
                _hear(heard, fresh, (phase, node), weight, start, contract)
    return replace(
        state,
        vectors={phases[-1]: model},
        own=own,
        heard=heard,
        present=frozenset(present),
    )


def _hear(
    heard: dict[Key, Estimate],
    fresh: set[Key],
    letter_key: Key,
    weight: float,
    gain: NDArray[np.floating],
    contract: GossipContract,
) -> None:
    """Add what a neighbour's estimate gains to what is kept of it.

    Arrays under the keys in `fresh` are this call's own, and are changed in place.
    """
    key = letter_key
    if contract.per_edge:
        weight = 1.0
    else:
        key = letter_key[0], EVERYONE
    if key not in heard:
        heard[key] = scaled(gain, weight)
    else:
        if key not in fresh:
            heard[key] = heard[key].copy()
        add_scaled(heard[key], gain, weight)
    fresh.add(key)


def _read_letters(
    state: GossipState, delivery: Delivery, contract: GossipContract
) -> GossipState:
    if delivery.first > state.received and contract.keeps_estimates:
        raise OutOfSyncError(
            f"the letters begin with number {delivery.first}, this node has had "
            f"{state.received}"
        )
    letters = delivery.letters[max(state.received - delivery.first, 0) :]
    if not contract.keeps_estimates:
        # The last one counts: the others were for rounds that this node missed.
        letters = tuple({(m.phase, m.node): m for m in letters}.values())
    heard, present, fresh = dict(state.heard), set(state.present), set[Key]()
    unreadable = dict(state.unreadable)
    for letter in letters:
        weight = contract.sources.get(letter.node)
        if weight is None:
            raise OutOfSyncError(f"node {letter.node} is no neighbour of this node")
        key = letter.phase, letter.node
        is_known = key in present or letter.node in unreadable
        if contract.keeps_estimates and not (letter.snapshot or is_known):
            raise OutOfSyncError(
                f"a payload of node {letter.node}, of which this node holds nothing"
            )
        try:
            gain = _gain_of(letter, contract)
        except CorruptPacket as error:
            _log.warning("A letter of node %d cannot be read: %s", letter.node, error)
            unreadable[letter.node] = delivery.number
            continue
        if letter.node in unreadable and key not in present and not letter.snapshot:
            continue  # It builds on a snapshot that could not be read.
        present.add(key)
        _hear(heard, fresh, key, weight, gain, contract)
    return replace(
        state,
        heard=heard,
        present=frozenset(present),
        received=max(state.received, delivery.first + len(delivery.letters)),
        unreadable=unreadable,
    )


def _gain_of(letter: Letter, contract: GossipContract) -> NDArray[np.floating]:
    """Return what the estimate of a neighbour gains by a letter of it.

    Raises
    ------
    CorruptPacket
        If its bytes are no payload, or no estimate, of the vectors' length.
    """
    if letter.snapshot:
        return letter.estimate(contract.layout.dim)
    target = contract.node if contract.per_edge else EVERYONE
    return _gain(letter, letter.node, target, contract)


def _gain(
    letter: Letter, sender: int, target: int, contract: GossipContract
) -> NDArray[np.floating]:
    """Return rate q, what an estimate gains by a payload."""
    channel = contract.channel(sender, target, letter.version)
    q = Payload(letter.data, contract.layout.dim, channel).vector
    if contract.rate == 1.0 or not contract.keeps_estimates:
        return q
    return contract.rate * q.astype(np.float64)


def _adopt(
    state: GossipState, contract: GossipContract, phases: tuple[str, ...]
) -> GossipState:
    """Take the neighbours' weighted mean for a model, once one of them is known."""
    phase = len(phases) - 1
    known = [(j, w) for j, w in contract.sources.items() if (phase, j) in state.present]
    total = sum(weight for _, weight in known)
    if not known:
        return state
    if contract.per_edge:
        mean = sum(weight * state.heard[phase, j] for j, weight in known) / total
    else:
        mean = state.heard[phase, EVERYONE] / total
    model = np.asarray(mean, dtype=np.float32)
    own: dict[Key, Estimate] = {}
    if contract.keeps_estimates:
        zeros = np.zeros(model.size)
        for each in range(len(phases)):
            start = model.astype(np.float64) if each == phase else zeros
            own |= {(each, target): start for target in contract.targets}
    return replace(state, vectors={phases[-1]: model}, own=own)
