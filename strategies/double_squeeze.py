"""DoubleSqueeze, also known as Dist-EF-SGD: error feedback both ways.

Sources: Tang et al., "DoubleSqueeze: parallel stochastic gradient descent with
double-pass error-compensated compression" (ICML 2019); Zheng, Huang & Kwok,
"Communication-efficient distributed blockwise momentum SGD with error-feedback"
(NeurIPS 2019).
"""

from __future__ import annotations

from typing import Any

from flower_compress.compressors import Compressor
from flower_compress.links import ErrorFeedback

from .run.names import refuse_fixed
from .server import QUIET_COMPRESSOR, CompressedStrategy

__all__ = ["DoubleSqueeze"]


class DoubleSqueeze(CompressedStrategy):
    """All clients and the server apply the same compressed update (degraded).

        v_i = g_i(w_k) + e_i,   q_i = C(v_i),   e_i = v_i - q_i
        v = -gamma/N sum_i q_i + e
        w_{k+1} = w_k + C_down(v),   e = v - C_down(v)

    Parameters
    ----------
    compressor : Compressor
        C, the papers' a contraction (TopK, ScaledSign), for clients that send
        gradients. What a contraction leaves out adds up while clients that train
        locally ask for it again, which diverges; the default has little noise instead.
    downlink_compressor : Compressor, optional
        C_down where it differs from C_up.
    **kwargs
        Every other argument of :class:`CompressedStrategy`.
    """

    def __init__(
        self,
        compressor: Compressor = QUIET_COMPRESSOR,
        *,
        downlink_compressor: Compressor | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_fixed(
            self, kwargs, "uplink", "downlink", "downlink_carries", "preserved"
        )
        super().__init__(
            uplink=ErrorFeedback(compressor),
            downlink=ErrorFeedback(downlink_compressor or compressor),
            downlink_carries="update",
            preserved=False,
            **kwargs,
        )
