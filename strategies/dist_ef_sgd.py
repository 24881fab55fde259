"""Dist-EF-SGD with momentum: DoubleSqueeze on blocks, momentum at the clients.

Source: Zheng, Huang & Kwok, "Communication-efficient distributed blockwise momentum SGD
with error-feedback" (NeurIPS 2019), algorithm 3 (dist-EF-blockSGDM) without its weight
decay.
"""

from __future__ import annotations

from typing import Any

from flower_compress.compressors import Compressor, ScaledSign

from .double_squeeze import DoubleSqueeze

__all__ = ["DistEFSGD"]


class DistEFSGD(DoubleSqueeze):
    """The server's end, for :func:`flower_compress.clients.momentum_client`.

        m_i = mu m_i + g_i(w_k),   u_i = mu m_i + g_i(w_k)    (Nesterov's)
        q_i = C(u_i + e_i),   e_i = u_i + e_i - q_i
        v = -gamma_k/N sum_i q_i + e
        w_{k+1} = w_k + C_down(v),   e = v - C_down(v)

    The paper multiplies e_i by gamma_{k-1} / gamma_k: with a constant step size that is
    1. With mu = 0, or clients of another kind, it is :class:`DoubleSqueeze`.

    Parameters
    ----------
    compressor : Compressor
        C; default the paper's signs with a scale, each array a block.
    downlink_compressor : Compressor, optional
        C_down where it differs from C_up.
    **kwargs
        Every other argument of :class:`CompressedStrategy`.
    """

    def __init__(
        self,
        compressor: Compressor = ScaledSign(per="tensor"),
        *,
        downlink_compressor: Compressor | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(compressor, downlink_compressor=downlink_compressor, **kwargs)
