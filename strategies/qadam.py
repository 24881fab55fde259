"""QAdam: Adam's direction computed at the clients, sent with error feedback.

Source: Chen, Shen, Huang & Liu, "Quantized Adam with error feedback" (ACM
Transactions on Intelligent Systems and Technology, 2021).
"""

from __future__ import annotations

from typing import Any

from flower_compress.compressors import Compressor, Identity, TopK
from flower_compress.links import Direct, ErrorFeedback

from .run.names import refuse_fixed
from .run.step_size import StepSize
from .server import CompressedStrategy

__all__ = ["qadam"]


def qadam(
    compressor: Compressor = TopK(fraction=0.01),
    *,
    step_size: StepSize = 1e-3,
    **kwargs: Any,
) -> CompressedStrategy:
    """Return the server's end, for :func:`flower_compress.clients.qadam_client`.

        u_i = m_i / sqrt(v_i + eps), the moments of g_i(theta_{t-1}), at the client
        q_i = C(u_i + e_i),   e_i = u_i + e_i - q_i
        theta_t = theta_{t-1} - eta_t / n sum_i q_i

    The paper compresses eta_t u_i. With constant eta and an operator that commutes with
    scaling, as TopK, that is the same.

    Parameters
    ----------
    compressor : Compressor
        C, a contraction; default the hundredth part of the entries that is largest.
    step_size : float or Callable[[int], float] (default: 0.001)
        eta, or a function of the round (from 1) that gives eta_t.
    **kwargs
        Every other argument of :class:`CompressedStrategy`.
    """
    refuse_fixed("qadam", kwargs, "uplink", "downlink")
    return CompressedStrategy(
        uplink=ErrorFeedback(compressor),
        downlink=Direct(Identity()),
        step_size=step_size,
        **kwargs,
    )
