"""Diana: compressed gradient differences up, the model down.

Source: Mishchenko, Gorbunov, Takac & Richtarik, "Distributed learning with compressed
gradient differences" (2019).
"""

from __future__ import annotations

from typing import Any, Literal

from flower_compress.compressors import Compressor, Identity
from flower_compress.links import Direct, Link, Memory

from .run.names import refuse_fixed
from .server import DEFAULT_COMPRESSOR, CompressedStrategy

__all__ = ["Diana"]


class Diana(CompressedStrategy):
    """Each client keeps a memory h_i of its gradient, known to the server.

        q_i = C(g_i(w_k) - h_i)
        w_{k+1} = w_k - gamma/N sum_i (h_i + q_i)
        h_i += alpha q_i

    With another downlink this is the uplink half of Artemis, Dore, MCM and Rand-MCM.

    Parameters
    ----------
    compressor : Compressor
        C, of the uplink.
    downlink : Link
        Carries the model, dense by default.
    uplink_rate : float, optional
        alpha, of the uplink's memory; default 1 / (2 (omega + 1)).
    initial_memory : {"zero", "first"} (default: "zero")
        h_0 = 0, or h_0 = g_1, which costs one dense message a client.
    **kwargs
        Every other argument of :class:`CompressedStrategy`.
    """

    def __init__(
        self,
        compressor: Compressor = DEFAULT_COMPRESSOR,
        *,
        downlink: Link = Direct(Identity()),
        uplink_rate: float | None = None,
        initial_memory: Literal["zero", "first"] = "zero",
        **kwargs: Any,
    ) -> None:
        refuse_fixed(self, kwargs, "uplink")
        super().__init__(
            uplink=Memory(compressor, rate=uplink_rate, initial=initial_memory),
            downlink=downlink,
            **kwargs,
        )
