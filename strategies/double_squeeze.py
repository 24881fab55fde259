"""DoubleSqueeze, also known as Dist-EF-SGD: error feedback both ways.

Sources: Tang et al., "DoubleSqueeze: parallel stochastic gradient descent with
double-pass error-compensated compression" (ICML 2019); Zheng, Huang & Kwok,
"Communication-efficient distributed blockwise momentum SGD with error-feedback"
(NeurIPS 2019).
"""

from __future__ import annotations

from typing import Any

from flower_compress.compressors import Compressor, TopK
from flower_compress.links import ErrorFeedback

from .server import CompressedStrategy

__all__ = ["DoubleSqueeze"]


class DoubleSqueeze(CompressedStrategy):
    """All clients and the server apply the same compressed update (degraded).

        v_i = g_i(w_k) + e_i,   q_i = C(v_i),   e_i = v_i - q_i
        v = -gamma/N sum_i q_i + e
        w_{k+1} = w_k + C_down(v),   e = v - C_down(v)

    Parameters
    ----------
    compressor : Compressor
        C, a contraction; default the hundredth part of the entries that is largest.
    downlink_compressor : Compressor, optional
        C_down where it differs from C_up.
    **kwargs
        Every other argument of :class:`CompressedStrategy`.
    """

    def __init__(
        self,
        compressor: Compressor = TopK(fraction=0.01),
        *,
        downlink_compressor: Compressor | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            uplink=ErrorFeedback(compressor),
            downlink=ErrorFeedback(downlink_compressor or compressor),
            downlink_carries="update",
            preserved=False,
            **kwargs,
        )
