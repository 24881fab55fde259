"""The part of the settings that algorithms with a server take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from flwr.app import ConfigRecord

from flower_compress.compressors import Compressor
from flower_compress.errors import ConfigurationError
from flower_compress.strategies.server.sampling import Sampling

from .compression import Compression
from .momentum import HeavyBall
from .option import below, check_values, dashed, one_of, option
from .schedule import Schedule
from .takers import (
    MOMENTS_AT_CLIENTS,
    MOMENTS_AT_THE_SERVER,
    OF_ANY_CLIENT,
    OF_MOMENTUM,
    SERVING,
    STEPPING,
)

__all__ = ["Server"]

_LOCAL = one_of("client", "local-steps")


@dataclass(frozen=True)
class Server(Compression):
    """What clients do, who takes part, and the server's step.

    The parameters of :class:`Compression` come before these.

    Parameters
    ----------
    client : {"gradient", "local-steps"}
        What clients do with the model; qadam and dist-ef-sgd have clients of their own.
    local_steps, local_step_size
        With ``client="local-steps"``: how many steps, and of what size.
    fraction : float
        Share of the clients that is drawn each round.
    sampling : {"fixed", "bernoulli"}
        That share exactly, or every client with that probability, on its own.
    momentum : float
        beta of the server's heavy ball, in [0, 1).
    client_momentum : float
        mu of the clients' Nesterov momentum, in [0, 1) (dist-ef-sgd).
    beta1, beta2, eps : float
        Of AMSGrad's step, where the server keeps its moments.
    average : bool
        Whether what is evaluated is the Polyak-Ruppert average of the models.
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
    momentum: float = option(
        0.0,
        "beta of the server's heavy ball, in [0, 1).",
        panel="Run",
        takers=STEPPING,
    )
    client_momentum: float = option(
        0.9,
        "mu of the clients' Nesterov momentum, in [0, 1).",
        panel="Clients",
        takers=OF_MOMENTUM,
    )
    beta1: float = option(
        0.9,
        "Decay of AMSGrad's first moment, in [0, 1).",
        panel="Run",
        takers=MOMENTS_AT_THE_SERVER,
    )
    beta2: float = option(
        0.999,
        "Decay of its second moment, in [0, 1).",
        panel="Run",
        takers=MOMENTS_AT_THE_SERVER,
    )
    eps: float = option(
        1e-8,
        "eps inside the root of its step.",
        panel="Run",
        takers=MOMENTS_AT_THE_SERVER,
    )
    average: bool = option(
        False,
        "Evaluate the Polyak-Ruppert average of the models, weighted by 1/gamma.",
        panel="Run",
        takers=SERVING,
    )

    def __post_init__(self) -> None:
        check_values(self)
        super().__post_init__()
        for name in ("momentum", "client_momentum"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigurationError(
                    f"{dashed(name)} must lie in [0, 1), got {getattr(self, name)}"
                )

    def check(self, algorithm: str, clients: int) -> None:
        """Check what depends on the algorithm and the number of clients: nothing."""

    def strategy_options(
        self, algorithm: str, clients: int, compressor: Compressor
    ) -> dict[str, Any]:
        """Return the strategy's arguments."""
        options: dict[str, Any] = {
            "sampling": self.sampling,
            # As in the papers, and the figures of the docs.
            "small_arrays": "compressed",
            "weighted_by_key": None,
            "fraction_train": self.fraction,
            "min_train_nodes": 1,
            "min_available_nodes": clients,
            "fraction_evaluate": 0.0,
        }
        if algorithm in MOMENTS_AT_THE_SERVER.names:
            for name in ("beta1", "beta2", "eps"):
                options[name] = getattr(self, name)
        return {**options, **self.link_options(algorithm, compressor)}

    def step_options(self, schedule: Schedule) -> dict[str, Any]:
        """Return the strategy's arguments of the server's step."""
        if self.momentum:
            return {"optimizer": HeavyBall(schedule, self.momentum)}
        return {}

    def train_config(self, algorithm: str) -> ConfigRecord:
        """Return what clients need to know of this part."""
        if algorithm in OF_MOMENTUM.names:
            return ConfigRecord({"client": algorithm, "momentum": self.client_momentum})
        if algorithm in MOMENTS_AT_CLIENTS:
            return ConfigRecord({"client": algorithm})
        keys = ["client"]
        if self.client == "local-steps":
            keys += ["local_steps", "local_step_size"]
        return ConfigRecord({dashed(key): getattr(self, key) for key in keys})

    def clients_per_round(self, clients: int) -> float:
        """How many clients take part in a round; with ``"bernoulli"``, on average."""
        expected = self.fraction * clients
        return expected if self.sampling == "bernoulli" else max(int(expected), 1)
