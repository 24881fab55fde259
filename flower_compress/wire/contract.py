"""How server and client have agreed to talk, sent once with the first model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

from ..errors import CorruptPacket
from ..links import Channel, Link, get_link
from ..streams import Purpose, Stream
from .layout import Layout

__all__ = ["PROTOCOL", "Contract", "read_contract"]

_C = TypeVar("_C")

PROTOCOL = 1
"""Version of the protocol above the packet format."""


@dataclass(frozen=True)
class Contract:
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
    """

    layout: Layout
    uplink: Link
    downlink_rate: float | None
    seed: int
    downlink_groups: int | Literal["client"] = 1

    def uplink_channel(self, identity: int) -> Channel:
        """Return the channel of a client's answers."""
        stream = Stream(self.seed, Purpose.UPLINK, identity)
        return Channel(stream, self.layout.sizes)

    def downlink_channel(self, identity: int) -> Channel:
        """Return the channel of what a client receives."""
        groups = self.downlink_groups
        index = identity if groups == "client" else identity % groups
        stream = Stream(self.seed, Purpose.DOWNLINK, index)
        return Channel(stream, self.layout.sizes)

    def to_bytes(self) -> bytes:
        """Return the contract as JSON."""
        config = {
            "protocol": PROTOCOL,
            "layout": self.layout.config(),
            "uplink": self.uplink.config(),
            "downlink_rate": self.downlink_rate,
            "seed": self.seed,
            "downlink_groups": self.downlink_groups,
        }
        return json.dumps(config, separators=(",", ":"), sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Contract:
        """Rebuild a contract.

        Raises
        ------
        CorruptPacket
            If the bytes are no contract of this protocol.
        """
        return _parse(data)


@lru_cache(maxsize=64)
def _parse(data: bytes) -> Contract:
    return read_contract(data, _build)


def _build(config: dict[str, Any]) -> Contract:
    rate = config["downlink_rate"]
    return Contract(
        layout=Layout.from_config(config["layout"]),
        uplink=get_link(config["uplink"]),
        downlink_rate=None if rate is None else float(rate),
        seed=int(config["seed"]),
        downlink_groups=_groups(config["downlink_groups"]),
    )


def read_contract(data: bytes, build: Callable[[dict[str, Any]], _C]) -> _C:
    """Return what `build` makes of a contract's JSON.

    Raises
    ------
    CorruptPacket
        If the bytes are no such contract, or one of another protocol.
    """
    try:
        config = json.loads(data)
        protocol = config["protocol"]
        if protocol != PROTOCOL:
            raise CorruptPacket(
                f"expected protocol {PROTOCOL}, got {protocol}: install the same "
                "major version of flower-compress at both ends"
            )
        return build(config)
    except CorruptPacket:
        raise
    except (
        AttributeError,
        KeyError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise CorruptPacket(f"not a contract: {error}") from error


def _groups(value: object) -> int | Literal["client"]:
    if value == "client":
        return "client"
    if isinstance(value, int) and value >= 1:
        return value
    raise CorruptPacket(f'expected a number of groups or "client", got {value!r}')
