"""What a client may contribute, measured by what the others do."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from logging import getLogger
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flower_compress.errors import RefusedUpdateError
from flower_compress.wire.layout import Layout, Tensor

from ..run.fields import NUMBER, ROWS, TABLE, fields
from .crowd import Crowd, median_of_some

__all__ = [
    "DEFAULT_NORM_RATIO",
    "DEFAULT_WEIGHT_RATIO",
    "Bounds",
    "ExactBounds",
    "Given",
    "NormBound",
    "WeightCap",
]

_log = getLogger("flwr")

DEFAULT_NORM_RATIO = 250.0
"""Twelve times the longest honest update that was measured: docs/protocol.md."""
DEFAULT_WEIGHT_RATIO = 1000.0
"""A client of a thousand times the median's examples still counts as that many."""

_LONGEST = 2.0**63  # Of a longer vector the square is no float32.
_ALONE = 1e6
_COUNTS = re.compile(r"(^|\.)(running_var|num_batches_tracked)$")
_LARGEST_WHOLE = 2.0**53  # Beyond, a float64 mean is none.


class Given(NamedTuple):
    """What a client gives beside the vector itself."""

    norm: float
    """||v_i||."""
    weight: float
    """w_i."""
    exact: bytes
    """Its exact arrays."""


@dataclass
class NormBound:
    """The longest update that is ordinary: a multiple of the median length.

    An update v_i = h_i + q_i is refused if

        ||v_i|| > R sqrt(1 + omega) max(m_1, ..., m_t, m)

    with m_k the median, after round k, of the latest lengths of all clients, and m
    that of this round's. Honest updates shrink as a run converges, and a client that
    joins late sends one as long as others did at the start: so the largest median
    counts, not the last. All that grows, grows for all: with it grow the medians of
    the round itself, and those of all clients within as many rounds as it takes to
    hear half of them. omega is the operator's: what it sends may be that much longer
    than what it was given. Where fewer than three clients were heard, there is no
    median: then the bound is 2^63, above which squares overflow.

    Parameters
    ----------
    ratio : float, optional
        R; None for no bound.
    omega : float
        The operator's; 0 where none is known.
    """

    ratio: float | None
    omega: float = 0.0

    def __post_init__(self) -> None:
        self._crowd, self._largest = Crowd(), 0.0

    def limit(self, norms: Mapping[int, float]) -> float:
        """Note a round's lengths by client; return the longest that is ordinary."""
        if self.ratio is None:
            return math.inf
        self._crowd.note(norms)
        self._largest = max(self._largest, self._crowd.median() or 0.0)
        ordinary = max(self._largest, median_of_some(norms.values()) or 0.0)
        if not ordinary:
            return _LONGEST
        return self.ratio * math.sqrt(1.0 + self.omega) * ordinary

    def save(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {"crowd": self._crowd.save(), "largest": self._largest}

    def restore(self, meta: dict[str, Any]) -> None:
        """Take over what :meth:`save` gave."""
        meta = fields(meta, crowd=ROWS, largest=NUMBER)
        self._crowd.restore(meta["crowd"])
        self._largest = float(meta["largest"])


class WeightCap:
    """The largest weight of a client: a multiple of the median of the clients' latest.

    Parameters
    ----------
    ratio : float, optional
        The multiple; None for no cap.
    what : str
        What the log calls the weights.
    """

    def __init__(self, ratio: float | None, what: str = "weight") -> None:
        self._ratio, self._what = ratio, what
        self._crowd, self._told = Crowd(), set[int]()

    def capped(self, weights: Mapping[int, float]) -> dict[int, float]:
        """Note a round's weights by client; return what each counts with."""
        if self._ratio is None:
            return dict(weights)
        self._crowd.note(weights)
        ordinary = self._crowd.median()
        if ordinary is None:
            return dict(weights)
        most = self._ratio * ordinary
        for identity, weight in weights.items():
            if weight > most and identity not in self._told:
                self._told.add(identity)
                _log.warning(
                    "client %d has a %s of %g, more than %g times the median %g, and "
                    "counts with %g: if that is right, raise max_weight_ratio",
                    identity,
                    self._what,
                    weight,
                    self._ratio,
                    ordinary,
                    most,
                )
        return {identity: min(weight, most) for identity, weight in weights.items()}

    def save(self) -> list[Any]:
        """Return everything that counts, for JSON."""
        return self._crowd.save()

    def restore(self, meta: list[Any]) -> None:
        """Take over what :meth:`save` gave."""
        self._crowd.restore(meta)


class ExactBounds:
    """What exact arrays may hold, by the model's own and those of the others.

    Of each array the distance to the model's, D_i = max_j |x_ij - x_j|, may be at most

        R max(m, the largest m of earlier rounds, max_j |x_j|)

    with m the median of this round's positive distances. Of integers, and where fewer
    than three clients give one, 10^6 max(1, max_j |x_j|) will do as well: a counter of
    batches begins at 0. A variance and a counter are not negative, and no number is
    beyond 2^53, or the 2^63 of floats.

    Parameters
    ----------
    layout : Layout
        The model's arrays.
    ratio : float, optional
        R; None for no bound.
    """

    def __init__(self, layout: Layout, ratio: float | None) -> None:
        self._layout, self._ratio = layout, ratio
        self._tensors = [tensor for tensor in layout.tensors if tensor.exact]
        self._largest = [0.0] * len(self._tensors)

    def refused(self, model: bytes, given: Mapping[int, bytes]) -> dict[int, str]:
        """Return why exact arrays are refused, by client.

        Parameters
        ----------
        model : bytes
            The model's own.
        given : Mapping[int, bytes]
            Those of the round, of the layout's length, by client.
        """
        if self._ratio is None or not self._tensors or not given:
            return {}
        reasons: dict[int, str] = {}
        own = self._layout.exact_arrays(model)
        columns = zip(
            *(self._layout.exact_arrays(part) for part in given.values()), strict=True
        )
        for number, (tensor, held, column) in enumerate(
            zip(self._tensors, own, columns, strict=True)
        ):
            distances = [_distance(entries, held) for entries in column]
            limit = self._limit(number, distances, held)
            for identity, entries, distance in zip(
                given, column, distances, strict=True
            ):
                if reason := _unfit(tensor, entries, distance, limit):
                    reasons.setdefault(identity, reason)
        return reasons

    def _limit(self, number: int, distances: list[float], held: NDArray[Any]) -> float:
        size = float(np.abs(held.astype(np.float64)).max(initial=0.0))
        median = median_of_some(distances)
        self._largest[number] = max(self._largest[number], median or 0.0)
        limit = (self._ratio or 0.0) * max(self._largest[number], size)
        if median is not None and held.dtype.kind == "f":
            return limit
        return max(limit, _ALONE * max(1.0, size))

    def save(self) -> list[float]:
        """Return everything, for JSON."""
        return self._largest

    def restore(self, meta: list[float]) -> None:
        """Take over what :meth:`save` gave."""
        self._largest = [float(distance) for distance in meta]


def _distance(entries: NDArray[Any], held: NDArray[Any]) -> float:
    with np.errstate(over="ignore"):  # Infinite is far enough.
        apart = entries.astype(np.float64) - held.astype(np.float64)
    return float(np.abs(apart).max(initial=0.0))


def _unfit(
    tensor: Tensor, entries: NDArray[Any], distance: float, limit: float
) -> str | None:
    """Return why entries are refused, None if they are not."""
    most = _LARGEST_WHOLE if entries.dtype.kind in "iu" else _LONGEST
    if distance > min(limit, most):
        return (
            f"array {tensor.name!r}: expected entries within {min(limit, most):g} of "
            f"the model's, got one {distance:g} away: if that is right, raise "
            "max_norm_ratio"
        )
    if entries.size and entries.min() < 0 and _COUNTS.search(tensor.name):
        return f"array {tensor.name!r}: expected no negative entry, got one"
    return None


class Bounds:
    """All bounds of a run.

    Parameters
    ----------
    layout : Layout
        The model's arrays.
    norm_ratio, weight_ratio : float, optional
        See :class:`NormBound`, :class:`ExactBounds` and :class:`WeightCap`.
    omega : float
        See :class:`NormBound`.
    """

    def __init__(
        self,
        layout: Layout,
        norm_ratio: float | None,
        weight_ratio: float | None,
        omega: float,
    ) -> None:
        self.norms = NormBound(norm_ratio, omega)
        self.exact = ExactBounds(layout, norm_ratio)
        self.weights = WeightCap(weight_ratio)
        self.evaluation_weights = WeightCap(weight_ratio, "weight in evaluation")

    def judge(
        self, model: bytes, given: Mapping[int, Given]
    ) -> tuple[dict[int, RefusedUpdateError], dict[int, float]]:
        """Return why clients are refused, and the weights of the others.

        Parameters
        ----------
        model : bytes
            The model's exact arrays.
        given : Mapping[int, Given]
            What clients give in a round, by identity, in ascending order.
        """
        limit = self.norms.limit({i: each.norm for i, each in given.items()})
        refused = {
            i: RefusedUpdateError(
                f"expected an update of norm at most {limit:g}, by what other clients "
                f"send (max_norm_ratio), got {each.norm:g}"
            )
            for i, each in given.items()
            if each.norm > limit
        }
        left = {i: each for i, each in given.items() if i not in refused}
        exact = {i: each.exact for i, each in left.items()}
        for i, reason in self.exact.refused(model, exact).items():
            refused[i] = RefusedUpdateError(reason)
        weights = {i: each.weight for i, each in left.items() if i not in refused}
        return refused, self.weights.capped(weights)

    def save(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {
            "norms": self.norms.save(),
            "exact": self.exact.save(),
            "weights": self.weights.save(),
            "evaluation_weights": self.evaluation_weights.save(),
        }

    def restore(self, meta: dict[str, Any]) -> None:
        """Take over what :meth:`save` gave."""
        meta = fields(
            meta, norms=TABLE, exact=ROWS, weights=ROWS, evaluation_weights=ROWS
        )
        self.norms.restore(meta["norms"])
        self.exact.restore(meta["exact"])
        self.weights.restore(meta["weights"])
        self.evaluation_weights.restore(meta["evaluation_weights"])
