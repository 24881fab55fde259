"""One message's worth of compressed vectors as bytes.

Header, 30 bytes, little-endian:

====== ===== =========================================================
offset bytes field
====== ===== =========================================================
0      1     format version, 1
1      1     flags: 1 contract, 2 snapshot, 4 final, 8 exact arrays,
             16 greeting, 32 resynchronise, 64 refused, 128 memory
2      4     session
6      4     base: the version on which the payloads build
10     4     version of the last payload
14     4     acked: the newest version accepted from the peer
18     4     detail: CRC-32 of that version's payload; in a client's answer the
             number of inputs that its payload carries
22     4     dimension d of the vector
26     4     CRC-32 of all other bytes
====== ===== =========================================================

Then, each present only if its flag says so: the contract (length in 4 bytes, bytes),
the snapshot and the memory (4 d bytes each, float32), the exact arrays (length in 4
bytes, bytes), and the payloads up to the end. Each payload but the last is preceded by
its length in 4 bytes; their number is version - base if they are final, else 0 or 1.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from ..compressors import Vector
from ..errors import CorruptPacket
from ..links import Channel, Payload
from .framing import (
    CRC_BYTES,
    pack,
    seal,
    section,
    take_section,
    take_vector,
    unseal,
    vector_bytes,
)
from .records import array_bytes, bytes_record, find_bytes, plain_record

__all__ = [
    "FORMAT_VERSION",
    "HEADER_BYTES",
    "SESSION_KEY",
    "STYPE",
    "Header",
    "Packet",
    "array_of",
    "bytes_beside",
    "find_packet",
    "packet_record",
]

FORMAT_VERSION = 1
STYPE = "flower_compress/1"
"""Serialisation type of the Flower ``Array`` that holds a packet."""
SESSION_KEY = "flower-compress-session"
"""Key in an evaluation's ConfigRecord: whose model is to be evaluated."""

_KEY = "packet"
_HEADER = struct.Struct("<BBIIIIII")
HEADER_BYTES = _HEADER.size + CRC_BYTES

_CONTRACT, _SNAPSHOT, _FINAL, _EXACT, _GREETING, _RESYNC = 1, 2, 4, 8, 16, 32
_REFUSED, _MEMORY = 64, 128
_ONLY_FROM_SERVER = _CONTRACT | _SNAPSHOT | _FINAL | _GREETING | _REFUSED | _MEMORY
_SHORTEST_PAYLOAD = 2
_LENGTH_BYTES = 4


class Header(NamedTuple):
    """What a packet says of itself, before anything else of it is read."""

    flags: int
    session: int
    base: int
    version: int
    acked: int
    detail: int
    dim: int

    @property
    def resync(self) -> bool:
        """Whether the client asks for the contract and a snapshot."""
        return bool(self.flags & _RESYNC)

    def require_dim(self, dim: int) -> None:
        """Raise CorruptPacket unless the packet's vectors have length `dim`."""
        _require_dim(dim, self.dim)

    def require_reply(self) -> None:
        """Raise CorruptPacket if it holds what no client answers a model with."""
        if self.flags & _ONLY_FROM_SERVER:
            raise CorruptPacket(
                f"expected a client's answer, got a packet with flags {self.flags}: "
                "only a server sends contracts, snapshots, memories or final payloads"
            )


@dataclass(frozen=True, eq=False, init=False)
class Packet:
    """What one message carries.

    Parameters
    ----------
    session : int
        The run's session id, 32 bits.
    base, version : int
        The version on which the payloads build, and that of the last one.
    acked : int
        The newest version accepted from the peer.
    detail : int
        From the server: CRC-32 of the payload of that version, since a client that
        answered one message twice, having lost its state in between, made two payloads
        of one version. From a client: the number of its inputs that the payload
        carries, more than one where error feedback brings those of lost payloads.
    dim : int
        Length d of the vectors.
    payloads : tuple[Payload, ...]
        The compressed vectors.
    final : bool
        Whether the sender never takes the payloads back.
    snapshot : NDArray[np.float32], optional
        The sender's state at version `base`, shape (d,).
    memory : NDArray[np.float32], optional
        The client's memory as the server holds it at version `acked`, shape (d,), for
        a client that may have lost it.
    contract : bytes, optional
        How the two ends have agreed to talk.
    exact : bytes, optional
        Arrays that are never compressed.
    greeting : bool
        Whether this is the server's greeting, or the answer to it.
    resync : bool
        Whether the client asks for the contract and a snapshot.
    refused : bool
        Whether the server refused the client's last update.
    """

    session: int
    base: int = 0
    version: int = 0
    acked: int = 0
    detail: int = 0
    dim: int = 0
    payloads: tuple[Payload, ...] = ()
    final: bool = False
    snapshot: Vector | None = None
    contract: bytes | None = None
    exact: bytes | None = None
    greeting: bool = False
    resync: bool = False
    refused: bool = False
    memory: Vector | None = None

    def __init__(
        self,
        session: int,
        base: int = 0,
        version: int = 0,
        acked: int = 0,
        detail: int = 0,
        dim: int = 0,
        payloads: tuple[Payload, ...] = (),
        final: bool = False,
        snapshot: Vector | None = None,
        contract: bytes | None = None,
        exact: bytes | None = None,
        greeting: bool = False,
        resync: bool = False,
        refused: bool = False,
        memory: Vector | None = None,
    ) -> None:
        # The one that a frozen class is given takes three times as long.
        self.__dict__.update(
            session=session,
            base=base,
            version=version,
            acked=acked,
            detail=detail,
            dim=dim,
            payloads=payloads,
            final=final,
            snapshot=snapshot,
            contract=contract,
            exact=exact,
            greeting=greeting,
            resync=resync,
            refused=refused,
            memory=memory,
        )

    @property
    def data(self) -> bytes:
        """The packet as bytes."""
        # Kept by hand: a cached_property of Python 3.11 takes a lock.
        data: bytes | None = self.__dict__.get("_data")
        if data is None:
            data = self.__dict__["_data"] = self._write()
        return data

    def _write(self) -> bytes:
        flags = (
            _CONTRACT * (self.contract is not None)
            | _SNAPSHOT * (self.snapshot is not None)
            | _FINAL * self.final
            | _EXACT * (self.exact is not None)
            | _GREETING * self.greeting
            | _RESYNC * self.resync
            | _REFUSED * self.refused
            | _MEMORY * (self.memory is not None)
        )
        header = pack(
            _HEADER,
            FORMAT_VERSION,
            flags,
            self.session,
            self.base,
            self.version,
            self.acked,
            self.detail,
            self.dim,
        )
        body: list[bytes | memoryview] = []
        if self.contract is not None:
            body += section(self.contract)
        for vector in (self.snapshot, self.memory):
            if vector is not None:
                body.append(vector_bytes(vector))
        if self.exact is not None:
            body += section(self.exact)
        for payload in self.payloads[:-1]:
            body += section(payload.data)
        if self.payloads:
            body.append(self.payloads[-1].data)
        return seal(header, body)

    @property
    def payload_bits(self) -> int:
        """Exact bits of the vectors: payloads, snapshots and exact arrays."""
        num_bits = 8 * (self.snapshot_bytes + len(self.exact or b""))
        for payload in self.payloads:
            num_bits += payload.num_bits
        return num_bits

    @property
    def snapshot_bytes(self) -> int:
        """Bytes of the dense vectors: snapshot and memory."""
        num_bytes = 0
        for vector in (self.snapshot, self.memory):
            if vector is not None:
                num_bytes += vector.nbytes
        return num_bytes

    def on(self, channel: Channel) -> Packet:
        """Return the packet with its payloads on a channel, each at its version."""
        if not self.payloads:
            return self
        version = self.version - len(self.payloads)
        payloads = []
        for payload in self.payloads:
            version += 1
            payloads.append(payload.on(channel.at(version)))
        packet: Packet = object.__new__(Packet)
        packet.__dict__.update(self.__dict__, payloads=tuple(payloads))
        return packet

    def require_dim(self, dim: int) -> None:
        """Raise CorruptPacket unless the packet's vectors have length `dim`."""
        _require_dim(dim, self.dim)

    @classmethod
    def parse(
        cls, data: bytes, check: Callable[[Header], None] | None = None
    ) -> Packet:
        """Read a packet; its payloads are decoded when they are used.

        So check :meth:`require_dim` first: that bounds what a payload may allocate.

        Parameters
        ----------
        data : bytes
            The packet.
        check : Callable[[Header], None], optional
            Called before anything behind the header is read; raises an error for a
            packet that is not to be.

        Raises
        ------
        CorruptPacket
            If the bytes are damaged, or are no packet.
        """
        numbers, rest = unseal(_HEADER, data, FORMAT_VERSION, "packet")
        header = Header(*numbers[1:])
        if check is not None:
            check(header)
        flags, session, base, version, acked, detail, dim = header
        contract, exact, snapshot, memory = None, None, None, None
        if flags & _CONTRACT:
            contract, rest = take_section(rest)
        if flags & _SNAPSHOT:
            snapshot, rest = take_vector(rest, dim)
        if flags & _MEMORY:
            memory, rest = take_vector(rest, dim)
        if flags & _EXACT:
            exact, rest = take_section(rest)
        final = bool(flags & _FINAL)
        if version < base:
            raise CorruptPacket(f"version {version} lies before its base {base}")
        count = version - base if final else int(len(rest) > 0)
        if count and len(rest) < count * (_LENGTH_BYTES + _SHORTEST_PAYLOAD) - 4:
            raise CorruptPacket(f"expected {count} payloads, got {len(rest)} bytes")
        payloads = []
        for _ in range(count - 1):
            payload, rest = take_section(rest)
            payloads.append(_payload(payload, dim))
        if count:
            payloads.append(_payload(bytes(rest), dim))
        elif len(rest):
            raise CorruptPacket(f"{len(rest)} bytes too many at the end of a packet")
        packet = cls(
            session,
            base,
            version,
            acked,
            detail,
            dim,
            tuple(payloads),
            final,
            snapshot,
            contract,
            exact,
            bool(flags & _GREETING),
            bool(flags & _RESYNC),
            bool(flags & _REFUSED),
            memory,
        )
        packet.__dict__["_data"] = data
        return packet


def _require_dim(expected: int, got: int) -> None:
    if got != expected:
        raise CorruptPacket(
            f"expected a packet of vectors of length {expected}, got {got}"
        )


def _payload(data: bytes, dim: int) -> Payload:
    if len(data) < _SHORTEST_PAYLOAD:
        raise CorruptPacket(f"a payload has at least 2 bytes, got {len(data)}")
    return Payload(data, dim)


def find_packet(content: RecordDict) -> tuple[str, bytes] | None:
    """Return the record key and the bytes of the packet in `content`, if any."""
    return find_bytes(content, _KEY, STYPE)


def bytes_beside(content: RecordDict) -> int:
    """Return the size of the arrays in `content` that are no packet, in bytes."""
    found = find_packet(content)
    return array_bytes(content) - (0 if found is None else len(found[1]))


def packet_record(packet: Packet, *, plain: bool = False) -> ArrayRecord | ConfigRecord:
    """Return a record that holds the packet's bytes.

    Parameters
    ----------
    packet : Packet
        The packet.
    plain : bool (default: False)
        Whether whoever receives it knows it without an array around it, which takes
        fewer objects. A long one has an array in any case.
    """
    record = plain_record(STYPE, packet.data) if plain else None
    return array_of(packet.data) if record is None else record


def array_of(data: bytes) -> ArrayRecord:
    """Return a record with one array, which holds a packet's bytes."""
    return bytes_record(_KEY, STYPE, data)
