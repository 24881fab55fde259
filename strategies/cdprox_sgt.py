"""CDProxSGT: decentralized proximal gradient tracking with compressed residuals.

Source: Yan et al., "Compressed decentralized proximal stochastic gradient method for
nonconvex composite problems with heterogeneous data" (ICML 2023), algorithm 2; settings
of MALCOM-PSGD's appendix B.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from flower_compress.compressors import Compressor, DitheredQuantizer

from .relay import Relay
from .run.names import refuse_fixed
from .run.step_size import StepSize
from .topology import Schedule, Topology

__all__ = ["CDProxSGT"]


class CDProxSGT(Relay):
    """Two exchanges a round: of gradient trackers v_i, then of models.

        v_i += g_i(x_i) - g_before
        averaged over neighbours with estimates u_i of v_i, as x_i is below
        z_i = prox(x_i - eta v_i),         prox(a) = max(|a| - eta mu, 0) sign(a)
        q_i = C(z_i - y_i),                y_i += q_i
        x_i = z_i + gamma sum_j w_ij (y_j - y_i)

    The trackers and their estimates begin with zero, the estimates y_i with the common
    initial model. The mean of the trackers is the mean of the last gradients, as long
    as no node loses its state.

    Parameters
    ----------
    topology : Topology, Schedule or array
        Who talks to whom.
    compressor : Compressor
        C, of both exchanges.
    step_size : float or Callable[[int], float]
        eta.
    l1 : float
        mu.
    consensus_step : float
        gamma, of both exchanges.
    code : str
        Name of the code.
    **kwargs
        Every other argument of :class:`Relay`.
    """

    name = "CDProxSGT"

    def __init__(
        self,
        topology: Topology | Schedule | ArrayLike,
        compressor: Compressor = DitheredQuantizer(levels=8),
        *,
        step_size: StepSize = 0.02,
        l1: float = 7e-8,
        consensus_step: float = 1.0,
        code: str = "support-vector",
        **kwargs: Any,
    ) -> None:
        refuse_fixed(self, kwargs, "algorithm", "parameters", "num_phases")
        super().__init__(
            topology,
            algorithm="cdprox-sgt",
            parameters={"l1": l1},
            num_phases=2,
            compressor=compressor,
            step_size=step_size,
            consensus_step=consensus_step,
            code=code,
            **kwargs,
        )
