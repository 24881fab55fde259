"""What travels between a node of a decentralized run and the relay.

The relay sends a node a *delivery*: the payloads of its neighbours that it has not
confirmed yet, and what it is to do. The node answers with a *posting*: its own
payload, which the relay hands on as it is. Both are bytes in one array of a message,
all numbers little-endian. See ``docs/decentralized.md`` for every field.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from flwr.app import ArrayRecord, RecordDict
from numpy.typing import NDArray

from ..compressors import Vector
from ..errors import CorruptPacket
from .framing import (
    pack,
    seal,
    section,
    take,
    take_section,
    take_vector,
    unseal,
    vector_bytes,
)
from .records import bytes_record, find_bytes

__all__ = [
    "EVERYONE",
    "MAIL_STYPE",
    "ZEROS_METRIC",
    "Delivery",
    "Estimate",
    "Letter",
    "Posting",
    "find_mail",
    "mail_record",
    "payload_crc",
]

MAIL_STYPE = "flower_compress.mail/1"
"""The stype of the array that holds a delivery or a posting."""

EVERYONE = 0xFFFFFFFF
"""As a target: all neighbours of the sender."""

ZEROS_METRIC = "model-zeros"
"""Metric of a node: the share of zeros in z, the model that it posts, in [0, 1]."""

Estimate = NDArray[np.float64]
"""An estimate of a node's vector, shape (d,)."""

_FORMAT = 1
_KEY = "mail"
_DELIVERY = struct.Struct("<BBIIIBIIIIId")
_POSTING = struct.Struct("<BBIIBII")
_LETTER = struct.Struct("<IIBBQI")

# Of a delivery.
_CONTRACT, _MODEL, _TRAIN, _COLLECT = 1, 2, 4, 8
_REBUILD, _WANT_SNAPSHOT, _FORGET, _EVALUATE = 16, 32, 64, 128
# Of a letter.
_SNAPSHOT, _NOTICE = 1, 2
# Of a posting.
_POSTED_MODEL, _RESYNC, _EMPTY = 1, 2, 4


@dataclass(frozen=True, slots=True)
class Letter:
    """A payload, or a snapshot, from one node to another.

    Parameters
    ----------
    node : int
        In a delivery the sender; in a posting the receiver, or :data:`EVERYONE`.
    version : int
        Number of the delivery that it answers.
    phase : int
        Which of the algorithm's vectors it belongs to.
    data : bytes
        The payload's bytes; of a snapshot the estimate, float64.
    num_bits : int
        Exact length of what `data` carries, in bits, as the sender counts it.
    snapshot : bool
        Whether it replaces what the receiver holds of the sender.
    notice : bool
        In a posting: that a letter of `node` could not be read. It carries nothing.
    """

    node: int
    version: int
    phase: int
    data: bytes
    num_bits: int
    snapshot: bool = False
    notice: bool = False

    @property
    def kind(self) -> int:
        """0 for a payload, 1 for a snapshot, 2 for a notice."""
        return _NOTICE if self.notice else _SNAPSHOT * self.snapshot

    def estimate(self, dim: int) -> Estimate:
        """Return a snapshot's vector, shape (d,).

        Raises
        ------
        CorruptPacket
            If it has another length, or holds NaN or infinity.
        """
        if len(self.data) != 8 * dim:
            raise CorruptPacket(
                f"expected a snapshot of {8 * dim} bytes, got {len(self.data)}"
            )
        vector = np.frombuffer(self.data, dtype="<f8").astype(np.float64)
        if not np.isfinite(vector).all():
            raise CorruptPacket("a snapshot holds NaN or infinity")
        return vector


@dataclass(frozen=True, eq=False)
class Delivery:
    """From the relay to a node.

    Parameters
    ----------
    session : int
        Id of the run.
    number : int
        Counts the deliveries of a run; versions of payloads are such numbers.
    round : int
        Number of the round, from 1.
    phase : int
        Which of the algorithm's vectors is exchanged.
    acked, crc : int
        Version of the node's last payload that the relay took in, and the CRC-32 of
        what it took in; 0 if none.
    first : int
        Running number of the first letter: how many the relay had for the node before.
    answered : int
        Number of the last delivery of which the relay took the node's answer in, 0 if
        none: a node whose state is older has been taken back.
    dim : int
        Length d of the vectors.
    step_size : float
        eta of this round.
    train, collect, evaluate : bool
        Whether the node is to take a step, to send its model, to evaluate it.
    rebuild : bool
        Whether the node is to forget what it holds of its neighbours.
    want_snapshot : bool
        Whether it is to send its own estimates as they are.
    forget : bool
        Whether the relay has lost track of what it took in: the node's neighbours hold
        nothing of it.
    contract : bytes, optional
        See :class:`~flower_compress.wire.gossip_contract.GossipContract`.
    exact : bytes
        The initial model's exact arrays; they come with the contract only.
    model : NDArray[np.float32], optional
        The common initial model, shape (d,).
    letters : tuple[Letter, ...]
        Payloads and snapshots of neighbours, in the order in which they count.
    """

    session: int
    number: int
    round: int = 0
    phase: int = 0
    acked: int = 0
    crc: int = 0
    first: int = 0
    answered: int = 0
    dim: int = 0
    step_size: float = 0.0
    train: bool = False
    collect: bool = False
    evaluate: bool = False
    rebuild: bool = False
    want_snapshot: bool = False
    forget: bool = False
    contract: bytes | None = None
    exact: bytes = b""
    model: Vector | None = None
    letters: tuple[Letter, ...] = ()

    @cached_property
    def data(self) -> bytes:
        """The delivery as bytes."""
        flags = (
            _CONTRACT * (self.contract is not None)
            | _MODEL * (self.model is not None)
            | _TRAIN * self.train
            | _COLLECT * self.collect
            | _REBUILD * self.rebuild
            | _WANT_SNAPSHOT * self.want_snapshot
            | _FORGET * self.forget
            | _EVALUATE * self.evaluate
        )
        header = pack(
            _DELIVERY,
            _FORMAT,
            flags,
            self.session,
            self.number,
            self.round,
            self.phase,
            self.acked,
            self.crc,
            self.first,
            self.answered,
            self.dim,
            self.step_size,
        )
        body: list[bytes | memoryview] = []
        if self.contract is not None:
            body += (*section(self.contract), *section(self.exact))
        if self.model is not None:
            body.append(vector_bytes(self.model))
        return seal(header, (*body, *_letter_parts(self.letters)))

    @classmethod
    def parse(cls, data: bytes) -> Delivery:
        """Read a delivery.

        Raises
        ------
        CorruptPacket
            If the bytes are damaged, or are no delivery.
        """
        numbers, rest = unseal(_DELIVERY, data, _FORMAT, "delivery")
        _, flags, session, number, round_, phase, *more = numbers
        acked, crc, first, answered, dim, eta = more
        contract, model, exact = None, None, b""
        if flags & _CONTRACT:
            contract, rest = take_section(rest)
            exact, rest = take_section(rest)
        if flags & _MODEL:
            model, rest = take_vector(rest, dim)
        return cls(
            session,
            number,
            round_,
            phase,
            acked,
            crc,
            first,
            answered,
            dim,
            eta,
            train=bool(flags & _TRAIN),
            collect=bool(flags & _COLLECT),
            evaluate=bool(flags & _EVALUATE),
            rebuild=bool(flags & _REBUILD),
            want_snapshot=bool(flags & _WANT_SNAPSHOT),
            forget=bool(flags & _FORGET),
            contract=contract,
            exact=exact,
            model=model,
            letters=tuple(_take_letters(rest)),
        )


@dataclass(frozen=True, eq=False)
class Posting:
    """From a node to the relay.

    Parameters
    ----------
    session, number : int
        Of the delivery that it answers.
    phase : int
        Of that delivery.
    received : int
        How many letters the node has had so far.
    dim : int
        Length d of the vectors.
    resync : bool
        The node lacks what the delivery builds on.
    empty : bool
        It has no model yet.
    model : NDArray[np.float32], optional
        Its model, shape (d,), where it was to be collected.
    exact : bytes
        The model's exact arrays.
    letters : tuple[Letter, ...]
        Its payload, or one for each receiver; before them snapshots, if asked for, and
        notices.
    """

    session: int
    number: int
    phase: int = 0
    received: int = 0
    dim: int = 0
    resync: bool = False
    empty: bool = False
    model: Vector | None = None
    exact: bytes = b""
    letters: tuple[Letter, ...] = ()

    @cached_property
    def data(self) -> bytes:
        """The posting as bytes."""
        flags = (
            _POSTED_MODEL * (self.model is not None)
            | _RESYNC * self.resync
            | _EMPTY * self.empty
        )
        header = pack(
            _POSTING,
            _FORMAT,
            flags,
            self.session,
            self.number,
            self.phase,
            self.received,
            self.dim,
        )
        body: tuple[bytes | memoryview, ...] = ()
        if self.model is not None:
            body = (vector_bytes(self.model), *section(self.exact))
        return seal(header, (*body, *_letter_parts(self.letters)))

    @cached_property
    def crc(self) -> int:
        """CRC-32 of the payloads, by which the relay acknowledges them."""
        return payload_crc(self.letters)

    @classmethod
    def parse(cls, data: bytes) -> Posting:
        """Read a posting.

        Raises
        ------
        CorruptPacket
            If the bytes are damaged, or are no posting.
        """
        numbers, rest = unseal(_POSTING, data, _FORMAT, "posting")
        _, flags, session, number, phase, received, dim = numbers
        model, exact = None, b""
        if flags & _POSTED_MODEL:
            model, rest = take_vector(rest, dim)
            exact, rest = take_section(rest)
        return cls(
            session,
            number,
            phase,
            received,
            dim,
            resync=bool(flags & _RESYNC),
            empty=bool(flags & _EMPTY),
            model=model,
            exact=exact,
            letters=tuple(_take_letters(rest)),
        )


def payload_crc(letters: tuple[Letter, ...]) -> int:
    """Return the CRC-32 of all payloads among `letters`, one after the other."""
    crc = 0
    for letter in letters:
        if not letter.kind:
            crc = zlib.crc32(letter.data, crc)
    return crc


def mail_record(data: bytes) -> ArrayRecord:
    """Return a record with one array, which holds a delivery or a posting."""
    return bytes_record(_KEY, MAIL_STYPE, data)


def find_mail(content: RecordDict) -> tuple[str, bytes] | None:
    """Return the record key and the bytes of the mail in `content`, if any."""
    return find_bytes(content, _KEY, MAIL_STYPE)


def _letter_parts(letters: tuple[Letter, ...]) -> Iterator[bytes]:
    for letter in letters:
        yield pack(
            _LETTER,
            letter.node,
            letter.version,
            letter.phase,
            letter.kind,
            letter.num_bits,
            len(letter.data),
        )
        yield letter.data


def _take_letters(rest: memoryview) -> Iterator[Letter]:
    while len(rest):
        if len(rest) < _LETTER.size:
            raise CorruptPacket(f"{len(rest)} bytes too many at the end of the mail")
        node, version, phase, kind, bits, size = _LETTER.unpack_from(rest)
        data, rest = take(rest[_LETTER.size :], size)
        if kind > _NOTICE:
            raise CorruptPacket(f"expected a letter of kind 0, 1 or 2, got {kind}")
        if bits > 8 * size:
            raise CorruptPacket(f"{size} bytes cannot carry {bits} bits")
        yield Letter(
            node, version, phase, data, bits, kind == _SNAPSHOT, kind == _NOTICE
        )
