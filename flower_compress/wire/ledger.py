"""Every byte counted once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from operator import index
from typing import Literal, Self

from .measures import is_measuring, measure_packet
from .packet import Packet
from .records import bytes_objects

__all__ = ["Direction", "EdgeLedger", "Ledger", "Traffic", "in_units"]

# Of an MCM run at d = 65, with and without an array around each packet: 34.2 and 26.5
# kB a device and round of 12 and of 8 objects, 1.6 kB in each 3 s of it while the
# device asks for messages. FedAvg's messages, of 5.4 MB, have the share beyond that.
_MESSAGE_BYTES, _OBJECT_BYTES, _SHARE = 2_900, 1_920, 0.06
_ARRAY_OBJECTS = 6
"""A message, its RecordDict, a config or metrics, an ArrayRecord, an array, a chunk."""

Direction = Literal["uplink", "downlink"]
_TOTALS = ("uplink", "downlink", "evaluation_uplink", "evaluation_downlink")


@dataclass(slots=True)
class Traffic:
    """What went one way, summed over clients.

    Attributes
    ----------
    messages : int
        Number of packets.
    num_bytes : int
        All bytes of the arrays in the messages: payload and framing.
    payload_bits : int
        Exact bits of the vectors: symbols, scales, snapshots, exact arrays; and all of
        the arrays that travel beside a packet.
    snapshot_bytes : int
        Bytes of dense snapshots, a part of the payload.
    objects : int
        Of how many objects Flower makes the messages: each is a request that sends it
        and one that fetches it.
    entropy_bits, formula_bits : int
        What the payloads would take by the entropy of their symbols, and by the papers'
        formulas, the rest of the payload bits as it is; 0 unless it is asked for. See
        :mod:`flower_compress.wire.measures`.
    """

    messages: int = 0
    num_bytes: int = 0
    payload_bits: int = 0
    snapshot_bytes: int = 0
    objects: int = 0
    entropy_bits: int = 0
    formula_bits: int = 0

    @property
    def envelope_bytes(self) -> int:
        """An estimate of what Flower and the network put around `num_bytes`.

        2,900 bytes a message, 1,920 an object and 6 % of what is in them, as measured
        on the links of devices with TLS and node authentication (flwr 1.42): the
        objects' own headers, requests, TLS, TCP and its acknowledgements. What a device
        sends while it waits, and heartbeats, is not in it.
        """
        fixed = _MESSAGE_BYTES * self.messages + _OBJECT_BYTES * self.objects
        return fixed + round(_SHARE * self.num_bytes)

    @property
    def framing_bytes(self) -> int:
        """Headers, checksums, contracts and padding."""
        return self.num_bytes - self.payload_bits // 8

    def numbers(self) -> dict[str, int]:
        """Return what is counted by short names, for tables and plots."""
        return {
            "messages": self.messages,
            "bytes": self.num_bytes,
            "payload-bits": self.payload_bits,
            "dense-bytes": self.snapshot_bytes,
            "envelope-bytes": self.envelope_bytes,
        }

    def copy(self) -> Traffic:
        """Return what is counted so far, which later messages do not change."""
        return replace(self)

    def __sub__(self, before: Traffic) -> Traffic:
        """Return what was counted since `before`."""
        since = (getattr(self, f.name) - getattr(before, f.name) for f in fields(self))
        return Traffic(*since)

    def add(
        self,
        num_bytes: int,
        payload_bits: int,
        snapshot_bytes: int = 0,
        objects: int = _ARRAY_OBJECTS,
        measured: tuple[int, int] = (0, 0),
    ) -> None:
        """Count one message."""
        self.messages += 1
        self.objects += objects
        self.num_bytes += num_bytes
        self.payload_bits += payload_bits
        self.snapshot_bytes += snapshot_bytes
        entropy_bits, formula_bits = measured
        self.entropy_bits += entropy_bits
        self.formula_bits += formula_bits


@dataclass(slots=True)
class Ledger:
    """Bytes and bits of a run, up and down, in total and of the current round.

    Counted at the server, when a message is handed to Flower and when a reply comes
    back. Flower's own metadata, metrics and configs are not counted.

    Attributes
    ----------
    uplink, downlink : Traffic
        Everything.
    evaluation_uplink, evaluation_downlink : Traffic
        What evaluations took of that.
    round_uplink, round_downlink : Traffic
        Everything since the round began, its evaluation included.
    round_evaluation_uplink, round_evaluation_downlink : Traffic
        What the round's evaluation took of that.
    """

    uplink: Traffic = field(default_factory=Traffic)
    downlink: Traffic = field(default_factory=Traffic)
    evaluation_uplink: Traffic = field(default_factory=Traffic)
    evaluation_downlink: Traffic = field(default_factory=Traffic)
    round_uplink: Traffic = field(default_factory=Traffic)
    round_downlink: Traffic = field(default_factory=Traffic)
    round_evaluation_uplink: Traffic = field(default_factory=Traffic)
    round_evaluation_downlink: Traffic = field(default_factory=Traffic)

    def begin_round(self) -> None:
        """Start counting a new round."""
        self.round_uplink, self.round_downlink = Traffic(), Traffic()
        self.round_evaluation_uplink = Traffic()
        self.round_evaluation_downlink = Traffic()

    def record(
        self,
        direction: Direction,
        packet: Packet,
        *,
        evaluation: bool = False,
        plain: bool = False,
    ) -> None:
        """Count one packet, in a message with a config; `plain` without an array."""
        objects = 2 + bytes_objects(len(packet.data), plain=plain)
        self.record_bytes(
            direction,
            len(packet.data),
            packet.payload_bits,
            packet.snapshot_bytes,
            measure_packet(packet),
            evaluation=evaluation,
            objects=objects + 1,
        )

    def record_bytes(
        self,
        direction: Direction,
        num_bytes: int,
        payload_bits: int,
        snapshot_bytes: int = 0,
        measured: tuple[int, int] | None = None,
        *,
        evaluation: bool = False,
        objects: int = _ARRAY_OBJECTS,
    ) -> None:
        """Count one message by its numbers; what is not measured counts as it is."""
        if measured is None:
            measured = (payload_bits, payload_bits) if is_measuring() else (0, 0)
        for traffic in self._of(direction, evaluation):
            traffic.add(num_bytes, payload_bits, snapshot_bytes, objects, measured)

    def record_extra(
        self, direction: Direction, num_bytes: int, *, evaluation: bool = False
    ) -> None:
        """Count arrays that travel beside the packet of a message, as they are."""
        for traffic in self._of(direction, evaluation):
            traffic.num_bytes += num_bytes
            traffic.payload_bits += 8 * num_bytes
            if is_measuring():
                traffic.entropy_bits += 8 * num_bytes
                traffic.formula_bits += 8 * num_bytes

    def _of(self, direction: Direction, evaluation: bool) -> list[Traffic]:
        """Return the traffic of a direction: in total, of the round, and apart."""
        if direction == "uplink":
            counted = [self.uplink, self.round_uplink]
            apart = [self.evaluation_uplink, self.round_evaluation_uplink]
        else:
            counted = [self.downlink, self.round_downlink]
            apart = [self.evaluation_downlink, self.round_evaluation_downlink]
        return counted + apart * evaluation

    @classmethod
    def from_dict(cls, totals: Mapping[str, Mapping[str, int]]) -> Ledger:
        """Rebuild a ledger from its totals."""
        return cls(*(_traffic(totals.get(name, {})) for name in _TOTALS))

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Return the totals as JSON-able numbers."""
        return {name: asdict(getattr(self, name)) for name in _TOTALS}


@dataclass(slots=True)
class EdgeLedger:
    """What went over each edge of a decentralized run, each time it was sent.

    Attributes
    ----------
    edges : dict[tuple[int, int], Traffic]
        By sender and receiver.
    """

    edges: dict[tuple[int, int], Traffic] = field(default_factory=dict)

    def record(
        self,
        sender: int,
        receiver: int,
        num_bytes: int,
        payload_bits: int,
        snapshot_bytes: int = 0,
        measured: tuple[int, int] = (0, 0),
    ) -> None:
        """Count one letter."""
        traffic = self.edges.setdefault((sender, receiver), Traffic())
        traffic.add(num_bytes, payload_bits, snapshot_bytes, 0, measured)

    @property
    def total(self) -> Traffic:
        """The sum over all edges."""
        return _sum(self.edges.values())

    def sent_by(self, node: int) -> Traffic:
        """Return the sum over the edges that leave a node."""
        return _sum(t for (sender, _), t in self.edges.items() if sender == node)

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[int, int, Mapping[str, int]]]) -> Self:
        """Rebuild a ledger from :meth:`as_rows`."""
        return cls({(i, j): _traffic(traffic) for i, j, traffic in rows})

    def as_rows(self) -> list[tuple[int, int, dict[str, int]]]:
        """Return sender, receiver and numbers of each edge, JSON-able, in order."""
        return [(i, j, asdict(t)) for (i, j), t in sorted(self.edges.items())]


def _traffic(numbers: Mapping[str, int]) -> Traffic:
    return Traffic(**{name: index(number) for name, number in numbers.items()})


def in_units(num_bytes: int) -> str:
    """Return a number of bytes for people, in B, kB, MB or GB of powers of 1000."""
    number, units = float(num_bytes), iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    for larger in units:
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.0f} B" if unit == "B" else f"{number:.4g} {unit}"


def _sum(parts: Iterable[Traffic]) -> Traffic:
    total = Traffic()
    for part in parts:
        total.messages += part.messages
        total.num_bytes += part.num_bytes
        total.payload_bits += part.payload_bits
        total.snapshot_bytes += part.snapshot_bytes
        total.objects += part.objects
        total.entropy_bits += part.entropy_bits
        total.formula_bits += part.formula_bits
    return total
