"""What is known of a run after one of its rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

__all__ = ["Nodes", "RoundRecord"]

# What a float64 loss near one resolves: an excess loss below it is not known.
_MIN_EXCESS_LOSS: Final = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of a decentralized run after a round, each list in their order.

    Attributes
    ----------
    node : tuple[int, ...]
        Numbers of the nodes whose models were collected.
    accuracy : tuple[float, ...]
        Of each node's own model, in [0, 1].
    distance : tuple[float, ...]
        ||x_i - mean x||^2; their mean is the consensus distance.
    zeros : tuple[float, ...]
        Share of zeros in z_i, what the node posted last, in [0, 1]; empty if one is
        not known.
    sent_bytes, sent_bits : tuple[int, ...]
        Since the start, on all edges that leave the node: bytes of the letters, and
        the exact bits that they carry.
    edges : tuple[int, ...]
        Of the last round only: sender, receiver, bytes and bits of each edge, in a row.
    """

    node: tuple[int, ...]
    accuracy: tuple[float, ...]
    distance: tuple[float, ...]
    zeros: tuple[float, ...]
    sent_bytes: tuple[int, ...]
    sent_bits: tuple[int, ...]
    edges: tuple[int, ...] = ()

    def edge_rows(self) -> list[tuple[int, ...]]:
        """Return sender, receiver, bytes and bits of each edge."""
        return [self.edges[k : k + 4] for k in range(0, len(self.edges), 4)]


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One algorithm, with one seed, after one round.

    Where an update is not finite the run ends, and this is its last row: a loss of
    infinity, an accuracy of 0, and what was sent until then.

    Attributes
    ----------
    algorithm : str
        Name of the run: its algorithm's, unless it has one of its own.
    seed : int
        Seed of the run.
    round : int
        Number of rounds done; 0 is the initial model.
    loss : float
        F(w).
    excess_loss : float or None
        F(w) - min F, None where the minimum is not known.
    accuracy : float
        In [0, 1].
    uplink_bytes, downlink_bytes : int
        Bytes sent since the start, over all clients: everything that travels. In a
        decentralized run the first is what nodes sent to neighbours, summed over the
        edges, the second is 0, and loss and accuracy are of the mean model.
    uplink_bits, downlink_bits : int
        Payload bits sent since the start, over all clients, without framing.
    uplink_entropy_bits, downlink_entropy_bits : int, optional
        What of the payload bits would be if symbols took their zero-order entropy.
    uplink_formula_bits, downlink_formula_bits : int, optional
        What of them would be by the papers' formulas, see
        :mod:`flower_compress.wire.measures`.
    nodes : Nodes, optional
        Of a decentralized run. Not in ``rounds.csv``, but in ``nodes.csv``.
    seconds : float, optional
        Median processor time of a round so far, of all that this process computes,
        evaluation aside. Not in ``rounds.csv``, which is the same bytes each time.
    """

    algorithm: str
    seed: int
    round: int
    loss: float
    excess_loss: float | None
    accuracy: float
    uplink_bytes: int
    downlink_bytes: int
    uplink_bits: int
    downlink_bits: int
    uplink_entropy_bits: int | None = None
    downlink_entropy_bits: int | None = None
    uplink_formula_bits: int | None = None
    downlink_formula_bits: int | None = None
    nodes: Nodes | None = None
    seconds: float | None = None

    @property
    def known_excess_loss(self) -> float:
        """The excess loss, no less than is known of it; NaN where it is None."""
        excess = math.nan if self.excess_loss is None else self.excess_loss
        # At the minimum, rounding makes it zero or negative. max() could swallow a NaN.
        return _MIN_EXCESS_LOSS if excess < _MIN_EXCESS_LOSS else excess
