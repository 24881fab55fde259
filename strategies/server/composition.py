"""What an algorithm with a server is made of."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from flower_compress.arguments import check_count, check_number
from flower_compress.compressors import Vector
from flower_compress.compressors.checks import plain_fields
from flower_compress.errors import (
    ConfigurationError,
    UnknownNameError,
    WrongTypeError,
    shown,
)
from flower_compress.links import Carries, ErrorFeedback, Link
from flower_compress.links.checks import require_link
from flower_compress.stability import LinkNoise, largest_share, level
from flower_compress.wire.layout import EXACT_PATTERN, Layout

from .arrays import SmallArrays, describe_arrays, resolve, ties_of
from .bounds import DEFAULT_NORM_RATIO, DEFAULT_WEIGHT_RATIO, Bounds
from .departures import FORGET_AFTER
from .downlink_rules import DownlinkMemory, Groups, ResetEvery, check_downlink
from .first_model import FirstModel, check_first_model
from .optimizers import GradientDescent, ServerOptimizer
from .roster import Identities
from .uplink_memories import UplinkMemory

__all__ = ["Composition"]

_MANY_CLIENTS = 12
_UNCOMPRESSED = 2.0
"""So far clients may go where nothing is compressed: twice the way, short of it."""


@dataclass(frozen=True)
class Composition:
    """Two links, what they carry and keep, and the server's step between them.

    Parameters are those of :class:`CompressedStrategy`.

    Raises
    ------
    ConfigurationError
        If they cannot work together.
    """

    uplink: Link
    downlink: Link
    downlink_carries: Carries = "model"
    preserved: bool = True
    groups: Groups = 1
    optimizer: ServerOptimizer = field(default_factory=GradientDescent)
    seed: int = 0
    exact_pattern: str = EXACT_PATTERN
    uplink_memory: UplinkMemory = "each"
    downlink_memory: DownlinkMemory = "each"
    reset_every: ResetEvery = "auto"
    memory_budget: int | None = 1 << 28
    spill_dir: Path | None = None
    max_update_norm: float | None = None
    small_arrays: SmallArrays = "dense"
    forget_after: int | None = FORGET_AFTER
    max_norm_ratio: float | None = DEFAULT_NORM_RATIO
    max_weight_ratio: float | None = DEFAULT_WEIGHT_RATIO
    identities: Identities = "claimed"
    first_model: FirstModel = "dense"

    def __post_init__(self) -> None:
        plain_fields(self)
        require_link(self.uplink, Link, "uplink")
        require_link(self.downlink, Link, "downlink")
        if not isinstance(self.optimizer, ServerOptimizer):
            raise WrongTypeError(
                "optimizer",
                "a step of the server's, as AMSGrad(1e-3)",
                self.optimizer,
                "a plain step is step_size=...",
            )
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise WrongTypeError("seed", "an integer", self.seed)
        check_downlink(
            self.downlink,
            self.downlink_carries,
            self.groups,
            self.preserved,
            self.downlink_memory,
            self.reset_every,
        )
        for name, choices in (
            ("uplink_memory", get_args(UplinkMemory)),
            ("small_arrays", get_args(SmallArrays)),
            ("identities", get_args(Identities)),
        ):
            if getattr(self, name) not in choices:
                raise UnknownNameError(name, getattr(self, name), choices)
        check_count("memory_budget", self.memory_budget, 0, or_none=True)
        try:
            re.compile(self.exact_pattern)
        except (TypeError, re.error) as error:
            raise ConfigurationError(
                "exact_pattern must be a regular expression for names of arrays, got "
                f"{shown(self.exact_pattern)}: {error}"
            ) from error
        if self.max_update_norm is not None:
            check_number(
                "max_update_norm",
                self.max_update_norm,
                "be positive",
                lambda norm: norm > 0,
            )
        check_first_model(self.first_model, self.downlink, self.downlink_carries)
        check_count("forget_after", self.forget_after, 1, or_none=True)
        for name in ("max_norm_ratio", "max_weight_ratio"):
            if (ratio := getattr(self, name)) is not None:
                check_number(name, ratio, "be at least 1", lambda ratio: ratio >= 1)

    def resolve(self, layout: Layout, initial: Vector) -> Composition:
        """Return the composition for models of that layout that begin as `initial`."""
        ties = ties_of(layout, initial)
        return replace(
            self,
            uplink=resolve(self.uplink, self.small_arrays, layout, ties),
            downlink=resolve(self.downlink, self.small_arrays, layout, ties),
        )

    def bounds(self, layout: Layout) -> Bounds:
        """Return what clients may contribute to models of that layout."""
        compressor = self.uplink.compressor
        omega = compressor.omega(layout.dim) if compressor.unbiased else 0.0
        if not np.isfinite(omega):
            omega = 0.0
        return Bounds(layout, self.max_norm_ratio, self.max_weight_ratio, omega)

    def fingerprint(self) -> dict[str, Any]:
        """Return what must not change when a run goes on, beside the contract."""
        return {
            "downlink": self.downlink.config(),
            "downlink_carries": self.downlink_carries,
            "preserved": self.preserved,
            "uplink_memory": self.uplink_memory,
            "downlink_memory": self.downlink_memory,
        }

    def largest_share(
        self, dim: int, num_clients: int, num_active: int, most: float = 1.0
    ) -> float | None:
        """Return how far clients may go in a round before noise feeds itself.

        See :mod:`flower_compress.stability`. It is the share of the way to their own
        optima, times the server's step size; None where it is not known: a biased
        operator, or another step than a plain one.

        Parameters
        ----------
        dim : int
            Length d of the model.
        num_clients, num_active : int
            How many clients there are, and how many take part in a round.
        most : float
            The most that is looked at: 1 where clients stop at their optima.
        """
        # More clients than these are borne better, and take longer to work out.
        counted = min(num_clients, _MANY_CLIENTS)
        active = max(1, min(counted, round(num_active * counted / num_clients)))
        links = self._in_theory(dim)
        if links is None:
            return None
        return largest_share(**links, num_clients=counted, num_active=active, most=most)

    def level(
        self,
        dim: int,
        num_clients: int,
        num_active: int,
        *,
        share: float,
        spread: float,
        num_rounds: int | None = None,
    ) -> float | None:
        """Return how far from the optimum a run levels off, of the way at its start.

        The root of :func:`flower_compress.stability.level`, for clients that go `share`
        of the way to their own optima, times the server's step size; None where it is
        not known, as in :meth:`largest_share`.

        Parameters
        ----------
        dim : int
            Length d of the model.
        num_clients, num_active : int
            How many clients there are, and how many take part in a round.
        share, spread, num_rounds
            As that function has them.
        """
        links = self._in_theory(dim)
        if links is None:
            return None
        found = level(
            share,
            **links,
            spread=spread,
            num_clients=num_clients,
            num_active=num_active,
            num_rounds=num_rounds,
        )
        return math.sqrt(found)

    def _in_theory(self, dim: int) -> dict[str, Any] | None:
        """Return the links as :mod:`flower_compress.stability` has them, if it does."""
        uplink, downlink = _noise(self.uplink, dim), _noise(self.downlink, dim)
        plain = isinstance(self.optimizer, GradientDescent)
        if uplink is None or downlink is None or not plain:
            return None
        return {
            "uplink": uplink,
            "downlink": downlink,
            "carries_update": self.downlink_carries == "update",
            "preserved": self.preserved,
            "private": self.groups == "client",
        }

    def describe(self, layout: Layout | None, num_clients: int) -> list[str]:
        """Return lines on both links and the step, for the log.

        Of a composition that was resolved for `layout`.

        Parameters
        ----------
        layout : Layout, optional
            The model's arrays, None before the start.
        num_clients : int
            How many clients there are at least, for what they may do.
        """
        dim = None if layout is None else layout.dim
        arrays = []
        if layout is not None:
            arrays = describe_arrays(self.uplink, self.downlink, layout)
        groups = "one per client" if self.groups == "client" else f"{self.groups} group"
        model = "preserved" if self.preserved else "degraded"
        return [
            f"Dimension: {'unknown before the start' if dim is None else dim}",
            *arrays,
            f"Uplink: {_describe(self.uplink, dim)}",
            f"Downlink: {_describe(self.downlink, dim)}",
            f"Downlink carries the {self.downlink_carries} ({groups}), "
            f"central model {model}",
            f"Server step: {self.optimizer}",
            *self._local_training(dim, num_clients),
            f"Seed: {self.seed}",
        ]

    def _local_training(self, dim: int | None, num_clients: int) -> list[str]:
        """Say how far clients may go in a round, where that is known."""
        if dim is None:
            return []
        largest = self.largest_share(dim, num_clients, num_clients, _UNCOMPRESSED)
        if largest is None:
            return []
        borne, way = "any", "the way to the clients' own optima a round"
        if largest < 1.0:
            borne = f"up to {largest:.2g} of {way}"
        elif largest < _UNCOMPRESSED:
            borne = (
                f"any up to {largest:.2f} times {way}, beyond which only momentum or "
                "too large a step leads"
            )
        return [f"Local training that {num_clients} clients may do: {borne}"]


def _noise(link: Link, dim: int) -> LinkNoise | None:
    compressor = link.compressor
    if not compressor.unbiased:
        return None
    omega, rate = compressor.omega(dim), link.memory_rate(dim)
    if rate is not None:
        return LinkNoise("memory", omega, rate)
    if isinstance(link, ErrorFeedback) and omega > 0:
        if link.kind != ErrorFeedback.kind:
            return None
        return LinkNoise("error-feedback", omega, link.feedback_at(dim))
    return LinkNoise("direct", omega)


def _describe(link: Link, dim: int | None) -> str:
    """One line on a link: its compressor, code, omega (or contraction) and alpha."""
    compressor = link.compressor
    text = f"{type(link).__name__}({compressor}), code {link.code}"
    if dim is None:
        return text
    if compressor.unbiased:
        text += f", omega {compressor.omega(dim):.4g}"
    else:
        text += f", contraction {compressor.contraction(dim):.4g}"
    rate = link.memory_rate(dim)
    return text if rate is None else f"{text}, alpha {rate:.4g}"
