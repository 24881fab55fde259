"""QSGD: quantized gradients up, the model down.

Source: Alistarh et al., "QSGD: communication-efficient SGD via gradient quantization
and encoding" (NeurIPS 2017).
"""

from __future__ import annotations

from typing import Any

from flower_compress.compressors import Compressor, Identity
from flower_compress.links import Direct

from .run.names import refuse_fixed
from .server import DEFAULT_COMPRESSOR, CompressedStrategy

__all__ = ["QSGD"]


class QSGD(CompressedStrategy):
    """w_{k+1} = w_k - gamma/N sum_i C(g_i(w_k)).

    Parameters
    ----------
    compressor : Compressor
        C_up.
    **kwargs
        Every other argument of :class:`CompressedStrategy`.
    """

    def __init__(
        self,
        compressor: Compressor = DEFAULT_COMPRESSOR,
        **kwargs: Any,
    ) -> None:
        refuse_fixed(self, kwargs, "uplink", "downlink")
        super().__init__(
            uplink=Direct(compressor),
            downlink=Direct(Identity()),
            **kwargs,
        )
