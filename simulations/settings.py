"""What one run is: every knob, checked, and how it travels in a Flower config."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from typing import Any, get_args

from flwr.app import ConfigRecord

from flower_compress import (
    DitheredQuantizer,
    Identity,
    MinVarianceSparsifier,
    RandK,
    StochasticQuantizer,
    TopK,
)
from flower_compress.coding import CODE_NAMES
from flower_compress.compressors import Compressor
from flower_compress.errors import ConfigurationError, UnknownNameError
from flower_compress.strategies import (
    DECENTRALIZED,
    CompressedStrategy,
    Relay,
    get_algorithm,
)
from flower_compress.strategies.server.downlink import DownlinkMemory, ResetEvery
from flower_compress.strategies.server.sampling import Sampling
from flower_compress.strategies.server.uplink import UplinkMemory
from flower_compress.strategies.topology import TOPOLOGIES, get_topology

from .tasks import Task, make_task

__all__ = ["CLIENTS", "QUANTIZERS", "TASK_KEY", "Settings", "convert", "task_of"]

TASK_KEY = "task"
"""Key of a train config: the arguments of the clients' task, as JSON."""
CLIENTS = ("gradient", "local-steps")
"""The kinds of client."""
QUANTIZERS = ("range", "norm", "none")
"""The operators of decentralized algorithms."""

_UNCOMPRESSED = ("sgd", "amsgrad")
_ADAPTIVE = ("amsgrad", "spars-ams", "topk", "stoc-mv", "stoc-unif", "qadam")
_MOMENTS_AT_CLIENTS = "qadam"
_ADAPTIVE_STEP_SIZE = 1e-3
_RANGE_LEVELS = 8
_PROXIMAL = ("malcom", "cdprox-sgt")
_TAUS = ("exact", "lemma", "none")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_OF_THE_TASK = (
    "task",
    "model",
    "partition",
    "clients",
    "seed",
    "alpha",
    "data",
    "device",
)
_GRADIENT_KEYS = ("client", "batch_size", "seed")
_LOCAL_KEYS = (*_GRADIENT_KEYS, "local_steps", "local_step_size")


@dataclass(frozen=True)
class Settings:
    """One run of one algorithm with one seed.

    Parameters
    ----------
    algorithm : str
        A name in ``flower_compress.strategies.ALGORITHMS`` or ``DECENTRALIZED``; what
        follows calls the nodes of the latter clients too.
    task, model, partition, clients, alpha, data
        See :func:`simulations.tasks.make_task`; `clients` is the number N. `data` is a
        folder of every machine that computes.
    rounds : int
        Number of rounds.
    batch_size : int
        Examples a gradient; 0 for all of them.
    levels : int
        Levels of the quantizer, which every compressed link uses that is not defined
        with a sparsifier; 0 for 1, and for 8 in a decentralized run.
    sparsity : float
        k / d of the sparsifiers (spars-ams, topk, stoc-mv, stoc-unif, qadam).
    bucket_size : int
        Entries that share a norm; 0 for the whole vector, as in the papers.
    step_size : str
        gamma, or ``"auto"``: 1/L with gradient clients, 1 with local steps, 0.001 with
        an algorithm that takes Adam's steps.
    seed : int
        Fixes partition, initial model, batches, sampling and compression.
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
    topology : str
        Who talks to whom (decentralized); a name in
        ``flower_compress.strategies.topology.TOPOLOGIES``.
    consensus_step : float
        gamma of the averaging (decentralized).
    l1 : str
        mu of malcom and cdprox-sgt, or ``"auto"`` for the paper's.
    quantizer : {"range", "norm", "none"}
        Operator of a decentralized run: levels between the least and the greatest entry
        (MALCOM's), levels of the largest magnitude (QSGD's), or none.
    tau : {"exact", "lemma", "none"}
        How the range quantizer is scaled down.
    code : str
        Code of the symbols of a decentralized run; ``"auto"`` for the algorithm's own.
    residual : bool
        Whether differences to estimates are sent (decentralized).
    rate : float
        Of the estimates (decentralized); 0 for the default of the operator.
    device : str
        Where clients compute, as torch names it; ``"cpu"``, ``"cuda"``.
    log_every : int
        Rounds between evaluations; 0 for a thousand evaluations a run.
    name : str
        What the run is called in its files; the algorithm's name if empty.
    """

    algorithm: str = "mcm"
    task: str = "parity"
    model: str = "softmax"
    partition: str = "label"
    clients: int = 20
    alpha: float = 0.5
    data: str = ""
    rounds: int = 100
    batch_size: int = 20
    levels: int = 0
    sparsity: float = 0.01
    bucket_size: int = 0
    step_size: str = "auto"
    seed: int = 0
    client: str = "gradient"
    local_steps: int = 5
    local_step_size: float = 0.1
    fraction: float = 1.0
    sampling: str = "fixed"
    uplink_memory: str = "each"
    downlink_memory: str = "each"
    reset_every: str = "auto"
    initial_memory: str = "zero"
    topology: str = "ring"
    consensus_step: float = 1.0
    l1: str = "auto"
    quantizer: str = "range"
    tau: str = "exact"
    code: str = "auto"
    residual: bool = True
    rate: float = 0.0
    device: str = "cpu"
    log_every: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        get_algorithm(self.algorithm)
        if not _NAME.fullmatch(self.label):
            raise ConfigurationError(
                "a run's name has lower-case letters, digits and . _ - only and begins "
                f"with a letter or a digit, got {self.name!r}"
            )
        for name, choices in (
            ("client", CLIENTS),
            ("sampling", get_args(Sampling)),
            ("uplink_memory", get_args(UplinkMemory)),
            ("downlink_memory", get_args(DownlinkMemory)),
            ("topology", tuple(TOPOLOGIES)),
            ("quantizer", QUANTIZERS),
            ("tau", _TAUS),
            ("code", CODE_NAMES),
        ):
            if getattr(self, name) not in choices:
                raise UnknownNameError(_dashed(name), getattr(self, name), choices)
        for name, least in (
            ("clients", 1),
            ("rounds", 1),
            ("batch_size", 0),
            ("levels", 0),
            ("bucket_size", 0),
            ("local_steps", 1),
            ("log_every", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigurationError(
                    f"{_dashed(name)} must be at least {least}, got "
                    f"{getattr(self, name)}"
                )
        for name in ("fraction", "sparsity"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ConfigurationError(
                    f"{name} must lie in (0, 1], got {getattr(self, name)}"
                )
        if self.algorithm == _MOMENTS_AT_CLIENTS and self.client != "gradient":
            raise ConfigurationError(
                f"{self.algorithm} keeps moments of gradients: expected client "
                f"gradient, got {self.client}"
            )
        if self.is_decentralized:
            self._check_nodes()
        else:
            self._check_downlink_memory()
        self.gamma(check_only=True)

    @property
    def label(self) -> str:
        """What the run is called: its name, or else its algorithm's."""
        return self.name or self.algorithm

    @property
    def is_decentralized(self) -> bool:
        """Whether nodes talk to neighbours, and no server has a model."""
        return self.algorithm in DECENTRALIZED

    @cached_property
    def problem(self) -> Task:
        """The learning problem."""
        return task_of(self._task_key)

    @property
    def _task_key(self) -> str:
        return json.dumps([getattr(self, name) for name in _OF_THE_TASK])

    @property
    def compressor(self) -> Compressor:
        """The operator of every compressed link."""
        match self.algorithm:
            case "spars-ams" | "topk" | "qadam":
                return TopK(fraction=self.sparsity)
            case "stoc-mv":
                return MinVarianceSparsifier(self.sparsity)
            case "stoc-unif":
                return RandK(fraction=self.sparsity)
        options: dict[str, Any] = {"bucket_size": self.bucket_size or None}
        if not self.is_decentralized:
            return StochasticQuantizer(self.levels or 1, **options)
        levels = self.levels or _RANGE_LEVELS
        match self.quantizer:
            case "none":
                return Identity()
            case "norm":
                # Levels on both sides of zero.
                return StochasticQuantizer(max(levels // 2, 1), norm="inf", **options)
        options["tau"] = self.tau
        return DitheredQuantizer(levels, **options)

    def gamma(self, *, check_only: bool = False) -> float:
        """Return the server's step size.

        Raises
        ------
        ConfigurationError
            If it is no positive number, or 1/L is asked for where L is not known.
        """
        if self.step_size != "auto":
            try:
                gamma = float(self.step_size)
            except ValueError:
                gamma = math.nan
            if not (gamma > 0 and math.isfinite(gamma)):
                raise ConfigurationError(
                    'step-size must be "auto" or a positive number, got '
                    f"{self.step_size!r}"
                )
            return gamma
        if self.algorithm in _ADAPTIVE:
            return _ADAPTIVE_STEP_SIZE
        if check_only or (self.client == "local-steps" and not self.is_decentralized):
            return 1.0
        smoothness = self.problem.smoothness()
        if smoothness is None:
            raise ConfigurationError(
                f"no smoothness constant is known for {self.task} with model "
                f"{self.model}: give a step size, for example --step-size 0.1"
            )
        return 1.0 / smoothness

    def _check_nodes(self) -> None:
        if self.client != "gradient" or self.fraction != 1.0:
            raise ConfigurationError(
                f"{self.algorithm} has no server: expected client gradient and "
                f"fraction 1, got {self.client} and {self.fraction}"
            )
        if not 0.0 < self.consensus_step <= 1.0:
            raise ConfigurationError(
                f"consensus-step must lie in (0, 1], got {self.consensus_step}"
            )
        get_topology(self.topology, self.clients)
        self._l1()

    def _l1(self) -> float | None:
        """Return mu, None for the algorithm's own."""
        if self.l1 == "auto":
            return None
        try:
            l1 = float(self.l1)
        except ValueError:
            l1 = math.nan
        if self.algorithm not in _PROXIMAL or not (l1 >= 0 and math.isfinite(l1)):
            raise ConfigurationError(
                f'l1 must be "auto", or with {" and ".join(_PROXIMAL)} a number >= 0, '
                f"got {self.l1!r} with {self.algorithm}"
            )
        return l1

    def _check_downlink_memory(self) -> None:
        parameters = inspect.signature(get_algorithm(self.algorithm)).parameters
        averaged = self.downlink_memory == "average"
        if averaged and "memory" not in parameters:
            raise ConfigurationError(
                "downlink-memory average is for an algorithm with a downlink memory "
                f"for each client, as rand-mcm: {self.algorithm} has none"
            )
        if self._reset_interval() != "auto" and not averaged:
            raise ConfigurationError(
                f"reset-every {self.reset_every} resets an averaged memory: expected "
                f"downlink-memory average, got {self.downlink_memory}"
            )

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

    def strategy(self, **options: Any) -> CompressedStrategy | Relay:
        """Return the strategy, with further arguments of its class."""
        algorithm = get_algorithm(self.algorithm)
        chosen = (
            self._relay_options() if self.is_decentralized else self._server_options()
        )
        try:
            return algorithm(
                step_size=self.gamma(), seed=self.seed, **chosen, **options
            )
        except TypeError as error:
            raise ConfigurationError(f"algorithm {self.algorithm}: {error}") from error

    def _server_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "sampling": self.sampling,
            "uplink_memory": self.uplink_memory,
            "weighted_by_key": None,
            "fraction_train": self.fraction,
            "min_train_nodes": 1,
            "min_available_nodes": self.clients,
            "fraction_evaluate": 0.0,
        }
        if self.algorithm not in _UNCOMPRESSED:
            options["compressor"] = self.compressor
        if self.initial_memory != "zero":
            options["initial_memory"] = self.initial_memory
        if self.downlink_memory != "each":
            options["memory"] = self.downlink_memory
            options["reset_every"] = self._reset_interval()
        return options

    def _relay_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "topology": get_topology(self.topology, self.clients),
            "consensus_step": self.consensus_step,
            "residual": self.residual,
            "rate": self.rate or None,
            "collect_every": self.evaluation_interval,
        }
        if self.algorithm != "dpsgd":
            options["compressor"] = self.compressor
        if self.code != "auto":
            options["code"] = self.code
        if (l1 := self._l1()) is not None:
            options["l1"] = l1
        return options

    @property
    def evaluation_interval(self) -> int:
        """Rounds between evaluations."""
        return self.log_every or max(1, self.rounds // 1000)

    def train_config(self) -> ConfigRecord:
        """Return what clients need to know, sent with every message."""
        keys = _LOCAL_KEYS if self.client == "local-steps" else _GRADIENT_KEYS
        values = {_dashed(key): getattr(self, key) for key in keys}
        if self.algorithm == _MOMENTS_AT_CLIENTS:
            values["client"] = self.algorithm
        return ConfigRecord({TASK_KEY: self._task_key, **values})

    @property
    def clients_per_round(self) -> float:
        """How many clients take part in a round; with ``"bernoulli"``, on average."""
        expected = self.fraction * self.clients
        return expected if self.sampling == "bernoulli" else max(int(expected), 1)

    def as_dict(self) -> dict[str, Any]:
        """Return all settings but the name, by their names on the command line."""
        values = asdict(self)
        del values["name"]
        return {_dashed(key): value for key, value in values.items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **overrides: Any) -> Settings:
        """Read settings from a Flower config; unknown keys are ignored.

        Raises
        ------
        ConfigurationError
            If a value has the wrong type.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            key = _dashed(field.name)
            if key in config:
                values[field.name] = convert(key, config[key], type(field.default))
        return cls(**{**values, **overrides})


@lru_cache(maxsize=32)
def task_of(key: str) -> Task:
    """Return the task that a train config names under :data:`TASK_KEY`."""
    name, model, partition, clients, seed, alpha, data, device = json.loads(key)
    return make_task(
        name,
        model=model,
        partition=partition,
        num_clients=clients,
        seed=seed,
        alpha=alpha,
        data=data,
        device=device,
    )


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def convert(key: str, value: Any, kind: type) -> Any:
    """Return a config's value as bool, int, float or str.

    Raises
    ------
    ConfigurationError
        If it cannot be read as one.
    """
    if kind is str:
        return str(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is bool:
        raise ConfigurationError(f"{key} must be true or false, got {value!r}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(f"{key} must be a number, got {value!r}")
    if kind is int and int(value) != value:
        raise ConfigurationError(f"{key} must be a whole number, got {value!r}")
    return kind(value)
