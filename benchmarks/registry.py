"""Every suite, in the order in which they run."""

from __future__ import annotations

from . import (
    baselines,
    compiled,
    defaults,
    device,
    first_model,
    hostile_decoding,
    inprocess,
    lengths,
    local_epochs,
    lost_memories,
    norm_ratios,
    operators,
    optimizer,
    scale,
    server_memory,
    small,
    throughput,
)
from .suite import Suite

SUITES: dict[str, Suite] = {
    module.SUITE.name: module.SUITE
    for module in (
        small,
        throughput,
        compiled,
        inprocess,
        lengths,
        baselines,
        operators,
        optimizer,
        server_memory,
        scale,
        lost_memories,
        norm_ratios,
        hostile_decoding,
        defaults,
        local_epochs,
        first_model,
        device,
    )
}
