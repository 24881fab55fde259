"""Averaging with the neighbours, after an exchange.

With estimates, and without them where vectors travel as they are:

    x_i = z_i + gamma sum_j w_ij (y_j - y_i),   x_i = z_i + gamma sum_j w_ij (z_j - z_i)

where gamma may be less from round to round, gamma / k^p.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flower_compress.compressors import Vector
from flower_compress.wire.gossip_contract import GossipContract
from flower_compress.wire.mail import EVERYONE, Estimate

from .blocked import add_scaled, averaged, scaled
from .state import GossipState

__all__ = ["average"]


def average(
    state: GossipState, contract: GossipContract, phases: tuple[str, ...]
) -> GossipState:
    """x_i = z_i + gamma sum_j w_ij (y_j - y_i) for every vector of which it is due."""
    vectors = dict(state.vectors)
    for phase, round_ in state.due.items():
        z = vectors[phases[phase]]
        sums = _sums(state, contract, phase, round_, z)
        if sums is not None:
            gamma = contract.consensus_step_of(round_)
            with np.errstate(over="ignore"):  # A run that diverges shows in its loss.
                vectors[phases[phase]] = averaged(z, *sums, gamma)
    if not contract.keeps_estimates:
        return replace(
            state, vectors=vectors, due={}, own={}, heard={}, present=frozenset()
        )
    return replace(state, vectors=vectors, due={})


def _sums(
    state: GossipState,
    contract: GossipContract,
    phase: int,
    round_: int,
    z: Vector,
) -> tuple[Estimate, NDArray[np.floating], float] | None:
    """Return s, y and rho, where sum_j w_ij (y_j - y_i) = s - rho y.

    The sum is over the neighbours that are known; None if there are none, or if by that
    more would leave a node than comes in.
    """
    index = (round_ - 1) % len(contract.receives)
    known = [(j, w) for j, w in contract.receives[index] if (phase, j) in state.present]
    if not known:
        return None
    if not contract.per_edge:
        heard = state.heard[phase, EVERYONE]
    else:
        heard = _sum((state.heard[phase, j], w) for j, w in known)
        if contract.keeps_estimates:
            unknown = {*contract.receives[index]} - {*known}
            sends = [peer for peer in contract.sends[index] if peer not in unknown]
            if len(sends) != len(known) and unknown:
                return None  # As much has to come in as leaves.
            sent = _sum((state.own[phase, j], w) for j, w in sends)
            return heard, sent, 1.0
    weight = sum(w for _, w in known)
    own: NDArray[np.floating] = z
    return heard, state.own.get((phase, EVERYONE), own), weight


def _sum(parts: Iterable[tuple[Estimate, float]]) -> Estimate:
    """Return the sum of weight * vector, in float64."""
    first, *rest = parts
    total = scaled(*first)
    for vector, weight in rest:
        add_scaled(total, vector, weight)
    return total
