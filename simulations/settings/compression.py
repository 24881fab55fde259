"""What goes over the links of algorithms with a server, and what both ends remember."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

from flower_compress import (
    Identity,
    MinVarianceSparsifier,
    RandK,
    RotatedQuantizer,
    ScaledSign,
    StochasticQuantizer,
    TopK,
)
from flower_compress.compressors import Compressor
from flower_compress.errors import ConfigurationError
from flower_compress.strategies import CompressedStrategy, Relay
from flower_compress.strategies.server.downlink_rules import DownlinkMemory, ResetEvery
from flower_compress.strategies.server.uplink_memories import UplinkMemory

from .links import Ghost, LevelsByClient
from .operators import parse_operator
from .option import dashed, one_of, option
from .takers import (
    BUCKETED,
    COUNTING,
    GROUPING,
    KEEPING_DOWNLINK_MEMORIES,
    KEEPING_SHARED_MODEL_MEMORIES,
    KEEPING_UPLINK_MEMORIES,
    OF_ANY_DOWNLINK_OPERATOR,
    OF_ANY_OPERATOR,
    OF_GHOSTS,
    OF_MOMENTUM,
    OF_SIGNS,
    QUANTIZING_SERVERS,
    SPARSIFYING,
)

__all__ = ["Compression"]

_OWN_OPERATOR = one_of("uplink", "auto")


@dataclass(frozen=True)
class Compression:
    """The operators and memories of both directions.

    Parameters
    ----------
    uplink_memory : {"each", "mean", "sampled"}
        What the server keeps of the uplinks' memories; see CompressedStrategy.
    downlink_memory : {"each", "average"}
        Whether the server keeps every client's downlink memory, or their average
        (rand-mcm).
    reset_every : str
        Rounds between resets of that average: ``"auto"`` (4 sqrt(d)), ``"never"`` or a
        number.
    initial_memory : {"zero", "first"}
        h_0 = 0, or h_0 = g_1 sent dense (algorithms with an uplink memory).
    uplink : str
        Operator of the uplink, with its parameters (``"random-sparsifier:p=0.1"``), or
        ``"auto"`` for the algorithm's, which the options below describe.
    downlink : str
        Operator of a compressed downlink; ``"auto"`` for the uplink's.
    uplink_rate, downlink_rate : str
        alpha of the memories, in [0, 1]; ``"auto"`` is 1 / (2 (omega + 1)).
    groups : int
        Groups of clients that share a downlink, its memory and its draws (rand-mcm);
        0 for one for each client.
    downlink_levels : str
        Levels of the downlink's quantizer for clients 0, 1, ..., as ``"1,2,4"``, over
        and over (rand-mcm); empty for the same for all.
    ghost : bool
        Whether mcm's downlink compresses the step from the central model before, which
        clients do not have: a bound, for simulations alone.
    sparsity : float
        k / d of the sparsifiers (spars-ams, topk, stoc-mv, stoc-unif, qadam).
    k : int
        Entries that they keep, instead of that share; 0 for the share.
    operator : {"qsgd", "rotated"}
        The quantizer: QSGD's, as in the papers, or the strategies' own default.
    step : float
        With ``operator="rotated"``: width of a level, in standard deviations.
    """

    uplink: str = option(
        "auto",
        "Operator of the uplink, as random-sparsifier:p=0.1; auto is the algorithm's.",
        panel="Compression",
        takers=OF_ANY_OPERATOR,
    )
    downlink: str = option(
        "auto",
        "Operator of the compressed downlink; auto is the uplink's.",
        panel="Compression",
        takers=OF_ANY_DOWNLINK_OPERATOR,
    )
    uplink_rate: str = option(
        "auto",
        "alpha of the uplink's memories, 0 to 1; auto is 1/(2(omega + 1)).",
        panel="Compression",
        takers=KEEPING_UPLINK_MEMORIES,
    )
    downlink_rate: str = option(
        "auto",
        "alpha of the downlink's memories, 0 to 1; auto is 1/(2(omega + 1)).",
        panel="Compression",
        takers=KEEPING_SHARED_MODEL_MEMORIES,
        needs=(one_of("ghost", False),),
    )
    downlink_levels: str = option(
        "",
        "Levels of the downlink's quantizer client by client, as 1,2,4.",
        panel="Compression",
        takers=GROUPING,
        needs=(one_of("downlink", "auto"), one_of("groups", 0)),
    )
    ghost: bool = option(
        False,
        "Compress the step from the model before, which clients lack: a bound.",
        panel="Compression",
        takers=OF_GHOSTS,
    )
    groups: int = option(
        0,
        "Groups of clients that share a downlink; 0 for one for each client.",
        panel="Compression",
        least=0,
        takers=GROUPING,
        needs=(one_of("downlink_memory", "each"),),
    )
    operator: str = option(
        "qsgd",
        "The quantizer: the papers', or rotated, the strategies' own default.",
        panel="Compression",
        choices=("qsgd", "rotated"),
        takers=QUANTIZING_SERVERS,
        needs=(_OWN_OPERATOR,),
    )
    step: float = option(
        1.5,
        "Width of a level of the rotated quantizer, in standard deviations.",
        panel="Compression",
        takers=QUANTIZING_SERVERS,
        needs=(_OWN_OPERATOR, one_of("operator", "rotated")),
    )
    sparsity: float = option(
        0.01,
        "Share k/d that the sparsifiers keep.",
        panel="Compression",
        share=True,
        takers=SPARSIFYING,
        needs=(one_of("k", 0), _OWN_OPERATOR),
    )
    k: int = option(
        0,
        "Entries that the sparsifiers keep; 0 for the share --sparsity.",
        panel="Compression",
        least=0,
        takers=COUNTING,
        needs=(_OWN_OPERATOR,),
    )
    uplink_memory: str = option(
        "each",
        "What the server keeps of the uplinks' memories.",
        panel="Compression",
        choices=get_args(UplinkMemory),
        takers=KEEPING_UPLINK_MEMORIES,
    )
    initial_memory: str = option(
        "zero",
        "first: h_0 = g_1, sent dense and billed.",
        panel="Compression",
        choices=("zero", "first"),
        takers=KEEPING_UPLINK_MEMORIES,
    )
    downlink_memory: str = option(
        "each",
        "One for each client, or their average (rand-mcm).",
        panel="Compression",
        choices=get_args(DownlinkMemory),
        takers=KEEPING_DOWNLINK_MEMORIES,
    )
    reset_every: str = option(
        "auto",
        "Rounds between resets of that average: auto (4 sqrt(d)), never or a number.",
        panel="Compression",
        takers=KEEPING_DOWNLINK_MEMORIES,
        needs=(one_of("downlink_memory", "average"),),
    )

    def __post_init__(self) -> None:
        self._reset_interval()
        self._levels()
        self._rate("uplink_rate")
        self._rate("downlink_rate")
        for text in (self.uplink, self.downlink):
            if text != "auto":
                parse_operator(text)

    def compressor(
        self, algorithm: str, levels: int, bucket_size: int | None
    ) -> Compressor:
        """Return the operator of the uplink, and of the downlink by default."""
        if self.uplink != "auto":
            return parse_operator(self.uplink)
        kept: dict[str, Any] = {"fraction": self.sparsity}
        if self.k:
            kept = {"k": self.k}
        match algorithm:
            case "stoc-mv":
                return MinVarianceSparsifier(self.sparsity)
            case "stoc-unif":
                return RandK(**kept)
        if algorithm in SPARSIFYING.names:
            return TopK(**kept)
        scope: dict[str, Any] = {"bucket_size": bucket_size} if bucket_size else {}
        if algorithm in OF_MOMENTUM.names:
            return ScaledSign(per="tensor", **scope)
        if algorithm in OF_SIGNS:
            return ScaledSign(**scope)
        if self.operator == "rotated":
            return RotatedQuantizer(self.step, **scope)
        return StochasticQuantizer(levels or 1, bucket_size=bucket_size)

    def link_options(self, algorithm: str, compressor: Compressor) -> dict[str, Any]:
        """Return the strategy's arguments of its links."""
        options: dict[str, Any] = {"uplink_memory": self.uplink_memory}
        if algorithm in (*BUCKETED.names, *SPARSIFYING.names):
            options["compressor"] = compressor
        if self.downlink != "auto":
            options["downlink_compressor"] = parse_operator(self.downlink)
        for name in ("uplink_rate", "downlink_rate"):
            if (rate := self._rate(name)) is not None:
                options[name] = rate
        if self.groups:
            options["groups"] = self.groups
        if algorithm in KEEPING_UPLINK_MEMORIES.names:
            options["initial_memory"] = self.initial_memory
        if algorithm in KEEPING_DOWNLINK_MEMORIES.names:
            options["memory"] = self.downlink_memory
            options["reset_every"] = self._reset_interval()
        return options

    def relink(
        self,
        strategy: CompressedStrategy | Relay,
        compressor: Compressor,
        bucket_size: int | None,
    ) -> None:
        """Give a strategy the downlink of simulations alone that is asked for."""
        if not isinstance(strategy, CompressedStrategy):
            return
        if self.ghost:
            strategy.downlink = Ghost(Identity(), operator=self._down(compressor))
        if levels := self._levels():
            coarsest = StochasticQuantizer(min(levels), bucket_size=bucket_size)
            rate = self._rate("downlink_rate")
            strategy.downlink = LevelsByClient(coarsest, rate=rate, levels=levels)

    def _down(self, compressor: Compressor) -> Compressor:
        return compressor if self.downlink == "auto" else parse_operator(self.downlink)

    def _levels(self) -> tuple[int, ...]:
        """Return the downlink's levels client by client, none if they are the same."""
        parts = [part.strip() for part in self.downlink_levels.split(",") if part]
        if all(part.isdecimal() and int(part) > 0 for part in parts):
            return tuple(map(int, parts))
        raise ConfigurationError(
            "downlink-levels must be positive numbers with commas between, as 1,2,4, "
            f"got {self.downlink_levels!r}"
        )

    def _rate(self, name: str) -> float | None:
        """Return alpha, None for that of the operator."""
        text = getattr(self, name)
        if text == "auto":
            return None
        try:
            rate = float(text)
        except ValueError:
            rate = math.nan
        if not 0.0 <= rate <= 1.0:
            raise ConfigurationError(
                f'{dashed(name)} must be "auto" or lie in [0, 1], got {text!r}'
            )
        return rate

    def _reset_interval(self) -> ResetEvery:
        if self.reset_every == "auto":
            return "auto"
        if self.reset_every == "never":
            return None
        if self.reset_every.isdecimal() and int(self.reset_every) > 0:
            return int(self.reset_every)
        raise ConfigurationError(
            'reset-every must be "auto", "never" or a positive number of rounds, got '
            f"{self.reset_every!r}"
        )
