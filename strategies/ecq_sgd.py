"""ECQ-SGD: quantized gradients up, what was left out of them fed back in part.

Source: Wu, Huang, Huang & Zhang, "Error compensated quantized SGD and its applications
to large-scale distributed optimization" (ICML 2018).
"""

from __future__ import annotations

from typing import Any

from flower_compress.compressors import Compressor, Identity
from flower_compress.links import CompensatedFeedback, Direct

from .run.names import refuse_fixed
from .server import QUIET_COMPRESSOR, CompressedStrategy

__all__ = ["ECQSGD"]


class ECQSGD(CompressedStrategy):
    """Clients add a part of the errors they have made so far.

        q_i = C(g_i(w_k) + alpha h_i)
        h_i = beta h_i + g_i(w_k) - q_i
        w_{k+1} = w_k - gamma/N sum_i q_i

    Parameters
    ----------
    compressor : Compressor
        C, the paper's an unbiased quantizer.
    compensation : float, optional
        alpha, in [0, 1]; default 1 / (omega + 1), ours.
    feedback : float (default: 1.0)
        beta, in [0, 1]; below 1 errors are forgotten.
    **kwargs
        Every other argument of :class:`CompressedStrategy`.
    """

    def __init__(
        self,
        compressor: Compressor = QUIET_COMPRESSOR,
        *,
        compensation: float | None = None,
        feedback: float = 1.0,
        **kwargs: Any,
    ) -> None:
        refuse_fixed(self, kwargs, "uplink", "downlink")
        super().__init__(
            uplink=CompensatedFeedback(
                compressor, feedback=feedback, compensation=compensation
            ),
            downlink=Direct(Identity()),
            **kwargs,
        )
