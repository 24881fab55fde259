"""Replies that look like the other of what a train function may return."""

from __future__ import annotations

import math
from logging import getLogger
from typing import ClassVar

import numpy as np

from ..compressors import Vector
from .client_mod import Returns

__all__ = ["ReturnedArrays"]

_log = getLogger("flwr")
_NEAR = 0.5
"""Of the model's norm: a first round of training hardly makes it so much shorter, and a
gradient is hardly ever as near to it."""


class ReturnedArrays:
    """Says once a run that a first reply is hardly what `returns` says that it is.

    Flower's strategies add up whatever they are sent, so that an app may return the
    difference that training made, or a gradient. Where weights are expected, either
    makes an update as long as the model, and noise in proportion. It is for a client's
    first reply: honest training makes a model that has diverged shorter, too.
    """

    _told: ClassVar[set[int]] = set()
    """The sessions of which this process has said so."""

    def look(
        self, session: int, returns: Returns, model: Vector, returned: Vector
    ) -> None:
        """Compare what a train function returned with the model that it was sent.

        Parameters
        ----------
        session : int
            The run.
        returns : {"weights", "gradient"}
            What it is said to return.
        model, returned : NDArray[np.float32]
            What it was sent, and what came of it, shape (d,).
        """
        if session in self._told:
            return
        with np.errstate(over="ignore", invalid="ignore"):  # Then neither is near.
            length, change = float(np.dot(model, model)), float(np.dot(returned, model))
            square = float(np.dot(returned, returned))
        near = _NEAR**2 * length
        if returns == "weights" and square < near:
            self._told.add(session)
            _log.warning(
                "CompressionMod: the train function returned arrays far shorter than "
                "the model that it was sent (norm %.3g, the model's %.3g), and weights "
                "are expected. If they are what training changed, return the model "
                "with that added, for a strategy that averages weights; if a gradient, "
                'CompressionMod(returns="gradient")',
                math.sqrt(square),
                math.sqrt(length),
            )
        elif returns == "gradient" and square - 2 * change + length < near:
            self._told.add(session)
            _log.warning(
                "CompressionMod: the train function returned nearly the model that it "
                "was sent, and a gradient is expected. If these are weights, leave out "
                'returns="gradient"'
            )
