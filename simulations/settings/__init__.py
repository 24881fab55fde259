"""The settings of a run.

======================= =============================================================
:class:`Settings`       what every run has: algorithm, seed, rounds, step size
:class:`Problem`        what is learned, and how it is divided among clients
:class:`Server`         what algorithms with a server take
:class:`Decentralized`  what decentralized algorithms take
======================= =============================================================

Each field that a user may set is declared as an option, with the runs that use it. An
option that is given to a run which does not use it is refused.
"""

from __future__ import annotations

from .config import convert, from_config, read_values
from .decentralized import Decentralized
from .option import Option, dashed
from .problem import TASK_KEY, Problem, device_of, task_of
from .run import IDENTITY, OPTIONS, Settings, refusals
from .server import Server
from .sharing import several

__all__ = [
    "IDENTITY",
    "OPTIONS",
    "TASK_KEY",
    "Decentralized",
    "Option",
    "Problem",
    "Server",
    "Settings",
    "convert",
    "dashed",
    "device_of",
    "from_config",
    "read_values",
    "refusals",
    "several",
    "task_of",
]
