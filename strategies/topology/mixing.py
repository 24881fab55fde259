"""Mixing matrices that do not change, and what every mixing matrix must be.

A :class:`Topology` is a mixing matrix W under assumption 1 of MALCOM-PSGD:

1. w_ij > 0 if and only if nodes i and j are joined by an edge (w_ii is free),
2. the graph is undirected, so W = W^T,
3. W is doubly stochastic: W 1 = 1 and 1^T W = 1^T,
4. the graph is connected, so W is irreducible.

The paper goes on to |lambda_2| < 1, which does not follow where every w_ii is 0 and the
graph is bipartite; such a matrix is taken, and its `spectral_gap` is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flower_compress.errors import ConfigurationError

__all__ = [
    "Topology",
    "check_connected",
    "check_node",
    "check_sums",
    "checked",
    "frozen",
    "from_matrix",
    "metropolis_hastings",
    "weights",
]

_TOLERANCE = 1e-9
"""Deviation of an entry or a sum that counts as rounding; so small a weight is 0."""


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
        W = checked(self.mixing)
        _refuse(
            np.abs(W - W.T) > _TOLERANCE,
            W,
            "w[{i}, {j}] = {ij:.12g} and w[{j}, {i}] = {ji:.12g}: the mixing matrix "
            "must be symmetric; give both the same weight, or use a Schedule",
        )
        check_sums(W, "row")
        W = frozen((W + W.T) / 2)
        check_connected(W > 0)
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
        check_node(i, self.num_nodes)
        return weights(self.mixing[i], i)

    def summary(self) -> str:
        """Return a line with the name, the size and the spectral gap."""
        degrees = [self.degree(i) for i in range(self.num_nodes)]
        return (
            f"{self.name}: nodes {self.num_nodes}, edges {self.num_edges}, "
            f"degree {min(degrees)} to {max(degrees)}, "
            f"spectral gap {self.spectral_gap:.4g}"
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


def from_matrix(matrix: ArrayLike, name: str = "matrix") -> Topology:
    """Return the topology with that mixing matrix, shape (n, n).

    Raises
    ------
    ConfigurationError
        If it breaks assumption 1; see :class:`Topology`.
    """
    return Topology(name, np.asarray(_square(matrix), dtype=np.float64))


def weights(line: NDArray[np.float64], i: int) -> tuple[tuple[int, float], ...]:
    """Return (j, weight) of the positive entries but the i-th."""
    return tuple((int(j), float(line[j])) for j in np.flatnonzero(line) if j != i)


def frozen(W: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return W, changed in place: what is rounding is 0, and nobody may write to it."""
    W[W <= _TOLERANCE] = 0.0
    W.setflags(write=False)
    return W


def check_node(i: int, n: int) -> None:
    """Raise ConfigurationError unless i is one of n nodes."""
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


def checked(matrix: ArrayLike, where: str = "") -> NDArray[np.float64]:
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


def check_sums(W: NDArray[np.float64], line: str, where: str = "") -> None:
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


def check_connected(hears: NDArray[np.bool_]) -> None:
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
