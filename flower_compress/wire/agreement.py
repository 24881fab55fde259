"""What two ends have agreed on, as the JSON that is sent once with the first model."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any, Self

from ..errors import CorruptPacket, shown
from .layout import Layout

__all__ = ["PROTOCOL", "Agreement"]

PROTOCOL = 1
"""Version of the protocol above the packet format."""

_MOST_BYTES = 1 << 23
_MOST_KEPT = 1 << 18
_LONGEST_REASON = 300


class Agreement(ABC):
    """A model's layout, a run's seed, and further terms.

    Subclasses are frozen dataclasses with `layout` and `seed` among their fields.
    """

    layout: Layout
    seed: int

    @abstractmethod
    def _terms(self) -> dict[str, Any]:
        """Return all but layout and seed, as what JSON can hold."""

    @classmethod
    @abstractmethod
    def _of(cls, layout: Layout, seed: int, terms: dict[str, Any]) -> Self:
        """Rebuild from layout, seed and the JSON of the terms.

        What is missing or of the wrong type may raise the errors of Python.
        """

    def to_bytes(self) -> bytes:
        """Return the contract as JSON."""
        config = {
            "protocol": PROTOCOL,
            "layout": self.layout.config(),
            "seed": self.seed,
            **self._terms(),
        }
        return json.dumps(config, separators=(",", ":"), sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Rebuild a contract.

        Raises
        ------
        CorruptPacket
            If the bytes are no such contract, or one of another protocol.
        """
        if len(data) > _MOST_BYTES:
            raise CorruptPacket(
                f"expected a contract of at most {_MOST_BYTES} bytes, got {len(data)}"
            )
        return cls._parse_once(data) if len(data) <= _MOST_KEPT else cls._parse(data)

    @classmethod
    @lru_cache(maxsize=64)
    def _parse_once(cls, data: bytes) -> Self:
        return cls._parse(data)

    @classmethod
    def _parse(cls, data: bytes) -> Self:
        try:
            config = json.loads(data)
            protocol = config["protocol"]
            if protocol != PROTOCOL:
                raise CorruptPacket(
                    f"expected protocol {PROTOCOL}, got {str(protocol)[:20]}: install "
                    "the same major version of flower-compress at both ends"
                )
            layout, seed = Layout.from_config(config["layout"]), config["seed"]
            if type(seed) is not int:
                raise CorruptPacket(
                    f"expected a whole number as seed, got {shown(seed)}"
                )
            return cls._of(layout, seed, config)
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
            reason = str(error)[:_LONGEST_REASON]
            raise CorruptPacket(f"not a contract: {reason}") from error
