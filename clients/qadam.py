"""A client that sends Adam's direction instead of its gradient.

Source: Chen, Shen, Huang & Liu, "Quantized Adam with error feedback" (ACM
Transactions on Intelligent Systems and Technology, 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from flwr.app import ConfigRecord
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from flower_compress.arguments import check_number
from flower_compress.compressors import Vector
from flower_compress.wire.layout import EXACT_PATTERN

from .app import ObjectiveFactory, make_app
from .gradient import gradient_step
from .moments import Moments, MomentsMod

__all__ = ["QAdamMod", "qadam_client"]


class QAdamMod(MomentsMod):
    """CompressionMod for a train function that returns a gradient, with moments.

    The client keeps its own moments of the gradient g and sends

        m_t = beta1 m_{t-1} + (1 - beta1) g
        v_t = beta2 v_{t-1} + (1 - beta2) g^2
        u = m_t / sqrt(v_t + eps)

    over the uplink, with error feedback where the server says so
    (:func:`flower_compress.strategies.qadam`). t counts the rounds in which the client
    took part. The moments are in ``Context.state``; each session begins with zeros.

    Parameters
    ----------
    beta1, beta2 : float
        Decay of the two moments, in [0, 1).
    eps : float
        Positive.
    exact_pattern : str
        As for the strategy: arrays of such names are no gradients, and stay as they
        are.
    """

    state_key: ClassVar[str] = "flower_compress.qadam"
    names: ClassVar[tuple[str, ...]] = ("first moment", "second moment")

    def __init__(
        self,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        *,
        exact_pattern: str = EXACT_PATTERN,
    ) -> None:
        for name, beta in (("beta1", beta1), ("beta2", beta2)):
            check_number(name, beta, "lie in [0, 1)", lambda b: 0 <= b < 1)
        check_number("eps", eps, "be positive", lambda e: e > 0)
        super().__init__(exact_pattern=exact_pattern)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def step(
        self, moments: Moments, gradient: Vector, config: ConfigRecord
    ) -> tuple[Moments, Vector]:
        """Return the two moments, and u."""
        m, v = moments
        m = np.float32(self.beta1) * m + np.float32(1.0 - self.beta1) * gradient
        square = gradient * gradient
        v = np.float32(self.beta2) * v + np.float32(1.0 - self.beta2) * square
        direction: Vector = m / np.sqrt(v + np.float32(self.eps))
        return np.stack((m, v)), direction


def qadam_client(
    objective: ObjectiveFactory,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    mods: Sequence[Mod] = (),
) -> ClientApp:
    """Return an app that answers with u, Adam's direction at the model it received.

    Keys of the train config: those of :func:`gradient_client`.

    Parameters
    ----------
    objective : Callable[[Context, ConfigRecord], Objective]
        Builds the client's objective; called with every message, so let it cache.
    beta1, beta2, eps : float
        See :class:`QAdamMod`.
    mods : Sequence[Mod]
        Further mods, behind that one: they see plain arrays, a gradient in the reply.
    """
    return make_app(objective, gradient_step, (QAdamMod(beta1, beta2, eps), *mods))
