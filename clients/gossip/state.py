"""What a node of a decentralized run remembers, and how mail changes it.

With an operator that loses something, a node's neighbours hold an estimate y_i of its
vector z_i, and so does the node itself; differences to it are sent:

    q_i = C(z_i - y_i),   y_i += rate q_i,
    x_i = z_i + gamma sum_j w_ij (y_j - y_i)

The sums over neighbours are kept, s_i = sum_j w_ij y_j, not every y_j. Estimates and
sums are float64, added up in the order in which the relay took the payloads in, by
round and then by sender, however late they come: so they depend on which payloads were
taken in and on nothing else. y_i takes q_i when the relay says that it has it, and
every neighbour will.

With a lossless operator vectors travel as they are, x_i = z_i + gamma sum_j w_ij
(z_j - z_i) over the neighbours that were heard, and no estimates are kept. The same
with C(z) in the place of z where the relay asks for that (``residual=False``).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_compress.compressors import Vector
from flower_compress.errors import OutOfSyncError, StalePacketError
from flower_compress.links import Payload
from flower_compress.wire.gossip_contract import GossipContract
from flower_compress.wire.mail import (
    EVERYONE,
    Delivery,
    Estimate,
    Letter,
    Posting,
    payload_crc,
)

from .blocked import add_scaled, averaged, difference, scaled

__all__ = ["GossipState", "compress", "post", "settle"]

_FORMAT = 1
_LENGTH = struct.Struct("<BI")
_KINDS = ("vectors", "own", "heard")
_NUMBERS = ("session", "number", "received", "pending_crc", "committed")

Key = tuple[int, int]
"""A phase, and a node or :data:`EVERYONE`."""


@dataclass(frozen=True, slots=True, eq=False)
class GossipState:
    """Everything a node remembers of one session.

    Parameters
    ----------
    session : int
        The session's id; state of another session is never used.
    contract : bytes
        See :class:`~flower_compress.wire.gossip_contract.GossipContract`.
    number : int
        Number of the last delivery that was answered.
    received : int
        How many letters it has had.
    vectors : Mapping[str, NDArray[np.float32]]
        The algorithm's vectors, ``"model"`` among them, each of shape (d,); empty
        until the node has a model.
    own : Mapping[Key, NDArray[np.float64]]
        y_i, by phase and target.
    heard : Mapping[Key, NDArray[np.float64]]
        s_i by phase; or, where each edge has estimates of its own, y_j by phase and
        sender.
    present : frozenset[Key]
        Of which neighbours an estimate is held, by phase.
    pending : tuple[Letter, ...]
        The payloads sent last, not acknowledged yet.
    pending_crc : int
        Their CRC-32.
    committed : int
        Version of the last acknowledged payload.
    due : Mapping[int, int]
        Phases whose vector has not been averaged yet, and the round of each.
    stepped : Key
        Round and phase of the last step.
    exact : bytes
        The model's exact arrays.
    """

    session: int
    contract: bytes
    number: int = 0
    received: int = 0
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    own: Mapping[Key, Estimate] = field(default_factory=dict)
    heard: Mapping[Key, Estimate] = field(default_factory=dict)
    present: frozenset[Key] = frozenset()
    pending: tuple[Letter, ...] = ()
    pending_crc: int = 0
    committed: int = 0
    due: Mapping[int, int] = field(default_factory=dict)
    stepped: Key = (0, 0)
    exact: bytes = b""

    def to_bytes(self) -> bytes:
        """Return the state as bytes."""
        arrays: list[NDArray[np.floating]] = []
        names: dict[str, list[object]] = {}
        for kind in _KINDS:
            table = getattr(self, kind)
            names[kind] = list(table)
            arrays += table.values()
        header = {
            **{name: getattr(self, name) for name in _NUMBERS},
            "present": sorted(self.present),
            "pending": [
                (part.node, part.version, part.phase, part.num_bits, len(part.data))
                for part in self.pending
            ],
            "due": list(self.due.items()),
            "stepped": self.stepped,
            "contract": len(self.contract),
            "exact": len(self.exact),
            "dim": arrays[0].size if arrays else 0,
            **names,
        }
        text = json.dumps(header, separators=(",", ":")).encode()
        return b"".join(
            (
                _LENGTH.pack(_FORMAT, len(text)),
                text,
                self.contract,
                self.exact,
                *(part.data for part in self.pending),
                *(np.ascontiguousarray(a).view(np.uint8).data for a in arrays),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> GossipState | None:
        """Rebuild a state; None if it is cut off, or of another format."""
        if len(data) < _LENGTH.size or data[0] != _FORMAT:
            return None
        size = _LENGTH.unpack_from(data)[1]
        rest = memoryview(data)[_LENGTH.size :]
        try:
            return cls._read(json.loads(bytes(rest[:size])), rest[size:])
        except (KeyError, OverflowError, RecursionError, TypeError, ValueError):
            return None

    @classmethod
    def _read(cls, header: dict[str, Any], rest: memoryview) -> GossipState:
        place = 0

        def take(size: int) -> memoryview:
            nonlocal place
            place += size
            if place > len(rest):
                raise ValueError("cut off")
            return rest[place - size : place]

        dim = header["dim"]
        contract, exact = bytes(take(header["contract"])), bytes(take(header["exact"]))
        pending = tuple(
            Letter(node, version, phase, bytes(take(size)), bits)
            for node, version, phase, bits, size in header["pending"]
        )
        vectors = {
            name: np.frombuffer(take(4 * dim), np.float32) for name in header["vectors"]
        }
        own, heard = (
            {
                (phase, node): np.frombuffer(take(8 * dim), np.float64)
                for phase, node in header[kind]
            }
            for kind in _KINDS[1:]
        )
        if place != len(rest):
            raise ValueError("too long")
        return cls(
            contract=contract,
            vectors=vectors,
            own=own,
            heard=heard,
            present=frozenset((phase, node) for phase, node in header["present"]),
            pending=pending,
            due=dict(header["due"]),
            stepped=tuple(header["stepped"]),
            exact=exact,
            **{name: header[name] for name in _NUMBERS},
        )


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
    CorruptPacket
        If a letter's bytes are no payload of the vectors' length.
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
    state = replace(state, number=delivery.number)
    if delivery.rebuild:
        state = replace(state, heard={}, present=frozenset(), received=delivery.first)
    state = _acknowledge(state, delivery, contract)
    if delivery.model is not None:
        state = _begin(state, delivery.model, contract, phases)
        if delivery.rebuild:
            # It is late: what its neighbours have sent since is replaced by snapshots.
            state = replace(state, heard={}, present=frozenset())
    state = _read_letters(state, delivery, contract)
    if not state.vectors:
        state = _adopt(state, contract, phases)
    return _average(state, contract, phases)


def _acknowledge(
    state: GossipState, delivery: Delivery, contract: GossipContract
) -> GossipState:
    """Fold the pending payloads into y_i, or drop them."""
    acked = delivery.acked, delivery.crc
    if state.pending and acked == (state.pending[0].version, state.pending_crc):
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
        state = replace(state, own=own)
    elif delivery.acked != state.committed and not delivery.forget:
        raise OutOfSyncError(
            f"the relay took in version {delivery.acked} of this node, which holds "
            f"version {state.committed}"
        )
    return replace(state, committed=delivery.acked, pending=(), pending_crc=0)


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
    for letter in letters:
        weight = contract.sources.get(letter.node)
        if weight is None:
            raise OutOfSyncError(f"node {letter.node} is no neighbour of this node")
        key = letter.phase, letter.node
        if letter.snapshot:
            gain: NDArray[np.floating] = letter.estimate(contract.layout.dim)
        elif contract.keeps_estimates and key not in present:
            raise OutOfSyncError(
                f"a payload of node {letter.node}, of which this node holds nothing"
            )
        else:
            target = contract.node if contract.per_edge else EVERYONE
            gain = _gain(letter, letter.node, target, contract)
        present.add(key)
        _hear(heard, fresh, key, weight, gain, contract)
    return replace(
        state,
        heard=heard,
        present=frozenset(present),
        received=max(state.received, delivery.first + len(delivery.letters)),
    )


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


def _average(
    state: GossipState, contract: GossipContract, phases: tuple[str, ...]
) -> GossipState:
    """x_i = z_i + gamma sum_j w_ij (y_j - y_i) for every vector of which it is due."""
    vectors = dict(state.vectors)
    for phase, round_ in state.due.items():
        z = vectors[phases[phase]]
        sums = _sums(state, contract, phase, round_, z)
        if sums is not None:
            with np.errstate(over="ignore"):  # A run that diverges shows in its loss.
                vectors[phases[phase]] = averaged(z, *sums, contract.consensus_step)
    if not contract.keeps_estimates:
        return replace(
            state, vectors=vectors, due={}, own={}, heard={}, present=frozenset()
        )
    return replace(state, vectors=vectors, due={})


def _sums(
    state: GossipState,
    contract: GossipContract,
    phase: int,
    round_: int,
    z: Vector,
) -> tuple[Estimate, NDArray[np.floating], float] | None:
    """Return s, y and rho, where sum_j w_ij (y_j - y_i) = s - rho y.

    The sum is over the neighbours that are known; None if there are none.
    """
    index = (round_ - 1) % len(contract.receives)
    known = [(j, w) for j, w in contract.receives[index] if (phase, j) in state.present]
    if not known:
        return None
    if not contract.per_edge:
        heard = state.heard[phase, EVERYONE]
    else:
        heard = _sum((state.heard[phase, j], w) for j, w in known)
        if contract.keeps_estimates:
            if len(known) < len(contract.receives[index]):
                return None  # As much has to come in as leaves.
            sent = _sum((state.own[phase, j], w) for j, w in contract.sends[index])
            return heard, sent, 1.0
    weight = sum(w for _, w in known)
    own: NDArray[np.floating] = z
    return heard, state.own.get((phase, EVERYONE), own), weight


def _sum(parts: Iterable[tuple[Estimate, float]]) -> Estimate:
    """Return the sum of weight * vector, in float64."""
    first, *rest = parts
    total = scaled(*first)
    for vector, weight in rest:
        add_scaled(total, vector, weight)
    return total


def compress(
    state: GossipState,
    delivery: Delivery,
    contract: GossipContract,
    phases: tuple[str, ...],
) -> GossipState:
    """Return the state with the payloads of a step, to be posted, as its pending ones.

    q_i = C(z_i - y_i), one for everyone or one for each target of the round.
    """
    z = state.vectors[phases[delivery.phase]]
    letters = []
    for target in contract.targets_of(delivery.round):
        x = z
        if contract.keeps_estimates:
            with np.errstate(over="ignore"):
                x = difference(z, state.own[delivery.phase, target])
        payload = Payload.encode(
            x,
            contract.compressor,
            contract.code,
            contract.channel(contract.node, target, delivery.number),
        )
        letters.append(
            Letter(
                target, delivery.number, delivery.phase, payload.data, payload.num_bits
            )
        )
    return replace(
        state,
        pending=tuple(letters),
        pending_crc=payload_crc(tuple(letters)),
        due={**state.due, delivery.phase: delivery.round},
        stepped=(delivery.round, delivery.phase),
    )


def _snapshots(state: GossipState, delivery: Delivery) -> tuple[Letter, ...]:
    """Return the node's estimates of itself as letters."""
    return tuple(
        Letter(
            target,
            delivery.number,
            phase,
            estimate.astype("<f8", copy=False).tobytes(),
            64 * estimate.size,
            snapshot=True,
        )
        for (phase, target), estimate in state.own.items()
    )


def post(state: GossipState, delivery: Delivery, contract: GossipContract) -> Posting:
    """Return the answer to a delivery that was taken in."""
    letters = _snapshots(state, delivery) if delivery.want_snapshot else ()
    collected = delivery.collect and state.vectors
    return Posting(
        session=state.session,
        number=delivery.number,
        phase=delivery.phase,
        received=state.received,
        dim=contract.layout.dim,
        empty=not state.vectors,
        model=state.vectors["model"] if collected else None,
        exact=state.exact if collected else b"",
        letters=(*letters, *state.pending),
    )
