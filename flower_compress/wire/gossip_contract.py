"""What a node of a decentralized run needs to know, sent once with the first model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ..coding import CODE_NAMES
from ..compressors import Compressor, PerArray, Tied, get_compressor
from ..errors import CorruptPacket, shown
from ..links import Channel
from ..streams import Purpose, Stream
from .agreement import Agreement
from .layout import Layout
from .mail import EVERYONE

__all__ = ["GossipContract", "Peers"]

Peers = tuple[tuple[int, float], ...]
"""Neighbours of a node and the weights of the edges, by number."""


@dataclass(frozen=True)
class GossipContract(Agreement):
    """What a node and its neighbours have to agree on.

    Parameters
    ----------
    layout : Layout
        The model's arrays.
    node : int
        The node's place in the mixing matrix.
    algorithm : str
        Name of what nodes do with a gradient.
    parameters : Mapping[str, float]
        Its parameters.
    compressor : Compressor
        The operator C.
    code : str
        Name of the code for its symbols.
    rate : float
        Of the estimates: y += rate C(z - y).
    residual : bool
        Whether differences to estimates are sent; if not, C(z).
    consensus_step : float
        gamma.
    seed : int
        Seed of the run.
    receives, sends : tuple[Peers, ...]
        For each round of a period, from whom the node hears and who hears it:
        w_ij and w_ji. One entry for a topology that does not change.
    consensus_power : float
        p of gamma_k = gamma / k^p, with k the round, from 1; 0 for gamma in all rounds.
    """

    layout: Layout
    node: int
    algorithm: str
    parameters: Mapping[str, float]
    compressor: Compressor
    code: str
    rate: float
    residual: bool
    consensus_step: float
    seed: int
    receives: tuple[Peers, ...]
    sends: tuple[Peers, ...]
    consensus_power: float = 0.0
    sources: Mapping[int, float] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        everyone = {j: w for peers in self.receives for j, w in peers}
        object.__setattr__(self, "sources", dict(sorted(everyone.items())))

    @property
    def per_edge(self) -> bool:
        """Whether each edge has estimates of its own: the topology changes."""
        return len(self.receives) > 1

    @property
    def keeps_estimates(self) -> bool:
        """Whether there are estimates: a lossless operator needs none."""
        return self.residual and not self.compressor.lossless

    def consensus_step_of(self, server_round: int) -> float:
        """Return gamma_k of round k, from 1."""
        return float(self.consensus_step / server_round**self.consensus_power)

    def num_estimates(self, num_phases: int) -> int:
        """Return how many vectors of float64 a node keeps of itself and of others.

        Parameters
        ----------
        num_phases : int
            Exchanges a round.
        """
        others = len(self.sources) if self.per_edge else 1
        return num_phases * (len(self.targets) + others)

    @property
    def targets(self) -> tuple[int, ...]:
        """All for whom the node keeps an estimate of itself."""
        if not self.per_edge:
            return (EVERYONE,)
        return tuple(sorted({j for peers in self.sends for j, _ in peers}))

    def targets_of(self, server_round: int) -> tuple[int, ...]:
        """Whom the node writes to in a round (from 1)."""
        if not self.per_edge:
            return (EVERYONE,)
        return tuple(j for j, _ in self.sends[(server_round - 1) % len(self.sends)])

    def channel(self, sender: int, target: int, version: int) -> Channel:
        """Return the channel of a payload."""
        index = sender if target == EVERYONE else sender | (target + 1) << 32
        stream = Stream(self.seed, Purpose.GOSSIP, index, version)
        return Channel(stream, self.layout.sizes)

    def _terms(self) -> dict[str, Any]:
        gamma: Any = self.consensus_step
        if self.consensus_power:
            # In its place, so that a node that knows of no powers refuses it.
            gamma = [gamma, self.consensus_power]
        return {
            "node": self.node,
            "algorithm": self.algorithm,
            "parameters": dict(self.parameters),
            "compressor": self.compressor.config(),
            "code": self.code,
            "rate": self.rate,
            "residual": self.residual,
            "consensus_step": gamma,
            "receives": self.receives,
            "sends": self.sends,
        }

    @classmethod
    def _of(cls, layout: Layout, seed: int, terms: dict[str, Any]) -> Self:
        node, compressor = _node(terms["node"]), get_compressor(terms["compressor"])
        receives = tuple(_peers(node, peers) for peers in terms["receives"])
        sends = tuple(_peers(node, peers) for peers in terms["sends"])
        gamma, power = _steps(terms["consensus_step"])
        if terms["code"] not in CODE_NAMES or not receives:
            raise CorruptPacket("a contract without a known code, or without peers")
        if len(receives) != len(sends):
            raise CorruptPacket("a contract whose two lists of peers differ in length")
        if isinstance(compressor, PerArray | Tied):
            raise CorruptPacket(f"expected one operator for all, got {compressor.name}")
        return cls(
            layout=layout,
            node=node,
            algorithm=str(terms["algorithm"]),
            parameters={str(k): _number(v) for k, v in terms["parameters"].items()},
            compressor=compressor,
            code=terms["code"],
            rate=_share(terms["rate"]),
            residual=bool(terms["residual"]),
            consensus_step=gamma,
            seed=seed,
            receives=receives,
            sends=sends,
            consensus_power=power,
        )


def _peers(node: int, peers: Any) -> Peers:
    found = tuple((_node(peer), _share(weight)) for peer, weight in peers)
    if len({node, *(peer for peer, _ in found)}) <= len(found):
        raise CorruptPacket(f"the peers of node {node} are not different nodes")
    return found


def _node(value: object) -> int:
    if type(value) is not int or not 0 <= value < EVERYONE:
        raise CorruptPacket(f"expected the number of a node, got {shown(value)}")
    return value


def _steps(value: object) -> tuple[float, float]:
    """Return gamma and its power."""
    if not isinstance(value, list):
        return _share(value), 0.0
    if len(value) != 2 or not (power := _number(value[1])) > 0.0:
        raise CorruptPacket(f"expected gamma and a power above 0, got {shown(value)}")
    return _share(value[0]), power


def _share(value: object) -> float:
    if not 0.0 < (number := _number(value)) <= 1.0:
        raise CorruptPacket(f"expected a number in (0, 1], got {shown(value)}")
    return number


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise CorruptPacket(f"expected a finite number, got {shown(value)}")
    return float(value)
