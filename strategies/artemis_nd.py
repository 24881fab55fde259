"""Artemis with a non-degraded update.

Source: Philippenko & Dieuleveut, "Preserved central model for faster bidirectional
compression in distributed settings" (NeurIPS 2021), appendix B.1.2.
"""

from __future__ import annotations

from typing import Any

from flower_compress.compressors import Compressor
from flower_compress.links import Direct

from .diana import Diana
from .run.names import refuse_fixed
from .server import QUIET_COMPRESSOR

__all__ = ["ArtemisND"]


class ArtemisND(Diana):
    """The server takes the whole update, clients its compression.

        w_{k+1} = w_k - gamma/N sum_i (h_i + q_i)
        w_hat_{k+1} = w_hat_k + C_down(w_{k+1} - w_k)

    with q_i and h_i as in :class:`Artemis`. The clients' model drifts from the
    central one, since nothing corrects what the compression leaves out: a baseline
    that shows what MCM's memory is for.

    Parameters
    ----------
    compressor : Compressor
        C_up. With the default, a ``RotatedQuantizer`` of step 1, the drift adds up to
        less than the way from the start to the optimum.
    downlink_compressor : Compressor, optional
        C_down where it differs from C_up.
    **kwargs
        Every other argument of :class:`Diana`: ``uplink_rate``, ``initial_memory`` and
        those of :class:`CompressedStrategy`.
    """

    def __init__(
        self,
        compressor: Compressor = QUIET_COMPRESSOR,
        *,
        downlink_compressor: Compressor | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_fixed(self, kwargs, "downlink", "downlink_carries")
        super().__init__(
            compressor,
            downlink=Direct(downlink_compressor or compressor),
            downlink_carries="update",
            **kwargs,
        )
