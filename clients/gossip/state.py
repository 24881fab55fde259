"""What a node of a decentralized run remembers, and how it is kept as bytes.

With an operator that loses something, a node's neighbours hold an estimate y_i of its
vector z_i, and so does the node itself; differences to it are sent:

    q_i = C(z_i - y_i),   y_i += rate q_i

Of its neighbours' estimates a node keeps the sum, s_i = sum_j w_ij y_j, not every y_j.
Estimates and sums are float64, added up in the order in which the relay took the
payloads in, by round and then by sender, however late they come: so they depend on
which payloads were taken in and on nothing else.

With a lossless operator vectors travel as they are, and no estimates are kept. The same
with C(z) in the place of z where the relay asks for that (``residual=False``).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_compress.compressors import Vector
from flower_compress.wire.mail import Estimate, Letter

__all__ = ["GossipState", "Key"]

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
    unreadable : Mapping[int, int]
        Neighbours of whom it could not read a letter, with the number of the delivery
        that brought it, until the relay knows.
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
    unreadable: Mapping[int, int] = field(default_factory=dict)

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
            "unreadable": list(self.unreadable.items()),
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
    def from_bytes(cls, data: bytes | memoryview) -> GossipState | None:
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
            unreadable=dict(header.get("unreadable", ())),
            **{name: header[name] for name in _NUMBERS},
        )
