"""What each node is told of its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flower_compress.compressors import Compressor
from flower_compress.wire.gossip_contract import GossipContract, Peers
from flower_compress.wire.layout import Layout

from ..topology import Schedule, Topology

__all__ = ["Agreement"]


@dataclass(frozen=True)
class Agreement:
    """What is the same for all nodes; parameters are those of :class:`Relay`."""

    topology: Topology | Schedule
    algorithm: str
    parameters: Mapping[str, float]
    compressor: Compressor
    code: str
    rate: float | None
    residual: bool
    consensus_step: float
    seed: int
    consensus_power: float = 0.0

    def contracts(self, layout: Layout) -> list[GossipContract]:
        """Return the contract of each node, for models of that layout."""
        sends, receives = self._peers()
        rate = self._rate(layout.dim)
        return [
            GossipContract(
                layout=layout,
                node=node,
                algorithm=self.algorithm,
                parameters=self.parameters,
                compressor=self.compressor,
                code=self.code,
                rate=rate,
                residual=self.residual,
                consensus_step=self.consensus_step,
                seed=self.seed,
                receives=receives[node],
                sends=sends[node],
                consensus_power=self.consensus_power,
            )
            for node in range(self.topology.num_nodes)
        ]

    def _peers(self) -> tuple[list[tuple[Peers, ...]], list[tuple[Peers, ...]]]:
        topology, nodes = self.topology, range(self.topology.num_nodes)
        if isinstance(topology, Topology):
            same: list[tuple[Peers, ...]] = [
                (topology.neighbours(node),) for node in nodes
            ]
            return same, same
        rounds = range(topology.period)
        return (
            [tuple(topology.sends_to(t, node) for t in rounds) for node in nodes],
            [tuple(topology.receives_from(t, node) for t in rounds) for node in nodes],
        )

    def _rate(self, dim: int) -> float:
        if self.rate is not None:
            return self.rate
        if self.compressor.unbiased:
            return 1.0 / (self.compressor.omega(dim) + 1.0)
        return 1.0
