"""Who talks to whom in a decentralized run, and with which weight.

A :class:`Topology` is a mixing matrix W under assumption 1 of MALCOM-PSGD:

1. w_ij > 0 if and only if nodes i and j are joined by an edge (w_ii is free),
2. the graph is undirected, so W = W^T,
3. W is doubly stochastic: W 1 = 1 and 1^T W = 1^T,
4. the graph is connected, so W is irreducible.

The paper goes on to |lambda_2| < 1, which does not follow where every w_ii is 0 and the
graph is bipartite; such a matrix is taken, and its `spectral_gap` is 0.

A :class:`Schedule` changes the matrix from round to round, and needs no symmetry.

Sources: MALCOM-PSGD, assumption 1 and figure 4; Ying et al., "Exponential graph is
provably efficient for decentralized deep training" (NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flower_compress.errors import (
    ConfigurationError,
    MissingExtraError,
    UnknownNameError,
)

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

_TOLERANCE = 1e-9
"""Deviation of an entry or a sum that counts as rounding; so small a weight is 0."""

_MAX_DRAWS = 1000


@dataclass(frozen=True, eq=False)
class Topology:
    """An undirected graph and its mixing matrix, the same in every round.

    Parameters
    ----------
    name : str
        What reports call it.
    mixing : NDArray[np.float64]
        W of the module's assumption 1, shape (n, n). A read-only copy is kept, exactly
        symmetric, in which weights up to 1e-9 are 0.

    Raises
    ------
    ConfigurationError
        If W breaks assumption 1 by more than 1e-9; the error names the entry, row or
        node.
    """

    name: str
    mixing: NDArray[np.float64]

    def __post_init__(self) -> None:
        W = _checked(self.mixing)
        _refuse(
            np.abs(W - W.T) > _TOLERANCE,
            W,
            "w[{i}, {j}] = {ij:.12g} and w[{j}, {i}] = {ji:.12g}: the mixing matrix "
            "must be symmetric; give both the same weight, or use a Schedule",
        )
        _check_sums(W, "row")
        W = _frozen((W + W.T) / 2)
        _check_connected(W > 0)
        object.__setattr__(self, "mixing", W)

    @property
    def num_nodes(self) -> int:
        """The number n of nodes."""
        return len(self.mixing)

    @property
    def num_edges(self) -> int:
        """The number of undirected edges, self loops left out."""
        return int(np.count_nonzero(np.triu(self.mixing, 1)))

    @cached_property
    def spectral_gap(self) -> float:
        """1 - |lambda_2|, the second eigenvalue of W by magnitude; 1.0 for n = 1.

        One averaging brings the nodes closer by it: with xbar = 11^T x / n,
        ||W x - xbar|| <= (1 - spectral_gap) ||x - xbar||.
        """
        # Taking 11^T / n away puts 0 in the place of lambda_1 = 1.
        rest = np.linalg.eigvalsh(self.mixing - 1 / self.num_nodes)
        return max(0.0, 1.0 - float(np.abs(rest).max()))

    def degree(self, i: int) -> int:
        """Return the number of neighbours of node i."""
        return len(self.neighbours(i))

    def neighbours(self, i: int) -> tuple[tuple[int, float], ...]:
        """Return (j, w_ij) of every neighbour j of node i, ascending, i left out.

        Raises
        ------
        ConfigurationError
            If there is no node i.
        """
        _check_node(i, self.num_nodes)
        return _weights(self.mixing[i], i)

    def summary(self) -> str:
        """Return a line with the name, the size and the spectral gap."""
        degrees = [self.degree(i) for i in range(self.num_nodes)]
        return (
            f"{self.name}: nodes {self.num_nodes}, edges {self.num_edges}, "
            f"degree {min(degrees)} to {max(degrees)}, "
            f"spectral gap {self.spectral_gap:.4g}"
        )


@dataclass(frozen=True, eq=False)
class Schedule:
    """Directed graphs with their mixing matrices, one a round, in turn.

    In round t, x_i becomes sum_j w_ij x_j with W = matrices[t mod period]: node i
    receives from j where w_ij > 0. Every W is doubly stochastic, which preserves the
    average of the x_i; none need be symmetric or connected. Peers are given in
    ascending order; asking for those of a node that there is not raises a
    ConfigurationError.

    Parameters
    ----------
    name : str
        What reports call it.
    matrices : tuple[NDArray[np.float64], ...]
        One W a round, each of shape (n, n). Read-only copies are kept, in which
        weights up to 1e-9 are 0.

    Raises
    ------
    ConfigurationError
        If there is no matrix, one is not finite, non-negative and doubly stochastic
        (to 1e-9), their shapes differ, or the graphs of a whole period together are
        not strongly connected. The error names the matrix and the entry, row, column
        or node.
    """

    name: str
    matrices: tuple[NDArray[np.float64], ...]

    def __post_init__(self) -> None:
        matrices: list[NDArray[np.float64]] = []
        for t, matrix in enumerate(self.matrices):
            where = f"matrices[{t}]: "
            W = _checked(matrix, where)
            if matrices and W.shape != matrices[0].shape:
                raise ConfigurationError(
                    f"{where}expected the shape of matrices[0], {matrices[0].shape}, "
                    f"got {W.shape}: all rounds have the same nodes"
                )
            _check_sums(W, "row", where)
            _check_sums(W.T, "column", where)
            matrices.append(_frozen(W))
        if not matrices:
            raise ConfigurationError(
                "expected at least one mixing matrix, got none: give one for each "
                "round of the period"
            )
        _check_connected(np.any([W > 0 for W in matrices], axis=0))
        object.__setattr__(self, "matrices", tuple(matrices))

    @property
    def num_nodes(self) -> int:
        """The number n of nodes."""
        return len(self.matrices[0])

    @property
    def period(self) -> int:
        """The number of rounds after which the matrices repeat."""
        return len(self.matrices)

    @cached_property
    def spectral_gap(self) -> float:
        """1 - ||P - 11^T/n||_2^(1/period) with P the product over one period.

        The nodes come closer by it in the mean over a period's rounds:
        ||P x - xbar|| <= (1 - spectral_gap)^period ||x - xbar||. It is 1.0 if a period
        averages exactly.
        """
        n = self.num_nodes
        P = np.eye(n)
        for W in self.matrices:
            P = W @ P
        norm = float(np.linalg.norm(P - 1 / n, 2))
        # The root would make much of what rounding leaves of an exact average.
        if norm <= n * self.period * np.finfo(np.float64).eps:
            return 1.0
        return float(max(0.0, 1.0 - norm ** (1 / self.period)))

    def receives_from(self, round_: int, i: int) -> tuple[tuple[int, float], ...]:
        """Return (j, w_ij) of every other j that i receives from in that round."""
        _check_node(i, self.num_nodes)
        return _weights(self.matrices[round_ % self.period][i], i)

    def sends_to(self, round_: int, i: int) -> tuple[tuple[int, float], ...]:
        """Return (j, w_ji) of every other j that i sends to in that round."""
        _check_node(i, self.num_nodes)
        return _weights(self.matrices[round_ % self.period][:, i], i)

    def peers_in(self, i: int) -> tuple[int, ...]:
        """Return every other node that i ever receives from."""
        rounds = range(self.period)
        return tuple(sorted({j for t in rounds for j, _ in self.receives_from(t, i)}))

    def peers_out(self, i: int) -> tuple[int, ...]:
        """Return every other node that i ever sends to."""
        rounds = range(self.period)
        return tuple(sorted({j for t in rounds for j, _ in self.sends_to(t, i)}))

    def summary(self) -> str:
        """Return a line with the name, the size and the spectral gap."""
        heard = [
            len(self.receives_from(t, i))
            for t in range(self.period)
            for i in range(self.num_nodes)
        ]
        return (
            f"{self.name}: nodes {self.num_nodes}, period {self.period}, "
            f"receives from {min(heard)} to {max(heard)} a round, "
            f"spectral gap {self.spectral_gap:.4g} a round"
        )


def metropolis_hastings(adjacency: ArrayLike) -> NDArray[np.float64]:
    """Return the Metropolis-Hastings weights of an undirected graph.

        w_ij = 1 / (1 + max(d_i, d_j)) for each edge,   w_ii = 1 - sum_{j != i} w_ij

    They are symmetric and doubly stochastic, with w_ii >= 1 / (1 + d_i) > 0.

    Parameters
    ----------
    adjacency : ArrayLike
        Booleans or zeros and ones, shape (n, n), symmetric. The diagonal is ignored.

    Returns
    -------
    NDArray[np.float64]
        W, shape (n, n).

    Raises
    ------
    ConfigurationError
        If the adjacency is not square, not of zeros and ones, or not symmetric.
    """
    A = _square(adjacency)
    _refuse(
        (A != 0) & (A != 1),
        A,
        "adjacency[{i}, {j}] = {ij}: expected 0 or 1; from_matrix takes weights",
    )
    _refuse(
        A != A.T,
        A,
        "adjacency[{i}, {j}] = {ij} and adjacency[{j}, {i}] = {ji}: expected an "
        "undirected graph; set both, or make a Schedule of directed ones",
    )
    edges = A.astype(bool)
    np.fill_diagonal(edges, False)
    degrees = edges.sum(axis=1)
    W: NDArray[np.float64] = edges / (1.0 + np.maximum.outer(degrees, degrees))
    np.fill_diagonal(W, 1.0 - W.sum(axis=1))
    return W


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


def from_matrix(matrix: ArrayLike, name: str = "matrix") -> Topology:
    """Return the topology with that mixing matrix, shape (n, n).

    Raises
    ------
    ConfigurationError
        If it breaks assumption 1; see :class:`Topology`.
    """
    return Topology(name, np.asarray(_square(matrix), dtype=np.float64))


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


def _weights(line: NDArray[np.float64], i: int) -> tuple[tuple[int, float], ...]:
    """Return (j, weight) of the positive entries but the i-th."""
    return tuple((int(j), float(line[j])) for j in np.flatnonzero(line) if j != i)


def _frozen(W: NDArray[np.float64]) -> NDArray[np.float64]:
    W[W <= _TOLERANCE] = 0.0
    W.setflags(write=False)
    return W


def _count(n: int, name: str = "number of nodes") -> int:
    if not isinstance(n, int | np.integer) or n < 1:
        raise ConfigurationError(f"{name} must be a positive integer, got {n!r}")
    return int(n)


def _check_node(i: int, n: int) -> None:
    if not 0 <= i < n:
        raise ConfigurationError(f"expected a node from 0 to {n - 1}, got {i}")


def _square(matrix: ArrayLike, where: str = "") -> NDArray[Any]:
    """Return a square array of real numbers."""
    try:
        array = np.asarray(matrix)
    except ValueError as error:
        raise ConfigurationError(
            f"{where}expected a square matrix, got rows of different lengths"
        ) from error
    if array.dtype.kind not in "biuf":
        raise ConfigurationError(
            f"{where}expected a dense matrix of real numbers, got dtype {array.dtype}: "
            "convert it, for example with .toarray() or .real"
        )
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
        raise ConfigurationError(
            f"{where}expected a square matrix, got shape {array.shape}: one row and "
            "one column for each node, of which there is at least one"
        )
    return array


def _checked(matrix: ArrayLike, where: str = "") -> NDArray[np.float64]:
    """Return a copy of a square matrix with finite, non-negative entries."""
    W = np.array(_square(matrix, where), dtype=np.float64)
    _refuse(
        ~np.isfinite(W),
        W,
        where + "w[{i}, {j}] = {ij} is not finite: weights are numbers from 0 to 1",
    )
    _refuse(
        W < -_TOLERANCE,
        W,
        where + "w[{i}, {j}] = {ij:.12g} is negative: weights are 0 (no edge) or more; "
        "metropolis_hastings gives such weights to any undirected graph",
    )
    return W


def _refuse(bad: NDArray[np.bool_], A: NDArray[Any], message: str) -> None:
    """Raise the message about the first bad entry of A, if there is one."""
    if bad.any():
        i, j = np.argwhere(bad)[0]
        raise ConfigurationError(message.format(i=i, j=j, ij=A[i, j], ji=A[j, i]))


def _check_sums(W: NDArray[np.float64], line: str, where: str = "") -> None:
    """Raise unless the rows sum to one; `line` says what the caller calls them."""
    with np.errstate(over="ignore"):  # An infinite sum is reported as it is.
        sums = W.sum(axis=1)
    bad = np.flatnonzero(np.abs(sums - 1) > _TOLERANCE)
    if bad.size:
        raise ConfigurationError(
            f"{where}{line} {bad[0]} sums to {sums[bad[0]]:.12g}: every row and column "
            f"must sum to 1, to {_TOLERANCE:g}; compute them in float64 and give "
            "the diagonal what is left"
        )


def _check_connected(hears: NDArray[np.bool_]) -> None:
    """Raise unless every node is reached from every other; i hears j if [i, j]."""
    for edges, says in (
        (hears, "node {} cannot be reached from node 0"),
        (hears.T, "node 0 cannot be reached from node {}"),
    ):
        reached = np.arange(len(edges)) == 0
        waiting = [0]
        while waiting:
            fresh = np.flatnonzero(edges[:, waiting.pop()] & ~reached)
            reached[fresh] = True
            waiting.extend(fresh.tolist())
        if not reached.all():
            raise ConfigurationError(
                f"{says.format(np.argmin(reached))}: the graph must be connected; add "
                "an edge between its parts"
            )
