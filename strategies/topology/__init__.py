"""Who talks to whom in a decentralized run, and with which weight.

A :class:`Topology` is a mixing matrix under assumption 1 of MALCOM-PSGD, a
:class:`Schedule` changes the matrix from round to round, and the functions make both
for well-known graphs and for your own.
"""

from __future__ import annotations

from .graphs import (
    TOPOLOGIES,
    complete,
    erdos_renyi,
    exponential,
    from_graph,
    get_topology,
    one_peer_exponential,
    ring,
    ring_like,
    star,
    torus,
)
from .mixing import Topology, from_matrix, metropolis_hastings
from .schedule import Schedule

__all__ = [
    "TOPOLOGIES",
    "Schedule",
    "Topology",
    "complete",
    "erdos_renyi",
    "exponential",
    "from_graph",
    "from_matrix",
    "get_topology",
    "metropolis_hastings",
    "one_peer_exponential",
    "ring",
    "ring_like",
    "star",
    "torus",
]
