"""The graphs of decentralized runs, with Metropolis-Hastings weights.

Sources: MALCOM-PSGD, figure 4; Ying et al., "Exponential graph is provably efficient
for decentralized deep training" (NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_compress.errors import (
    ConfigurationError,
    MissingExtraError,
    UnknownNameError,
)

from .mixing import Topology, metropolis_hastings
from .schedule import Schedule

__all__ = [
    "TOPOLOGIES",
    "complete",
    "erdos_renyi",
    "exponential",
    "from_graph",
    "get_topology",
    "one_peer_exponential",
    "ring",
    "ring_like",
    "star",
    "torus",
]

_MAX_DRAWS = 1000


def ring(n: int) -> Topology:
    """Return a ring of n >= 1 nodes; every weight is 1/3 from n = 3 on.

    Raises
    ------
    ConfigurationError
        Here and in all graphs below: if n is not a positive integer.
    """
    return _weighted("ring", _circulant(_count(n), [1]))


def ring_like(n: int = 10) -> Topology:
    """Return a ring in which each node i < n/2 is also joined to i + floor(n/2).

    MALCOM-PSGD's experiments use a "ring-like" graph of 10 nodes. Its figure 4, which
    shows the chords and W, is not readable in the text we have: these chords, which
    give every node degree 3 if n >= 4 is even, and the Metropolis-Hastings weights are
    our reading.
    """
    edges = _circulant(_count(n), [1])
    nodes = np.arange((n + 1) // 2)
    edges[nodes, nodes + n // 2] = edges[nodes + n // 2, nodes] = True
    return _weighted("ring-like", edges)


def torus(rows: int, columns: int) -> Topology:
    """Return a grid whose borders are joined; row r, column c is node r columns + c.

    Every node has degree 4 if both sides are 3 or more. A side of 2 joins two nodes
    once, and with a side of 1 the torus is a ring.
    """
    n = _count(rows, "rows") * _count(columns, "columns")
    nodes = np.arange(n)
    r, c = np.divmod(nodes, columns)
    edges = np.zeros((n, n), dtype=bool)
    edges[nodes, (r + 1) % rows * columns + c] = True
    edges[nodes, r * columns + (c + 1) % columns] = True
    return _weighted("torus", edges | edges.T)


def star(n: int) -> Topology:
    """Return a star of n nodes around node 0; every edge weighs 1/n."""
    edges = np.zeros((_count(n), n), dtype=bool)
    edges[0, :] = edges[:, 0] = True
    return _weighted("star", edges)


def complete(n: int) -> Topology:
    """Return the complete graph, W = 11^T / n: one round averages exactly."""
    return Topology("complete", np.full((_count(n), n), 1 / n))


def erdos_renyi(n: int, probability: float, seed: int = 0) -> Topology:
    """Return a random graph that has each edge with that probability.

    It is the first connected one of those that networkx draws (`gnp_random_graph`) with
    the seeds `seed`, `seed` + 1, ..., of which 1000 are tried.

    Raises
    ------
    ConfigurationError
        If the probability is not from 0 to 1, or none of the graphs is connected.
    MissingExtraError
        networkx is not installed.
    """
    n = _count(n)
    if not 0 <= probability <= 1:
        raise ConfigurationError(
            f"probability must be from 0 to 1, got {probability!r}"
        )
    nx = _networkx()
    for draw in range(_MAX_DRAWS):
        graph = nx.gnp_random_graph(n, probability, seed=int(seed) + draw)
        if nx.is_connected(graph):
            return from_graph(graph, "erdos-renyi")
    raise ConfigurationError(
        f"none of {_MAX_DRAWS} random graphs with n = {n} and probability = "
        f"{probability} is connected: raise the probability, well above ln(n) / n = "
        f"{np.log(n) / n:.3g}"
    )


def exponential(n: int) -> Topology:
    """Return the static exponential graph: i is joined to i +- 2^k mod n, 2^k < n.

    This is Ying et al.'s (2021) with both directions of every edge, so that W is
    symmetric; all nodes have the same degree, at most 2 ceil(log2 n).
    """
    return _weighted("exponential", _circulant(_count(n), _powers(n)))


def one_peer_exponential(n: int) -> Schedule:
    """Return the one-peer exponential graphs of Ying et al. (2021).

    With tau = ceil(log2 n), in round t node i keeps half of its own and takes half of
    one other's:

        x_i <- x_i / 2 + x_j / 2,   j = (i + 2^(t mod tau)) mod n

    If n is a power of two, tau rounds average exactly.
    """
    nodes = np.arange(_count(n))
    matrices = []
    for hop in _powers(n) or [0]:
        W = np.eye(n) / 2
        W[nodes, (nodes + hop) % n] += 1 / 2
        matrices.append(W)
    return Schedule("one-peer-exponential", tuple(matrices))


def from_graph(graph: Any, name: str = "") -> Topology:
    """Return any connected undirected networkx graph with Metropolis-Hastings weights.

    Self loops and parallel edges change nothing, nor do edge attributes such as
    ``weight``; give weights of your own to :func:`from_matrix`.

    Parameters
    ----------
    graph : networkx.Graph
        Its nodes are numbered in sorted order, or in that of ``graph.nodes`` if they
        cannot be compared.
    name : str
        What reports call it; by default the graph's own name, else "graph".

    Raises
    ------
    ConfigurationError
        If it is no networkx graph, or a directed, empty or disconnected one.
    MissingExtraError
        networkx is not installed.
    """
    nx = _networkx()
    if not isinstance(graph, nx.Graph) or graph.is_directed() or not len(graph):
        raise ConfigurationError(
            "expected an undirected networkx graph of at least one node, got "
            f"{graph if isinstance(graph, nx.Graph) else type(graph).__name__}: use "
            "graph.to_undirected(), or from_matrix for a matrix"
        )
    try:
        nodes = sorted(graph.nodes)
    except TypeError:
        nodes = list(graph.nodes)
    edges = nx.to_numpy_array(graph, nodelist=nodes, weight=None) != 0
    return _weighted(name or graph.name or "graph", edges)


def _square_torus(n: int) -> Topology:
    """Return the torus of n nodes whose sides differ least."""
    rows = max(side for side in range(1, isqrt(_count(n)) + 1) if n % side == 0)
    if rows < 2:
        raise ConfigurationError(
            f"a torus needs rows x columns nodes, both at least 2, and {n} is no such "
            "product: take another number of nodes, or a ring"
        )
    return torus(rows, n // rows)


TOPOLOGIES: Mapping[str, Callable[[int], Topology | Schedule]] = {
    "ring": ring,
    "ring-like": ring_like,
    "torus": _square_torus,
    "star": star,
    "complete": complete,
    "erdos-renyi": partial(erdos_renyi, probability=0.5, seed=0),
    "exponential": exponential,
    "one-peer-exponential": one_peer_exponential,
}
"""What makes a topology of n nodes, by the name that command lines use.

"torus" takes the sides that differ least, "erdos-renyi" probability 1/2 and seed 0.
"""


def get_topology(name: str, num_nodes: int) -> Topology | Schedule:
    """Return the topology called `name` with that many nodes.

    Raises
    ------
    UnknownNameError
        If there is none; the error lists those there are.
    ConfigurationError
        If it cannot have that many nodes.
    """
    if name not in TOPOLOGIES:
        raise UnknownNameError("topology", name, TOPOLOGIES)
    return TOPOLOGIES[name](num_nodes)


def _networkx() -> Any:
    try:
        import networkx
    except ModuleNotFoundError as error:
        raise MissingExtraError("networkx", "simulation") from error
    return networkx


def _weighted(name: str, edges: NDArray[np.bool_]) -> Topology:
    return Topology(name, metropolis_hastings(edges))


def _circulant(n: int, hops: Iterable[int]) -> NDArray[np.bool_]:
    """Return the adjacency that joins every i to i +- hop mod n."""
    nodes = np.arange(n)
    edges = np.zeros((n, n), dtype=bool)
    for hop in hops:
        edges[nodes, (nodes + hop) % n] = True
    return edges | edges.T


def _powers(n: int) -> list[int]:
    """Return the powers of two below n, which are ceil(log2 n)."""
    return [2**k for k in range((int(n) - 1).bit_length())]


def _count(n: int, name: str = "number of nodes") -> int:
    if not isinstance(n, int | np.integer) or n < 1:
        raise ConfigurationError(f"{name} must be a positive integer, got {n!r}")
    return int(n)
