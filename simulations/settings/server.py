"""The part of the settings that algorithms with a server take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from flwr.app import ConfigRecord

from flower_compress import (
    MinVarianceSparsifier,
    RandK,
    RotatedQuantizer,
    StochasticQuantizer,
    TopK,
)
from flower_compress.compressors import Compressor
from flower_compress.errors import ConfigurationError
from flower_compress.strategies.server.downlink_rules import DownlinkMemory, ResetEvery
from flower_compress.strategies.server.sampling import Sampling
from flower_compress.strategies.server.uplink import UplinkMemory

from .option import below, check_values, dashed, one_of, option
from .takers import (
    KEEPING_DOWNLINK_MEMORIES,
    KEEPING_UPLINK_MEMORIES,
    MOMENTS_AT_CLIENTS,
    OF_ANY_CLIENT,
    QUANTIZING,
    QUANTIZING_SERVERS,
    SERVING,
    SPARSIFYING,
)

__all__ = ["Server"]

_LOCAL = one_of("client", "local-steps")


@dataclass(frozen=True)
class Server:
    """What clients do, who takes part, and what both ends remember.

    Parameters
    ----------
    client : {"gradient", "local-steps"}
        What clients do with the model; those of qadam also keep its moments.
    local_steps, local_step_size
        With ``client="local-steps"``: how many steps, and of what size.
    fraction : float
        Share of the clients that is drawn each round.
    sampling : {"fixed", "bernoulli"}
        That share exactly, or every client with that probability, on its own.
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
    sparsity : float
        k / d of the sparsifiers (spars-ams, topk, stoc-mv, stoc-unif, qadam).
    operator : {"qsgd", "rotated"}
        The quantizer: QSGD's, as in the papers, or the strategies' own default.
    step : float
        With ``operator="rotated"``: width of a level, in standard deviations.
    """

    client: str = option(
        "gradient",
        "What clients do with the model.",
        panel="Clients",
        choices=("gradient", "local-steps"),
        takers=OF_ANY_CLIENT,
    )
    local_steps: int = option(
        5,
        "Steps of a local-steps client.",
        panel="Clients",
        least=1,
        takers=OF_ANY_CLIENT,
        needs=(_LOCAL,),
    )
    local_step_size: float = option(
        0.1,
        "Their size.",
        panel="Clients",
        takers=OF_ANY_CLIENT,
        needs=(_LOCAL,),
    )
    fraction: float = option(
        1.0,
        "Share of the clients that is drawn each round.",
        panel="Clients",
        share=True,
        takers=SERVING,
    )
    sampling: str = option(
        "fixed",
        "That share exactly, or each client on its own with that probability.",
        panel="Clients",
        choices=get_args(Sampling),
        takers=SERVING,
        needs=(below("fraction", 1.0),),
    )
    operator: str = option(
        "qsgd",
        "The quantizer: the papers', or rotated, the strategies' own default.",
        panel="Compression",
        choices=("qsgd", "rotated"),
        takers=QUANTIZING_SERVERS,
    )
    step: float = option(
        1.5,
        "Width of a level of the rotated quantizer, in standard deviations.",
        panel="Compression",
        takers=QUANTIZING_SERVERS,
        needs=(one_of("operator", "rotated"),),
    )
    sparsity: float = option(
        0.01,
        "Share k/d that the sparsifiers keep.",
        panel="Compression",
        share=True,
        takers=SPARSIFYING,
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
        check_values(self)
        self._reset_interval()

    def check(self, algorithm: str, clients: int) -> None:
        """Check what depends on the algorithm and the number of clients: nothing."""

    def compressor(
        self, algorithm: str, levels: int, bucket_size: int | None
    ) -> Compressor:
        """Return the operator of every compressed link."""
        match algorithm:
            case "stoc-mv":
                return MinVarianceSparsifier(self.sparsity)
            case "stoc-unif":
                return RandK(fraction=self.sparsity)
        if algorithm in SPARSIFYING.names:
            return TopK(fraction=self.sparsity)
        if self.operator == "rotated":
            scope: dict[str, Any] = {"bucket_size": bucket_size} if bucket_size else {}
            return RotatedQuantizer(self.step, **scope)
        return StochasticQuantizer(levels or 1, bucket_size=bucket_size)

    def strategy_options(
        self, algorithm: str, clients: int, compressor: Compressor
    ) -> dict[str, Any]:
        """Return the strategy's arguments."""
        options: dict[str, Any] = {
            "sampling": self.sampling,
            # As in the papers, and the figures of the docs.
            "small_arrays": "compressed",
            "uplink_memory": self.uplink_memory,
            "weighted_by_key": None,
            "fraction_train": self.fraction,
            "min_train_nodes": 1,
            "min_available_nodes": clients,
            "fraction_evaluate": 0.0,
        }
        if algorithm in (*QUANTIZING.names, *SPARSIFYING.names):
            options["compressor"] = compressor
        if algorithm in KEEPING_UPLINK_MEMORIES.names:
            options["initial_memory"] = self.initial_memory
        if algorithm in KEEPING_DOWNLINK_MEMORIES.names:
            options["memory"] = self.downlink_memory
            options["reset_every"] = self._reset_interval()
        return options

    def train_config(self, algorithm: str) -> ConfigRecord:
        """Return what clients need to know of this part."""
        if algorithm == MOMENTS_AT_CLIENTS:
            return ConfigRecord({"client": algorithm})
        keys = ["client"]
        if self.client == "local-steps":
            keys += ["local_steps", "local_step_size"]
        return ConfigRecord({dashed(key): getattr(self, key) for key in keys})

    def clients_per_round(self, clients: int) -> float:
        """How many clients take part in a round; with ``"bernoulli"``, on average."""
        expected = self.fraction * clients
        return expected if self.sampling == "bernoulli" else max(int(expected), 1)

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
