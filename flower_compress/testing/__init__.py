"""Run a Flower app in this process, and let messages and clients fail."""

from __future__ import annotations

from .failing_clients import FaultPoint, InjectedError
from .faults import Fault, Faults, RandomFaults, Schedule
from .faulty_grid import FaultyGrid
from .in_process import InProcessGrid

__all__ = [
    "Fault",
    "FaultPoint",
    "Faults",
    "FaultyGrid",
    "InProcessGrid",
    "InjectedError",
    "RandomFaults",
    "Schedule",
]
