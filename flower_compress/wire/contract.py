"""How server and client have agreed to talk, sent once with the first model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

from ..errors import CorruptPacket, shown
from ..links import Channel, Link, get_link
from ..streams import Purpose, Stream
from .agreement import Agreement
from .first_model import is_term
from .layout import Layout

__all__ = ["BY_NODE", "Contract"]

BY_NODE = {"identities": "node"}
"""Term of a run in which a client is what its node id says. The greeting has it too."""

_MOST_GROUPS = 1 << 64
_MOST_KEPT = 1 << 12
"""Of the channels that one end is asked for."""


@dataclass(frozen=True)
class Contract(Agreement):
    """What a client needs to know to decode and to answer.

    So server and client need no matching configuration.

    Parameters
    ----------
    layout : Layout
        The model's arrays.
    uplink : Link
        The link on which the client answers.
    downlink_rate : float, optional
        Rate of the memory that the client keeps of what it receives: 1 where it
        receives updates, None where it keeps nothing.
    seed : int
        Seed of the run.
    downlink_groups : int or "client"
        Clients i and j share a downlink if i = j modulo this number; or each has one
        of its own. Tells the client which stream its payloads were drawn from.
    downlink : Link, optional
        The link on which the client receives, where its operators differ by array.
    by_node : bool (default: False)
        Whether a client's identity is its node id, whatever else it could be.
    held : bool
        Whether the client may be asked to evaluate the model that it trained on last,
        and so has to keep it where its downlink needs none.
    first_model : str, optional
        What a packet with a contract and no snapshot begins with: see
        :mod:`flower_compress.wire.first_model`.
    """

    layout: Layout
    uplink: Link
    downlink_rate: float | None
    seed: int
    downlink_groups: int | Literal["client"] = 1
    downlink: Link | None = None
    by_node: bool = False
    held: bool = False
    first_model: str | None = None

    @cached_property
    def num_kept_vectors(self) -> int:
        """How many vectors of float32 a client remembers once its links have begun."""
        rate = self.uplink.memory_rate(self.layout.dim)
        sends = rate is not None or self.uplink.kind == "error-feedback"
        return int(self.downlink_rate is not None) + int(sends)

    def uplink_channel(self, identity: int) -> Channel:
        """Return the channel of a client's answers."""
        channel = self._uplink_channels.get(identity)
        if channel is None:
            channel = self._uplink_channel.at_index(identity)
            if len(self._uplink_channels) < _MOST_KEPT:
                self._uplink_channels[identity] = channel
        return channel

    def downlink_channel(self, identity: int) -> Channel:
        """Return the channel of what a client receives."""
        groups = self.downlink_groups
        index = identity if groups == "client" else identity % groups
        return (
            self._downlink_channel.at_index(index) if index else self._downlink_channel
        )

    @cached_property
    def _uplink_channels(self) -> dict[int, Channel]:
        return {}

    @cached_property
    def _uplink_channel(self) -> Channel:
        stream = Stream(self.seed, Purpose.UPLINK)
        return self.uplink.channel(stream, self.layout.sizes)

    @cached_property
    def _downlink_channel(self) -> Channel:
        stream = Stream(self.seed, Purpose.DOWNLINK)
        if self.downlink is not None:
            return self.downlink.channel(stream, self.layout.sizes)
        return Channel(stream, self.layout.sizes)

    def _terms(self) -> dict[str, Any]:
        terms: dict[str, Any] = {
            "uplink": self.uplink.config(),
            "downlink_rate": self.downlink_rate,
            "downlink_groups": self.downlink_groups,
        }
        if self.downlink is not None:
            terms["downlink"] = self.downlink.config()
        if self.held:
            terms["held"] = True
        if self.first_model is not None:
            terms["first_model"] = self.first_model
        return {**terms, **BY_NODE} if self.by_node else terms

    @classmethod
    def _of(cls, layout: Layout, seed: int, terms: dict[str, Any]) -> Self:
        rate, downlink = terms["downlink_rate"], terms.get("downlink")
        (key, by_node), *_ = BY_NODE.items()
        if terms.get(key, by_node) != by_node:
            raise CorruptPacket(
                f"expected {key} to be {by_node!r}, got {shown(terms[key])}"
            )
        first = terms.get("first_model")
        if first is not None and not is_term(first):
            raise CorruptPacket(f"expected a first model's digest, got {shown(first)}")
        if rate is not None and not 0.0 <= rate <= 1.0:
            raise CorruptPacket(f"expected a rate in [0, 1], got {shown(rate)}")
        return cls(
            layout=layout,
            uplink=get_link(terms["uplink"]).bind(layout.shapes),
            downlink_rate=None if rate is None else float(rate),
            seed=seed,
            downlink_groups=_groups(terms["downlink_groups"]),
            downlink=(
                None if downlink is None else get_link(downlink).bind(layout.shapes)
            ),
            by_node=key in terms,
            held=bool(terms.get("held", False)),
            first_model=first,
        )


def _groups(value: object) -> int | Literal["client"]:
    if value == "client":
        return "client"
    if type(value) is int and 1 <= value <= _MOST_GROUPS:
        return value
    raise CorruptPacket(f'expected a number of groups or "client", got {shown(value)}')
