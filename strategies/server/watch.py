"""Whether the noise of compression feeds itself: told before a run, and in it."""

from __future__ import annotations

from collections import deque
from logging import getLogger
from math import inf, isfinite, sqrt
from statistics import median
from typing import Any

import numpy as np

from flower_compress.compressors import Vector

from ..run.fields import FLAG, OPTIONAL_NUMBER, ROWS, fields
from .composition import Composition
from .missed import tell_of_missed
from .optimizers import GradientDescent

__all__ = ["NoiseWatch"]

_log = getLogger("flwr")
_REMEDY = (
    "take an operator of less noise, as RotatedQuantizer(step=1.5), fewer local steps, "
    "or a smaller step_size"
)
_REMEDY_OF_FINE = (
    "their operators are fine ones, so clients may overshoot their optima, by momentum "
    "or too large a step, or the server does: take less of either, a smaller "
    "step_size, or RotatedQuantizer(step=0.5)"
)
_FINE = 0.25
"""The omega of an operator that bears any training up to the clients' optima."""
_OF_MODEL = 0.5
_WINDOW = 8
_GROWTH = 2.0
_MIDDLE_OF, _FAR = 4, 30.0


class NoiseWatch:
    """Looks at what the server has for nothing: the operators, and its own updates.

    A run in which the noise of compression feeds itself grows exponentially. So the
    norm of the server's update doubles within a few rounds, again and again, where
    without compression it would stay or shrink. Links that bear any training up to the
    clients' optima do so only where clients overshoot them; of these runs an update has
    to be as long as half of the model too, which no other growth leads to.

    Parameters
    ----------
    name : str
        What the log calls the strategy.
    composition : Composition
        The algorithm.
    dim : int
        Length d of the model.

    Attributes
    ----------
    bearable : float, optional
        See :meth:`Composition.largest_share`; None where it is not known, and before
        the first round.
    """

    def __init__(self, name: str, composition: Composition, dim: int) -> None:
        self._name, self._composition, self._dim = name, composition, dim
        self.bearable: float | None = None
        self._has_begun = self._has_told = False
        self._norms: deque[float] = deque(maxlen=_WINDOW + 1)
        self._lowest = inf

    def begin(self, num_clients: int, num_active: int) -> None:
        """Say once, before the first round, what the links do not bear, or cost.

        Parameters
        ----------
        num_clients, num_active : int
            How many clients there are, and how many take part in a round.
        """
        if self._has_begun or not num_active:
            return
        self._has_begun = True
        tell_of_missed(self._composition, num_clients, num_active)
        self.bearable = self._composition.largest_share(
            self._dim, num_clients, num_active
        )
        if self.bearable is None or self.bearable >= 1.0:
            return
        optimizer = self._composition.optimizer
        step = optimizer.step_size if isinstance(optimizer, GradientDescent) else None
        # A smaller step is for clients that send gradients, and was chosen for them.
        level = _log.warning if step == 1.0 else _log.info
        level(
            "%s with these operators diverges once %d clients go more than %.2g of the "
            "way to their own optima in a round, as long local training does: %s",
            self._name,
            num_clients,
            self.bearable,
            self._remedy,
        )

    @property
    def _remedy(self) -> str:
        operator = self._composition.uplink.compressor
        is_fine = operator.unbiased and operator.omega(self._dim) <= _FINE
        return _REMEDY_OF_FINE if is_fine else _REMEDY

    def note(
        self, server_round: int, update_norm: float, model: Vector | None = None
    ) -> bool:
        """Look at a round's update; say once, and return, that the run diverges.

        Parameters
        ----------
        server_round : int
            The round.
        update_norm : float
            ||u||, the Euclidean norm of the server's update.
        model : NDArray[np.float32], optional
            The model after it, shape (d,).
        """
        if update_norm == 0:  # A round without a step.
            return False
        self._norms.append(update_norm)
        growth = self._growth()
        if growth is None or self._has_told:
            return False
        if self.bearable is not None and self.bearable >= 1.0 and model is not None:
            # In float64, where no square overflows.
            squares = float(np.square(model, dtype=np.float64).sum())
            if update_norm < _OF_MODEL * sqrt(squares):
                return False
        self._has_told = True
        _log.warning(
            "round %d: the updates of %s have grown %.3g times, as if the noise of "
            "compression fed itself: %s",
            server_round,
            self._name,
            growth,
            self._remedy,
        )
        return True

    def _growth(self) -> float | None:
        """Return how many times updates have grown, None if that is no divergence.

        They double twice within eight rounds, or are far beyond what they were once, of
        four rounds the middle: growth that is slow, or jumpy.
        """
        first, last = self._norms[0], self._norms[-1]
        if not isfinite(last):
            return inf
        if len(self._norms) > _WINDOW:
            half = self._norms[_WINDOW // 2]
            if last > _GROWTH * half > _GROWTH**2 * first:
                return last / first
        if len(self._norms) < _MIDDLE_OF:
            return None
        recent = median(list(self._norms)[-_MIDDLE_OF:])
        self._lowest = min(self._lowest, recent)
        return recent / self._lowest if recent > _FAR * self._lowest else None

    def begin_again(self) -> None:
        """Forget the updates so far: the run goes on from an earlier model."""
        self._norms.clear()
        self._lowest, self._has_told = inf, False

    def save(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {
            "begun": self._has_begun,
            "told": self._has_told,
            "bearable": self.bearable,
            "norms": list(self._norms),
            "lowest": self._lowest if isfinite(self._lowest) else None,
        }

    def restore(self, meta: dict[str, Any]) -> None:
        """Take over what :meth:`save` gave."""
        meta = fields(
            meta,
            begun=FLAG,
            told=FLAG,
            bearable=OPTIONAL_NUMBER,
            norms=ROWS,
            lowest=OPTIONAL_NUMBER,
        )
        if not all(type(norm) is float for norm in meta["norms"]):
            raise ValueError(f"expected lengths of updates, got {meta['norms']!r:.60}")
        self._has_begun, self._has_told = meta["begun"], meta["told"]
        self.bearable, lowest = meta["bearable"], meta["lowest"]
        self._norms.clear()
        self._norms.extend(meta["norms"])
        self._lowest = inf if lowest is None else lowest
