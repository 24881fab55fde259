"""The algorithms that a node knows."""

from __future__ import annotations

from flower_compress.errors import CorruptPacket, shown
from flower_compress.wire.gossip_contract import GossipContract

from .cdprox_sgt import CDProxSGT
from .choco_sgd import ChocoSGD
from .dpsgd import DPSGD
from .malcom_psgd import MalcomPSGD
from .node_algorithm import NodeAlgorithm

__all__ = ["ALGORITHMS", "algorithm_of"]

ALGORITHMS: dict[str, type[NodeAlgorithm]] = {
    algorithm.name: algorithm for algorithm in (MalcomPSGD, ChocoSGD, CDProxSGT, DPSGD)
}
"""Every algorithm by its name."""


def algorithm_of(contract: GossipContract) -> NodeAlgorithm:
    """Return the algorithm that a contract names, with its parameters.

    Raises
    ------
    CorruptPacket
        If there is none of that name, or its parameters are others.
    """
    kind = ALGORITHMS.get(contract.algorithm)
    if kind is None:
        raise CorruptPacket(
            f"expected an algorithm of {', '.join(ALGORITHMS)}, got "
            f"{shown(contract.algorithm)}: is the relay's flower-compress newer?"
        )
    try:
        return kind(**contract.parameters)
    except TypeError as error:
        raise CorruptPacket(f"algorithm {contract.algorithm}: {error}") from error
