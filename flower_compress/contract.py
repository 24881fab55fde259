"""How server and client have agreed to talk, sent once with the first model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from .errors import CorruptPacket
from .layout import Layout
from .links import Link, get_link

__all__ = ["PROTOCOL", "Contract"]

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
    """

    layout: Layout
    uplink: Link
    downlink_rate: float | None
    seed: int

    def to_bytes(self) -> bytes:
        """Return the contract as JSON."""
        config = {
            "protocol": PROTOCOL,
            "layout": self.layout.config(),
            "uplink": self.uplink.config(),
            "downlink_rate": self.downlink_rate,
            "seed": self.seed,
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
    try:
        config = json.loads(data)
        protocol = config["protocol"]
        if protocol != PROTOCOL:
            raise CorruptPacket(
                f"expected protocol {PROTOCOL}, got {protocol}: install the same "
                "major version of flower-compress at both ends"
            )
        rate = config["downlink_rate"]
        return Contract(
            layout=Layout.from_config(config["layout"]),
            uplink=get_link(config["uplink"]),
            downlink_rate=None if rate is None else float(rate),
            seed=int(config["seed"]),
        )
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
