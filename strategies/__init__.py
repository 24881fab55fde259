"""The server's end of compressed federated learning, as Flower strategies."""

from __future__ import annotations

from collections.abc import Callable

from flower_compress.errors import UnknownNameError

from .amsgrad import amsgrad
from .artemis import Artemis
from .artemis_nd import ArtemisND
from .base import CompressedStrategy
from .defaults import DEFAULT_COMPRESSOR
from .diana import Diana
from .dore import Dore
from .double_squeeze import DoubleSqueeze
from .mcm import MCM
from .qadam import qadam
from .qsgd import QSGD
from .rand_mcm import RandMCM
from .server_optimizers import AMSGrad, GradientDescent, ServerOptimizer
from .sgd import SGD
from .spars_ams import SparsAMS
from .stoc_mv import stoc_mv
from .stoc_unif import stoc_unif
from .topk import topk

__all__ = [
    "ALGORITHMS",
    "DEFAULT_COMPRESSOR",
    "MCM",
    "QSGD",
    "SGD",
    "AMSGrad",
    "Artemis",
    "ArtemisND",
    "CompressedStrategy",
    "Diana",
    "Dore",
    "DoubleSqueeze",
    "GradientDescent",
    "RandMCM",
    "ServerOptimizer",
    "SparsAMS",
    "amsgrad",
    "get_algorithm",
    "qadam",
    "stoc_mv",
    "stoc_unif",
    "topk",
]

ALGORITHMS: dict[str, Callable[..., CompressedStrategy]] = {
    "sgd": SGD,
    "qsgd": QSGD,
    "diana": Diana,
    "artemis": Artemis,
    "artemis-nd": ArtemisND,
    "dore": Dore,
    "double-squeeze": DoubleSqueeze,
    "mcm": MCM,
    "rand-mcm": RandMCM,
    "amsgrad": amsgrad,
    "spars-ams": SparsAMS,
    "topk": topk,
    "stoc-mv": stoc_mv,
    "stoc-unif": stoc_unif,
    "qadam": qadam,
}
"""Every algorithm by the name that command lines use."""


def get_algorithm(name: str) -> Callable[..., CompressedStrategy]:
    """Return what makes the strategy called `name`: its class, or a function.

    Raises
    ------
    UnknownNameError
        If there is none; the error lists those there are.
    """
    if name not in ALGORITHMS:
        raise UnknownNameError("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]
