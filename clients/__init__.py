"""Ready-made client apps; each needs only a learning problem."""

from __future__ import annotations

from .batches import batches
from .gossip import GossipMod
from .gossip_client import gossip_client
from .gradient import gradient_client
from .local_steps import local_steps_client
from .momentum import MomentumMod, momentum_client
from .objective import Arrays, Objective
from .qadam import QAdamMod, qadam_client

__all__ = [
    "Arrays",
    "GossipMod",
    "MomentumMod",
    "Objective",
    "QAdamMod",
    "batches",
    "gossip_client",
    "gradient_client",
    "local_steps_client",
    "momentum_client",
    "qadam_client",
]
