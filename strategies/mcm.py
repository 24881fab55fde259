"""MCM: the model compressed down against a memory that all clients share.

Source: Philippenko & Dieuleveut, "Preserved central model for faster bidirectional
compression in distributed settings" (NeurIPS 2021), eq. (3).
"""

from __future__ import annotations

from typing import Any

from flower_compress.compressors import Compressor
from flower_compress.links import Memory

from .diana import Diana
from .run.names import refuse_fixed
from .server import DEFAULT_COMPRESSOR

__all__ = ["MCM"]


class MCM(Diana):
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
    downlink_rate : float, optional
        alpha_down; default 1 / (2 (omega + 1)).
    **kwargs
        Every other argument of :class:`Diana`: ``uplink_rate``, ``initial_memory`` and
        those of :class:`CompressedStrategy`.
    """

    def __init__(
        self,
        compressor: Compressor = DEFAULT_COMPRESSOR,
        *,
        downlink_compressor: Compressor | None = None,
        downlink_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_fixed(self, kwargs, "downlink")
        super().__init__(
            compressor,
            downlink=Memory(downlink_compressor or compressor, rate=downlink_rate),
            **kwargs,
        )
