"""Estimated time of a round on a network described in a word: ``10/50mbit,40ms``.

The model is the plainest that separates the directions. Every client has the same
access link, and the server's is never the bottleneck:

    seconds = latency + 8 downlink_bytes / downlink_rate      the model arrives
            + latency + 8 uplink_bytes / uplink_rate          the update arrives
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from flower_compress.errors import ConfigurationError

__all__ = ["Network", "NetworkFormatError", "parse_network", "round_seconds"]

# SI prefixes, as network rates have: 1 mbit = 10^6 bit per second.
_RATES: Final = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_TIMES: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_NUMBER: Final = r"(\d+(?:\.\d*)?|\.\d+)"
_PATTERN: Final = re.compile(
    rf"{_NUMBER}\s*([kmg]?bit)?"
    rf"(?:\s*/\s*{_NUMBER}\s*([kmg]?bit))?"
    rf"(?:\s*,\s*{_NUMBER}\s*(us|ms|s))?",
    re.ASCII,
)


class NetworkFormatError(ConfigurationError):
    """A text that describes no network."""

    def __init__(self, text: str, problem: str) -> None:
        super().__init__(
            f"expected a network as '10/50mbit,40ms' (uplink/downlink rate of each "
            f"client, one-way latency) or '100mbit' (the same rate both ways, no "
            f"latency), came {text!r}: {problem}; rates are in "
            f"{', '.join(_RATES)} (per second), latencies in {', '.join(_TIMES)}"
        )


@dataclass(frozen=True, slots=True)
class Network:
    """The access link of every client.

    Attributes
    ----------
    uplink_rate, downlink_rate : float
        Bits per second, positive and finite.
    latency : float
        Seconds one way, not negative, finite.

    Raises
    ------
    ConfigurationError
        A value out of its range.
    """

    uplink_rate: float
    downlink_rate: float
    latency: float = 0.0

    def __post_init__(self) -> None:
        for direction, rate in (
            ("uplink", self.uplink_rate),
            ("downlink", self.downlink_rate),
        ):
            if not (math.isfinite(rate) and rate > 0.0):
                raise ConfigurationError(
                    f"expected a positive finite {direction} rate in bits per second, "
                    f"came {rate}"
                )
        if not (math.isfinite(self.latency) and self.latency >= 0.0):
            raise ConfigurationError(
                f"expected a finite latency of 0 s or more, came {self.latency}"
            )

    def __str__(self) -> str:
        """Return the network in the form that :func:`parse_network` reads."""
        up, down = _rate_text(self.uplink_rate), _rate_text(self.downlink_rate)
        return f"{up}/{down},{self.latency * 1e3:.12g}ms"


def parse_network(text: str) -> Network:
    """Read a network from text.

    ``UP/DOWNunit[,LATENCYunit]`` or ``RATEunit[,LATENCYunit]``; the uplink may have
    a unit of its own, ``512kbit/10mbit``. Case and spaces do not matter.

    Raises
    ------
    NetworkFormatError
        The text has another form, or a rate is zero.

    Examples
    --------
    >>> parse_network("10/50mbit,40ms")
    Network(uplink_rate=10000000.0, downlink_rate=50000000.0, latency=0.04)
    """
    match = _PATTERN.fullmatch(text.strip().lower())
    if match is None:
        raise NetworkFormatError(text, "it has another form")
    up, up_unit, down, down_unit, latency, latency_unit = match.groups()
    # In '10/50mbit' the one unit is of both rates; in '10mbit' the one rate is.
    down_unit = down_unit or up_unit
    if down_unit is None:
        raise NetworkFormatError(text, "the rate has no unit")
    uplink_rate = float(up) * _RATES[up_unit or down_unit]
    downlink_rate = float(down or up) * _RATES[down_unit]
    if not (0.0 < uplink_rate < math.inf and 0.0 < downlink_rate < math.inf):
        raise NetworkFormatError(text, "a rate is zero or not finite")
    seconds = float(latency) * _TIMES[latency_unit] if latency else 0.0
    if not math.isfinite(seconds):
        raise NetworkFormatError(text, "the latency is not finite")
    return Network(uplink_rate, downlink_rate, seconds)


def round_seconds(
    network: Network, *, uplink_bytes: float, downlink_bytes: float
) -> float:
    """Return the estimated seconds of one synchronous round, computation left out.

    Parameters
    ----------
    network : Network
        The clients' access links.
    uplink_bytes, downlink_bytes : float
        Bytes **per client** in this round (a mean may be fractional). All clients
        send at the same time, so the round takes as long as one of them.

    Raises
    ------
    ConfigurationError
        A number of bytes is negative.
    """
    if not (uplink_bytes >= 0.0 and downlink_bytes >= 0.0):
        raise ConfigurationError(
            f"expected bytes of 0 or more, came {uplink_bytes} up and "
            f"{downlink_bytes} down"
        )
    uplink = 8.0 * uplink_bytes / network.uplink_rate
    downlink = 8.0 * downlink_bytes / network.downlink_rate
    return 2.0 * network.latency + uplink + downlink


def _rate_text(rate: float) -> str:
    unit = next((u for u in ("gbit", "mbit", "kbit") if _RATES[u] <= rate), "bit")
    return f"{rate / _RATES[unit]:.12g}{unit}"
