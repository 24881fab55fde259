"""The part of the settings that decentralized algorithms take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from flwr.app import ConfigRecord

from flower_compress import DitheredQuantizer, Identity, StochasticQuantizer
from flower_compress.coding import CODE_NAMES
from flower_compress.compressors import Compressor
from flower_compress.errors import ConfigurationError
from flower_compress.strategies import CompressedStrategy, Relay
from flower_compress.strategies.topology import TOPOLOGIES, get_topology

from .option import check_values, one_of, option
from .schedule import Schedule
from .takers import GOSSIPING, PROXIMAL, QUANTIZED_GOSSIP

__all__ = ["Decentralized"]

_Tau = Literal["exact", "lemma", "none"]
_RANGE_LEVELS = 8
_LOSSY = one_of("quantizer", "range", "norm")


@dataclass(frozen=True)
class Decentralized:
    """Who talks to whom, and what goes over the edges.

    Parameters
    ----------
    topology : str
        Who talks to whom; a name in
        ``flower_compress.strategies.topology.TOPOLOGIES``.
    consensus_step : float
        gamma of the averaging.
    consensus_power : float
        p >= 0: in round k gamma is consensus_step / k^p.
    l1 : str
        mu of malcom and cdprox-sgt, or ``"auto"`` for the paper's.
    quantizer : {"range", "norm", "none"}
        Levels between the least and the greatest entry (MALCOM's), levels of the
        largest magnitude (QSGD's), or none.
    tau : {"exact", "lemma", "none"}
        How the range quantizer is scaled down.
    code : str
        Code of the symbols; ``"auto"`` for the algorithm's own.
    residual : bool
        Whether differences to estimates are sent.
    rate : float
        Of the estimates; 0 for the default of the operator.
    """

    topology: str = option(
        "ring",
        "Who talks to whom.",
        panel="Decentralized",
        choices=TOPOLOGIES,
        takers=GOSSIPING,
    )
    consensus_step: float = option(
        1.0,
        "gamma of the averaging.",
        panel="Decentralized",
        share=True,
        takers=GOSSIPING,
    )
    consensus_power: float = option(
        0.0,
        "p of gamma / k^p, the averaging's gamma in round k; 0 for gamma in all.",
        panel="Decentralized",
        least=0,
        takers=GOSSIPING,
    )
    l1: str = option(
        "auto",
        'mu of malcom and cdprox-sgt; "auto" is the paper\'s.',
        panel="Decentralized",
        takers=PROXIMAL,
    )
    quantizer: str = option(
        "range",
        "Levels between the least and the greatest entry, or of the largest magnitude.",
        panel="Decentralized",
        choices=("range", "norm", "none"),
        takers=QUANTIZED_GOSSIP,
    )
    tau: str = option(
        "exact",
        "How the range quantizer is scaled down.",
        panel="Decentralized",
        choices=get_args(_Tau),
        takers=QUANTIZED_GOSSIP,
        needs=(one_of("quantizer", "range"),),
    )
    code: str = option(
        "auto",
        "Code of the symbols; auto is the algorithm's own.",
        panel="Decentralized",
        choices=CODE_NAMES,
        takers=QUANTIZED_GOSSIP,
        needs=(_LOSSY,),
    )
    residual: bool = option(
        True,
        "Whether differences to estimates are sent.",
        panel="Decentralized",
        takers=QUANTIZED_GOSSIP,
        needs=(_LOSSY,),
    )
    rate: float = option(
        0.0,
        "Of the estimates; 0 for the operator's default.",
        panel="Decentralized",
        takers=QUANTIZED_GOSSIP,
        needs=(_LOSSY, one_of("residual", True)),
    )

    def __post_init__(self) -> None:
        check_values(self)
        self._l1()

    def check(self, algorithm: str, clients: int) -> None:
        """Check that there is such a topology of so many nodes."""
        get_topology(self.topology, clients)

    def compressor(
        self, algorithm: str, levels: int, bucket_size: int | None
    ) -> Compressor:
        """Return the operator of every edge."""
        levels = levels or _RANGE_LEVELS
        match self.quantizer:
            case "none":
                return Identity()
            case "norm":
                # Levels on both sides of zero.
                half = max(levels // 2, 1)
                return StochasticQuantizer(half, norm="inf", bucket_size=bucket_size)
        tau = cast(_Tau, self.tau)
        return DitheredQuantizer(levels, tau=tau, bucket_size=bucket_size)

    def strategy_options(
        self, algorithm: str, clients: int, compressor: Compressor
    ) -> dict[str, Any]:
        """Return the relay's arguments."""
        options: dict[str, Any] = {
            "topology": get_topology(self.topology, clients),
            "consensus_step": self.consensus_step,
            "consensus_power": self.consensus_power,
            "residual": self.residual,
            "rate": self.rate or None,
        }
        if algorithm in QUANTIZED_GOSSIP.names:
            options["compressor"] = compressor
        if self.code != "auto":
            options["code"] = self.code
        if (l1 := self._l1()) is not None:
            options["l1"] = l1
        return options

    def step_options(self, schedule: Schedule) -> dict[str, Any]:
        """Return the relay's arguments of the nodes' step: none but the step size."""
        return {}

    def relink(
        self,
        strategy: CompressedStrategy | Relay,
        compressor: Compressor,
        bucket_size: int | None,
    ) -> None:
        """Leave the relay as it is."""

    def train_config(self, algorithm: str) -> ConfigRecord:
        """Return what nodes need to know of this part: their contract says it all."""
        return ConfigRecord()

    def clients_per_round(self, clients: int) -> float:
        """How many nodes take part in a round: all."""
        return clients

    def _l1(self) -> float | None:
        """Return mu, None for the algorithm's own."""
        if self.l1 == "auto":
            return None
        try:
            l1 = float(self.l1)
        except ValueError:
            l1 = math.nan
        if not (l1 >= 0 and math.isfinite(l1)):
            raise ConfigurationError(
                f'l1 must be "auto" or a number >= 0, got {self.l1!r}'
            )
        return l1
