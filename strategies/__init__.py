"""The server's end of compressed federated learning, as Flower strategies."""

from __future__ import annotations

from collections.abc import Callable

from flower_compress.errors import UnknownNameError

from .amsgrad import amsgrad
from .artemis import Artemis
from .artemis_nd import ArtemisND
from .cdprox_sgt import CDProxSGT
from .choco_sgd import ChocoSGD, choco_qsgd
from .compress import compress
from .diana import Diana
from .dist_ef_sgd import DistEFSGD
from .dore import Dore
from .double_squeeze import DoubleSqueeze
from .dpsgd import DPSGD
from .ecq_sgd import ECQSGD
from .malcom_psgd import MalcomPSGD
from .mcm import MCM
from .qadam import qadam
from .qsgd import QSGD
from .rand_mcm import RandMCM
from .relay import Relay
from .run.many_clients import many_clients
from .server import (
    DEFAULT_COMPRESSOR,
    AMSGrad,
    CompressedStrategy,
    GradientDescent,
    ServerOptimizer,
)
from .sgd import SGD
from .spars_ams import SparsAMS
from .stoc_mv import stoc_mv
from .stoc_unif import stoc_unif
from .topk import topk

__all__ = [
    "ALGORITHMS",
    "DECENTRALIZED",
    "DEFAULT_COMPRESSOR",
    "DPSGD",
    "ECQSGD",
    "MCM",
    "QSGD",
    "SGD",
    "AMSGrad",
    "Artemis",
    "ArtemisND",
    "CDProxSGT",
    "ChocoSGD",
    "CompressedStrategy",
    "Diana",
    "DistEFSGD",
    "Dore",
    "DoubleSqueeze",
    "GradientDescent",
    "MalcomPSGD",
    "RandMCM",
    "Relay",
    "ServerOptimizer",
    "SparsAMS",
    "amsgrad",
    "choco_qsgd",
    "compress",
    "get_algorithm",
    "many_clients",
    "qadam",
    "stoc_mv",
    "stoc_unif",
    "topk",
]

ALGORITHMS: dict[str, Callable[..., CompressedStrategy]] = {
    "sgd": SGD,
    "qsgd": QSGD,
    "ecq-sgd": ECQSGD,
    "diana": Diana,
    "artemis": Artemis,
    "artemis-nd": ArtemisND,
    "dore": Dore,
    "double-squeeze": DoubleSqueeze,
    "dist-ef-sgd": DistEFSGD,
    "mcm": MCM,
    "rand-mcm": RandMCM,
    "amsgrad": amsgrad,
    "spars-ams": SparsAMS,
    "topk": topk,
    "stoc-mv": stoc_mv,
    "stoc-unif": stoc_unif,
    "qadam": qadam,
}
"""Every algorithm with a server by the name that command lines use."""

DECENTRALIZED: dict[str, Callable[..., Relay]] = {
    "malcom": MalcomPSGD,
    "choco": ChocoSGD,
    "choco-qsgd": choco_qsgd,
    "cdprox-sgt": CDProxSGT,
    "dpsgd": DPSGD,
}
"""Every decentralized algorithm by the name that command lines use."""


def get_algorithm(name: str) -> Callable[..., CompressedStrategy | Relay]:
    """Return what makes the strategy called `name`: its class, or a function.

    Raises
    ------
    UnknownNameError
        If there is none; the error lists those there are.
    """
    found = ALGORITHMS.get(name) or DECENTRALIZED.get(name)
    if found is None:
        raise UnknownNameError("algorithm", name, [*ALGORITHMS, *DECENTRALIZED])
    return found
