"""Distributed SGD, nothing compressed: the baseline."""

from __future__ import annotations

from typing import Any

from flower_compress.compressors import Identity
from flower_compress.links import Direct

from .run.names import refuse_fixed
from .server import CompressedStrategy

__all__ = ["SGD"]


class SGD(CompressedStrategy):
    """w_{k+1} = w_k - gamma/N sum_i g_i(w_k); with weights returned, FedAvg.

    Parameters
    ----------
    **kwargs
        Every other argument of :class:`CompressedStrategy`.
    """

    def __init__(
        self,
        **kwargs: Any,
    ) -> None:
        refuse_fixed(self, kwargs, "uplink", "downlink")
        super().__init__(
            uplink=Direct(Identity()),
            downlink=Direct(Identity()),
            **kwargs,
        )
