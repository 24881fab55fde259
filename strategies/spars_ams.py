"""SPARS-AMS: AMSGrad at the server, on the clients' largest entries.

Source: "Sparsified distributed adaptive learning with error feedback" (draft),
algorithm 1 and figure 1.
"""

from __future__ import annotations

from typing import Any

from flower_compress.compressors import Compressor, Identity, TopK
from flower_compress.links import Direct, ErrorFeedback, Link

from .run.names import refuse_fixed
from .run.step_size import StepSize
from .server import AMSGrad, CompressedStrategy

__all__ = ["SparsAMS"]


class SparsAMS(CompressedStrategy):
    """Clients send compressed gradients, and only the server keeps moments.

        v_i = g_i(theta_{t-1}) + e_i,   q_i = C(v_i),   e_i = v_i - q_i
        g = 1/n sum_i q_i
        m_t = beta1 m_{t-1} + (1 - beta1) g
        v_t = beta2 v_{t-1} + (1 - beta2) g^2
        vhat_t = max(v_t, vhat_{t-1})
        theta_t = theta_{t-1} - eta_t m_t / sqrt(vhat_t + eps)

    There is no bias correction, and eps is inside the root. The moments are part of the
    checkpoints.

    Parameters
    ----------
    compressor : Compressor
        C, a contraction; default the hundredth part of the entries that is largest.
    error_feedback : bool (default: True)
        Whether e_i is kept. If not, e_i = 0: the curves of the paper's figure that
        SPARS-AMS is set against.
    downlink : Link
        Carries the model, dense by default. ``Memory(StochasticQuantizer())`` makes it
        MCM's downlink.
    step_size : float or Callable[[int], float] (default: 0.003)
        eta, or a function of the round (from 1) that gives eta_t. An entry that is sent
        moves by some eta, however far the clients went: the default was measured with
        clients that return weights.
    beta1, beta2, eps : float
        As for :class:`~flower_compress.strategies.AMSGrad`.
    **kwargs
        Every other argument of :class:`CompressedStrategy`.
    """

    def __init__(
        self,
        compressor: Compressor = TopK(fraction=0.01),
        *,
        error_feedback: bool = True,
        downlink: Link = Direct(Identity()),
        step_size: StepSize = 3e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        **kwargs: Any,
    ) -> None:
        refuse_fixed(self, kwargs, "uplink", "optimizer")
        super().__init__(
            uplink=(ErrorFeedback if error_feedback else Direct)(compressor),
            downlink=downlink,
            optimizer=AMSGrad(step_size, beta1, beta2, eps),
            **kwargs,
        )
