"""The server's end of compressed federated learning, as Flower strategies."""

from __future__ import annotations

from flower_compress.errors import UnknownNameError

from .artemis import Artemis
from .artemis_nd import ArtemisND
from .base import CompressedStrategy
from .defaults import DEFAULT_COMPRESSOR
from .diana import Diana
from .dore import Dore
from .double_squeeze import DoubleSqueeze
from .mcm import MCM
from .qsgd import QSGD
from .rand_mcm import RandMCM
from .server_optimizers import GradientDescent, ServerOptimizer
from .sgd import SGD

__all__ = [
    "ALGORITHMS",
    "DEFAULT_COMPRESSOR",
    "MCM",
    "QSGD",
    "SGD",
    "Artemis",
    "ArtemisND",
    "CompressedStrategy",
    "Diana",
    "Dore",
    "DoubleSqueeze",
    "GradientDescent",
    "RandMCM",
    "ServerOptimizer",
    "get_algorithm",
]

ALGORITHMS: dict[str, type[CompressedStrategy]] = {
    "sgd": SGD,
    "qsgd": QSGD,
    "diana": Diana,
    "artemis": Artemis,
    "artemis-nd": ArtemisND,
    "dore": Dore,
    "double-squeeze": DoubleSqueeze,
    "mcm": MCM,
    "rand-mcm": RandMCM,
}
"""Every algorithm by the name that command lines use."""


def get_algorithm(name: str) -> type[CompressedStrategy]:
    """Return the strategy class called `name`.

    Raises
    ------
    UnknownNameError
        If there is none; the error lists those there are.
    """
    if name not in ALGORITHMS:
        raise UnknownNameError("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]
