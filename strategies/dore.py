"""Dore: Diana's uplink, and the update down with error feedback.

Source: Liu, Li, Tang & Yan, "A double residual compression algorithm for efficient
distributed learning" (AISTATS 2020), algorithm 1 with beta = 1.
"""

from __future__ import annotations

from typing import Any

from flower_compress.compressors import Compressor
from flower_compress.links import ErrorFeedback

from .diana import Diana
from .run.names import refuse_fixed
from .server import DEFAULT_COMPRESSOR, QUIET_COMPRESSOR

__all__ = ["Dore"]


class Dore(Diana):
    """All clients and the server apply the same compressed update (degraded).

        q_i = C_up(g_i(w_k) - h_i),    h_i += alpha q_i
        v = -gamma/N sum_i (h_i + q_i) + e
        w_{k+1} = w_k + C_down(v),   e = eta (v - C_down(v))

    Parameters
    ----------
    compressor : Compressor
        C_up.
    downlink_compressor : Compressor, optional
        C_down where it differs from C_up. The default C_up goes with a C_down of less
        noise, ``RotatedQuantizer`` of step 1, since the feedback adds to it.
    eta : float, optional
        Fraction of the error that is fed back; default 1 / (omega + 1) for an unbiased
        operator, since eta^2 omega >= 1 blows the error up, and 1 for a contraction.
    **kwargs
        Every other argument of :class:`Diana`: ``uplink_rate``, ``initial_memory`` and
        those of :class:`CompressedStrategy`.
    """

    def __init__(
        self,
        compressor: Compressor = DEFAULT_COMPRESSOR,
        *,
        downlink_compressor: Compressor | None = None,
        eta: float | None = None,
        **kwargs: Any,
    ) -> None:
        if downlink_compressor is None:
            is_default = compressor is DEFAULT_COMPRESSOR
            downlink_compressor = QUIET_COMPRESSOR if is_default else compressor
        refuse_fixed(self, kwargs, "downlink", "downlink_carries", "preserved")
        super().__init__(
            compressor,
            downlink=ErrorFeedback(downlink_compressor, feedback=eta),
            downlink_carries="update",
            preserved=False,
            **kwargs,
        )
