"""Which algorithms take an option: sets of them that have something in common."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass

from flower_compress import Memory
from flower_compress.strategies import ALGORITHMS, DECENTRALIZED

__all__ = [
    "ADAPTIVE",
    "BUCKETED",
    "COUNTING",
    "EVERY",
    "GOSSIPING",
    "GROUPING",
    "KEEPING_DOWNLINK_MEMORIES",
    "KEEPING_SHARED_MODEL_MEMORIES",
    "KEEPING_UPLINK_MEMORIES",
    "MOMENTS_AT_CLIENTS",
    "MOMENTS_AT_THE_SERVER",
    "NOT_ADAPTIVE",
    "OF_ANY_CLIENT",
    "OF_ANY_DOWNLINK_OPERATOR",
    "OF_ANY_OPERATOR",
    "OF_GHOSTS",
    "OF_MOMENTUM",
    "OF_SIGNS",
    "PROXIMAL",
    "QUANTIZED_GOSSIP",
    "QUANTIZING",
    "QUANTIZING_SERVERS",
    "SERVING",
    "SPARSIFYING",
    "STEPPING",
    "Takers",
]

ADAPTIVE = ("amsgrad", "spars-ams", "topk", "stoc-mv", "stoc-unif", "qadam")
"""Algorithms that take Adam's steps."""
MOMENTS_AT_CLIENTS = ("qadam", "dist-ef-sgd")
"""Algorithms with clients of their own, which keep moments."""

OF_SIGNS = ("double-squeeze", "dist-ef-sgd")
"""Algorithms whose papers have a contraction, signs with a scale."""

_SPARSIFYING = tuple(name for name in ADAPTIVE if name != "amsgrad")
_ERROR_FREE = "dpsgd"
_INHERITING = "rand-mcm"  # Whose class passes mcm's arguments on.


@dataclass(frozen=True)
class Takers:
    """The algorithms that take an option.

    Attributes
    ----------
    title : str
        What they have in common.
    names : tuple[str, ...]
        Their names.
    """

    title: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.title} ({', '.join(self.names)})"


def _having(argument: str) -> tuple[str, ...]:
    """Return the algorithms whose strategy has an argument of that name."""
    makers = {**ALGORITHMS, **DECENTRALIZED}
    return tuple(
        name
        for name, maker in makers.items()
        if argument in inspect.signature(maker).parameters
    )


def _without(names: Iterable[str], *left_out: str) -> tuple[str, ...]:
    return tuple(name for name in names if name not in left_out)


EVERY = Takers("every algorithm", (*ALGORITHMS, *DECENTRALIZED))
SERVING = Takers("algorithms with a server", tuple(ALGORITHMS))
GOSSIPING = Takers("decentralized algorithms", tuple(DECENTRALIZED))

OF_ANY_CLIENT = Takers(
    "algorithms with a server that leave the client open",
    _without(ALGORITHMS, *MOMENTS_AT_CLIENTS),
)
KEEPING_UPLINK_MEMORIES = Takers(
    "algorithms with an uplink memory",
    tuple(n for n, make in ALGORITHMS.items() if isinstance(make().uplink, Memory)),
)
KEEPING_DOWNLINK_MEMORIES = Takers(
    "algorithms with a downlink memory for each client", _having("memory")
)
SPARSIFYING = Takers("algorithms that sparsify", _SPARSIFYING)
QUANTIZING = Takers(
    "algorithms that quantize",
    _without(_having("compressor"), *_SPARSIFYING, *OF_SIGNS, _ERROR_FREE),
)
BUCKETED = Takers(
    "algorithms that quantize or take signs", (*QUANTIZING.names, *OF_SIGNS)
)
QUANTIZING_SERVERS = Takers(
    "algorithms with a server that quantize",
    tuple(name for name in QUANTIZING.names if name in ALGORITHMS),
)
OF_ANY_OPERATOR = Takers(
    "algorithms with a server and any operator",
    (*QUANTIZING_SERVERS.names, *OF_SIGNS, "spars-ams"),
)
OF_ANY_DOWNLINK_OPERATOR = Takers(
    "algorithms that compress the downlink",
    (*_having("downlink_compressor"), _INHERITING),
)
KEEPING_SHARED_MODEL_MEMORIES = Takers(
    "algorithms with a memory of the model", (*_having("downlink_rate"), _INHERITING)
)
OF_MOMENTUM = Takers("dist-ef-sgd, whose clients keep momentum", ("dist-ef-sgd",))
OF_GHOSTS = Takers("mcm with one memory for all", ("mcm",))
GROUPING = Takers("algorithms whose clients may form groups", _having("groups"))
COUNTING = Takers(
    "algorithms that keep so many entries", _without(_SPARSIFYING, "stoc-mv")
)
MOMENTS_AT_THE_SERVER = Takers(
    "algorithms whose server keeps moments", _without(ADAPTIVE, *MOMENTS_AT_CLIENTS)
)
STEPPING = Takers(
    "algorithms with a server that take plain steps", _without(ALGORITHMS, *ADAPTIVE)
)
NOT_ADAPTIVE = Takers(
    "algorithms that take plain steps",
    (*_without(ALGORITHMS, *ADAPTIVE), *DECENTRALIZED),
)
QUANTIZED_GOSSIP = Takers(
    "decentralized algorithms that quantize", _without(DECENTRALIZED, _ERROR_FREE)
)
PROXIMAL = Takers("decentralized algorithms with a proximal step", _having("l1"))
