"""CHOCO-SGD: decentralized SGD with compressed residuals.

Source: Koloskova, Stich & Jaggi, "Decentralized stochastic optimization and gossip
algorithms with compressed communication" (ICML 2019), algorithm 2.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from flower_compress.compressors import Compressor, DitheredQuantizer

from .relay import Relay
from .run.names import refuse_fixed
from .run.step_size import StepSize
from .topology import Schedule, Topology

__all__ = ["ChocoSGD", "choco_qsgd"]


class ChocoSGD(Relay):
    """MALCOM-PSGD without its soft threshold.

        z_i = x_i - eta g_i(x_i)
        q_i = C(z_i - y_i),                y_i += rate q_i
        x_i = z_i + gamma sum_j w_ij (y_j - y_i)

    The paper averages with the estimates of the round before and compresses then; here
    as in MALCOM-PSGD it is the other way round: compress first.

    Parameters
    ----------
    topology : Topology, Schedule or array
        Who talks to whom.
    compressor : Compressor
        C.
    step_size : float or Callable[[int], float]
        eta.
    consensus_step : float
        gamma.
    code : str
        Name of the code.
    **kwargs
        Every other argument of :class:`Relay`.
    """

    name = "CHOCO-SGD"

    def __init__(
        self,
        topology: Topology | Schedule | ArrayLike,
        compressor: Compressor = DitheredQuantizer(levels=8),
        *,
        step_size: StepSize = 0.2,
        consensus_step: float = 1.0,
        code: str = "auto",
        **kwargs: Any,
    ) -> None:
        refuse_fixed(self, kwargs, "algorithm", "parameters")
        super().__init__(
            topology,
            algorithm="choco",
            parameters={},
            compressor=compressor,
            step_size=step_size,
            consensus_step=consensus_step,
            code=code,
            **kwargs,
        )


def choco_qsgd(
    topology: Topology | Schedule | ArrayLike,
    compressor: Compressor = DitheredQuantizer(levels=8),
    **kwargs: Any,
) -> ChocoSGD:
    """Return CHOCO-SGD as MALCOM-PSGD's paper has it for its baseline.

    The same quantizer, every level's index in Elias' code ("elias-levels").
    """
    return ChocoSGD(topology, compressor, **{"code": "elias-levels", **kwargs})
