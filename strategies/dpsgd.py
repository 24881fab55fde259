"""DPSGD: decentralized SGD, error-free.

Source: Lian et al., "Can decentralized algorithms outperform centralized algorithms? A
case study for decentralized parallel stochastic gradient descent" (NeurIPS 2017).
"""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from flower_compress.compressors import Compressor, Identity

from .relay import Relay
from .run.names import refuse_fixed
from .run.step_size import StepSize
from .topology import Schedule, Topology

__all__ = ["DPSGD"]


class DPSGD(Relay):
    """Nodes step and average their models, which travel as they are.

        z_i = x_i - eta g_i(x_i)
        x_i = z_i + gamma sum_j w_ij (z_j - z_i)

    The paper takes the step and the average at once, x_i = sum_j w_ij x_j - eta g_i;
    here the step comes first, as with the other algorithms.

    Parameters
    ----------
    topology : Topology, Schedule or array
        Who talks to whom.
    compressor : Compressor
        Identity, or another operator, with which this is CHOCO-SGD.
    step_size : float or Callable[[int], float]
        eta.
    consensus_step : float
        gamma.
    **kwargs
        Every other argument of :class:`Relay`.
    """

    name = "DPSGD"

    def __init__(
        self,
        topology: Topology | Schedule | ArrayLike,
        compressor: Compressor = Identity(),
        *,
        step_size: StepSize = 0.2,
        consensus_step: float = 1.0,
        **kwargs: Any,
    ) -> None:
        refuse_fixed(self, kwargs, "algorithm", "parameters")
        super().__init__(
            topology,
            algorithm="dpsgd",
            parameters={},
            compressor=compressor,
            step_size=step_size,
            consensus_step=consensus_step,
            **kwargs,
        )
