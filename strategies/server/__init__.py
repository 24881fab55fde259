"""The server's end of a run with a central model."""

from __future__ import annotations

from .defaults import DEFAULT_COMPRESSOR, QUIET_COMPRESSOR
from .downlink_rules import DownlinkMemory, Groups, ResetEvery
from .optimizers import AMSGrad, GradientDescent, ServerOptimizer
from .sampling import Sampling
from .strategy import CompressedStrategy
from .uplink_memories import UplinkMemory

__all__ = [
    "AMSGrad",
    "CompressedStrategy",
    "DEFAULT_COMPRESSOR",
    "DownlinkMemory",
    "QUIET_COMPRESSOR",
    "GradientDescent",
    "Groups",
    "ResetEvery",
    "Sampling",
    "ServerOptimizer",
    "UplinkMemory",
]
