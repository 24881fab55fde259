"""MCM: the model compressed down against a memory that all clients share.

Source: Philippenko & Dieuleveut, "Preserved central model for faster bidirectional
compression in distributed settings" (NeurIPS 2021), eq. (3).
"""

from __future__ import annotations

from typing import Any, Literal

from flower_compress.compressors import Compressor
from flower_compress.links import Memory

from .server import DEFAULT_COMPRESSOR, CompressedStrategy

__all__ = ["MCM"]


class MCM(CompressedStrategy):
    """The central model is preserved: only the clients' models are perturbed.

        w_hat = H + C_down(w_k - H),   H += alpha_down C_down(w_k - H)
        q_i = C_up(g_i(w_hat) - h_i),  h_i += alpha_up q_i
        w_{k+1} = w_k - gamma/N sum_i (h_i + q_i)

    Parameters
    ----------
    compressor : Compressor
        C_up.
    downlink_compressor : Compressor, optional
        C_down where it differs from C_up.
    uplink_rate : float, optional
        alpha_up; default 1 / (2 (omega + 1)).
    downlink_rate : float, optional
        alpha_down; default 1 / (2 (omega + 1)).
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
        downlink_rate: float | None = None,
        initial_memory: Literal["zero", "first"] = "zero",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            uplink=Memory(compressor, rate=uplink_rate, initial=initial_memory),
            downlink=Memory(downlink_compressor or compressor, rate=downlink_rate),
            **kwargs,
        )
