"""What the server does with the estimated gradient."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from flower_compress.arguments import check_number
from flower_compress.compressors import Vector
from flower_compress.errors import NonFiniteError

from ..run.step_size import StepSize, check_step_size, step_size_of

__all__ = [
    "AMSGrad",
    "GradientDescent",
    "OptimizerState",
    "ServerOptimizer",
]

OptimizerState = dict[str, Vector]
"""Vectors that an optimizer keeps, by name."""


class ServerOptimizer(ABC):
    """A pure step from the estimate g of the gradient to the model's update.

    A client that returns weights contributes w - w_local, a multiple of a gradient;
    so step size 1 is federated averaging.
    """

    def init(self, dim: int) -> OptimizerState:
        """Return the state before the first round."""
        return {}

    @abstractmethod
    def step(
        self, state: OptimizerState, gradient: Vector, server_round: int
    ) -> tuple[OptimizerState, Vector]:
        """Return the next state and the update u, to be added to the model."""


@dataclass(frozen=True)
class GradientDescent(ServerOptimizer):
    """u = -gamma g.

    Parameters
    ----------
    step_size : float or Callable[[int], float]
        gamma, or a function of the round (from 1) that gives it.
    """

    step_size: StepSize = 1.0

    def __post_init__(self) -> None:
        check_step_size(self.step_size)

    def step(
        self, state: OptimizerState, gradient: Vector, server_round: int
    ) -> tuple[OptimizerState, Vector]:
        """Return -gamma g in float32."""
        gamma = step_size_of(self.step_size, server_round)
        return state, np.float32(-gamma) * gradient


@dataclass(frozen=True)
class AMSGrad(ServerOptimizer):
    """The step of SPARS-AMS' server, without bias correction.

        m_t = beta1 m_{t-1} + (1 - beta1) g_t
        v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
        vhat_t = max(v_t, vhat_{t-1})
        u = -eta_t m_t / sqrt(vhat_t + eps)

    Source: Reddi, Kale & Kumar, "On the convergence of Adam and beyond" (ICLR 2018);
    eps inside the root as in "Sparsified distributed adaptive learning with error
    feedback" (draft), algorithm 1.

    Parameters
    ----------
    step_size : float or Callable[[int], float]
        eta, or a function of the round (from 1) that gives eta_t.
    beta1, beta2 : float
        Decay of the two moments, in [0, 1).
    eps : float
        Positive: an entry that has never been sent has m = vhat = 0.
    """

    step_size: StepSize = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_step_size(self.step_size)
        for name, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            check_number(name, beta, "lie in [0, 1)", lambda b: 0 <= b < 1)
        check_number("eps", self.eps, "be positive", lambda e: 0 < e < math.inf)

    def init(self, dim: int) -> OptimizerState:
        """Return m = v = vhat = 0."""
        return {name: np.zeros(dim, np.float32) for name in ("m", "v", "v_hat")}

    def step(
        self, state: OptimizerState, gradient: Vector, server_round: int
    ) -> tuple[OptimizerState, Vector]:
        """Return the moments after `gradient`, and u, in float32.

        Raises
        ------
        NonFiniteError
            If the square of an entry is too large for float32: vhat would stay
            infinite, and the entry where it is for ever.
        """
        eta = step_size_of(self.step_size, server_round)
        beta1, beta2 = np.float32(self.beta1), np.float32(self.beta2)
        rest1, rest2 = np.float32(1.0 - self.beta1), np.float32(1.0 - self.beta2)
        m = beta1 * state["m"] + rest1 * gradient
        v = beta2 * state["v"] + rest2 * (gradient * gradient)
        if not np.isfinite(v).all():
            raise NonFiniteError(
                "the second moment of the gradient exceeds float32: lower the step "
                "size, or give max_update_norm to refuse such updates"
            )
        v_hat = np.maximum(v, state["v_hat"])
        root = np.sqrt(v_hat + np.float32(self.eps))
        update: Vector = np.divide(np.float32(-eta) * m, root)
        return {"m": m, "v": v, "v_hat": v_hat}, update
