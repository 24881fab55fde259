"""Artemis with a non-degraded update.

Source: Philippenko & Dieuleveut, "Preserved central model for faster bidirectional
compression in distributed settings" (NeurIPS 2021), appendix B.1.2.
"""

from __future__ import annotations

from typing import Any, Literal

from flower_compress.compressors import Compressor
from flower_compress.links import Direct, Memory

from .server import DEFAULT_COMPRESSOR, CompressedStrategy

__all__ = ["ArtemisND"]


class ArtemisND(CompressedStrategy):
    """The server takes the whole update, clients its compression.

        w_{k+1} = w_k - gamma/N sum_i (h_i + q_i)
        w_hat_{k+1} = w_hat_k + C_down(w_{k+1} - w_k)

    with q_i and h_i as in :class:`Artemis`. The clients' model drifts from the
    central one, since nothing corrects what the compression leaves out: a baseline
    that shows what MCM's memory is for.

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
            **kwargs,
        )
