"""MALCOM-PSGD: decentralized proximal SGD with compressed residuals.

Source: "Multi-Agent Learning via Compressed updates for Proximal Stochastic Gradient
Descent" (MALCOM-PSGD), algorithm 1; settings of appendix B.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from flower_compress.compressors import Compressor, DitheredQuantizer

from .relay import Relay
from .run.names import refuse_fixed
from .run.step_size import StepSize
from .topology import Schedule, Topology

__all__ = ["MalcomPSGD"]


class MalcomPSGD(Relay):
    """Nodes step, cut small weights off, quantize what changed, and average.

        z_i = prox(x_i - eta g_i(x_i)),    prox(v) = max(|v| - eta mu, 0) sign(v)
        q_i = C(z_i - y_i),                y_i += q_i
        x_i = z_i + gamma sum_j w_ij (y_j - y_i)

    minimises 1/n sum_i F_i(x) + mu ||x||_1. The estimates y_i begin with the common
    initial model (the paper begins with zero for both).

    Parameters
    ----------
    topology : Topology, Schedule or array
        Who talks to whom.
    compressor : Compressor
        C; the paper's is the dithered quantizer with 8 levels.
    step_size : float or Callable[[int], float]
        eta.
    l1 : float
        mu.
    consensus_step : float
        gamma.
    code : str
        Name of the code; the paper's is its algorithm 3.
    **kwargs
        Every other argument of :class:`Relay`.
    """

    name = "MALCOM-PSGD"

    def __init__(
        self,
        topology: Topology | Schedule | ArrayLike,
        compressor: Compressor = DitheredQuantizer(levels=8),
        *,
        step_size: StepSize = 0.2,
        l1: float = 7e-6,
        consensus_step: float = 1.0,
        code: str = "support-vector",
        **kwargs: Any,
    ) -> None:
        refuse_fixed(self, kwargs, "algorithm", "parameters")
        super().__init__(
            topology,
            algorithm="malcom",
            parameters={"l1": l1},
            compressor=compressor,
            step_size=step_size,
            consensus_step=consensus_step,
            code=code,
            **kwargs,
        )
