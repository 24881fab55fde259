"""A client that adds Nesterov's momentum to its gradient before it is compressed.

Source: Zheng, Huang & Kwok, "Communication-efficient distributed blockwise momentum SGD
with error-feedback" (NeurIPS 2019), algorithm 3.
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
from .batches import number
from .gradient import gradient_step
from .moments import Moments, MomentsMod

__all__ = ["MomentumMod", "momentum_client"]


class MomentumMod(MomentsMod):
    """CompressionMod for a train function that returns a gradient, with momentum.

    The client keeps its own momentum of the gradient g and sends u over the uplink:

        m_t = mu m_{t-1} + g
        u = mu m_t + g

    t counts the rounds in which the client took part. The momentum is in
    ``Context.state``; each session begins with zeros.

    Parameters
    ----------
    momentum : float
        mu, in [0, 1); a number under ``momentum`` in the train config takes its place.
    exact_pattern : str
        As for the strategy: arrays of such names are no gradients, and stay as they
        are.
    """

    state_key: ClassVar[str] = "flower_compress.momentum"
    names: ClassVar[tuple[str, ...]] = ("momentum",)

    def __init__(
        self, momentum: float = 0.9, *, exact_pattern: str = EXACT_PATTERN
    ) -> None:
        _check(momentum)
        super().__init__(exact_pattern=exact_pattern)
        self.momentum = momentum

    def step(
        self, moments: Moments, gradient: Vector, config: ConfigRecord
    ) -> tuple[Moments, Vector]:
        """Return m and u."""
        momentum = number(config, "momentum", self.momentum)
        _check(momentum)
        mu = np.float32(momentum)
        (before,) = moments
        m = mu * before + gradient
        direction: Vector = mu * m + gradient
        return m[np.newaxis], direction


def momentum_client(
    objective: ObjectiveFactory, *, momentum: float = 0.9, mods: Sequence[Mod] = ()
) -> ClientApp:
    """Return an app that answers with u, the gradient with Nesterov's momentum.

    Keys of the train config: those of :func:`gradient_client`, and ``momentum``.

    Parameters
    ----------
    objective : Callable[[Context, ConfigRecord], Objective]
        Builds the client's objective; called with every message, so let it cache.
    momentum : float
        See :class:`MomentumMod`.
    mods : Sequence[Mod]
        Further mods, behind that one: they see plain arrays, a gradient in the reply.
    """
    return make_app(objective, gradient_step, (MomentumMod(momentum), *mods))


def _check(momentum: float) -> None:
    check_number("momentum", momentum, "lie in [0, 1)", lambda mu: 0 <= mu < 1)
