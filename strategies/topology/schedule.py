"""Mixing matrices that change from round to round, and need no symmetry."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flower_compress.errors import ConfigurationError

from .mixing import check_connected, check_node, check_sums, checked, frozen, weights

__all__ = [
    "Schedule",
]


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
            W = checked(matrix, where)
            if matrices and W.shape != matrices[0].shape:
                raise ConfigurationError(
                    f"{where}expected the shape of matrices[0], {matrices[0].shape}, "
                    f"got {W.shape}: all rounds have the same nodes"
                )
            check_sums(W, "row", where)
            check_sums(W.T, "column", where)
            matrices.append(frozen(W))
        if not matrices:
            raise ConfigurationError(
                "expected at least one mixing matrix, got none: give one for each "
                "round of the period"
            )
        check_connected(np.any([W > 0 for W in matrices], axis=0))
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
        check_node(i, self.num_nodes)
        return weights(self.matrices[round_ % self.period][i], i)

    def sends_to(self, round_: int, i: int) -> tuple[tuple[int, float], ...]:
        """Return (j, w_ji) of every other j that i sends to in that round."""
        check_node(i, self.num_nodes)
        return weights(self.matrices[round_ % self.period][:, i], i)

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
