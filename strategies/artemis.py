"""Artemis: Diana's uplink, and the update compressed down.

Source: Philippenko & Dieuleveut, "Bidirectional compression in heterogeneous settings
for distributed or federated learning with partial participation" (2020).
"""

from __future__ import annotations

from typing import Any, Literal

from flower_compress.compressors import Compressor
from flower_compress.links import Direct, Memory

from .server import DEFAULT_COMPRESSOR, CompressedStrategy

__all__ = ["Artemis"]


class Artemis(CompressedStrategy):
    """All clients and the server apply the same compressed update (degraded).

        q_i = C_up(g_i(w_k) - h_i),    h_i += alpha q_i
        w_{k+1} = w_k + C_down(-gamma/N sum_i (h_i + q_i))

    C_down(gamma g) is gamma C_down(g) for every operator that scales with its input.

    Parameters
    ----------
    compressor : Compressor
        C_up.
    downlink_compressor : Compressor, optional
        C_down where it differs from C_up.
    uplink_rate : float, optional
        alpha_up; default 1 / (2 (omega + 1)).
    initial_memory : {"zero", "first"} (default: "zero")
        h_0 = 0, or h_0 = g_1, which costs one dense message a client.
    **kwargs
        Every other argument of :class:`CompressedStrategy`.
    """

    def __init__(
        self,
        compressor: Compressor = DEFAULT_COMPRESSOR,
        *,
        downlink_compressor: Compressor | None = None,
        uplink_rate: float | None = None,
        initial_memory: Literal["zero", "first"] = "zero",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            uplink=Memory(compressor, rate=uplink_rate, initial=initial_memory),
            downlink=Direct(downlink_compressor or compressor),
            downlink_carries="update",
            preserved=False,
            **kwargs,
        )
