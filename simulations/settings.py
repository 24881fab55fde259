"""What one run is: every knob, checked, and how it travels in a Flower config."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from typing import Any

from flwr.app import ConfigRecord

from flower_compress import StochasticQuantizer
from flower_compress.compressors import Compressor
from flower_compress.errors import ConfigurationError, UnknownNameError
from flower_compress.strategies import CompressedStrategy, get_algorithm

from .tasks import Task, make_task

__all__ = ["CLIENTS", "TASK_KEY", "Settings", "task_of"]

TASK_KEY = "task"
"""Key of a train config: the arguments of the clients' task, as JSON."""
CLIENTS = ("gradient", "local-steps")
"""The kinds of client."""

_UNCOMPRESSED = "sgd"
_GRADIENT_KEYS = ("client", "batch_size", "seed")
_LOCAL_KEYS = (*_GRADIENT_KEYS, "local_steps", "local_step_size")


@dataclass(frozen=True)
class Settings:
    """One run of one algorithm with one seed.

    Parameters
    ----------
    algorithm : str
        A name in ``flower_compress.strategies.ALGORITHMS``.
    task, model, partition, clients, alpha
        See :func:`simulations.tasks.make_task`; `clients` is the number N.
    rounds : int
        Number of rounds.
    batch_size : int
        Examples a gradient; 0 for all of them.
    levels : int
        Levels of the stochastic quantizer, which every compressed link uses.
    bucket_size : int
        Entries that share a norm; 0 for the whole vector, as in the papers.
    step_size : str
        gamma, or ``"auto"``: 1/L with gradient clients, 1 with local steps.
    seed : int
        Fixes partition, initial model, batches, sampling and compression.
    client : {"gradient", "local-steps"}
        What clients do with the model.
    local_steps, local_step_size
        With ``client="local-steps"``: how many steps, and of what size.
    fraction : float
        Share of the clients that is drawn each round.
    initial_memory : {"zero", "first"}
        h_0 = 0, or h_0 = g_1 sent dense (algorithms with an uplink memory).
    log_every : int
        Rounds between evaluations; 0 for a thousand evaluations a run.
    """

    algorithm: str = "mcm"
    task: str = "parity"
    model: str = "softmax"
    partition: str = "label"
    clients: int = 20
    alpha: float = 0.5
    rounds: int = 100
    batch_size: int = 20
    levels: int = 1
    bucket_size: int = 0
    step_size: str = "auto"
    seed: int = 0
    client: str = "gradient"
    local_steps: int = 5
    local_step_size: float = 0.1
    fraction: float = 1.0
    initial_memory: str = "zero"
    log_every: int = 0

    def __post_init__(self) -> None:
        get_algorithm(self.algorithm)
        if self.client not in CLIENTS:
            raise UnknownNameError("client", self.client, CLIENTS)
        for name, least in (
            ("clients", 1),
            ("rounds", 1),
            ("batch_size", 0),
            ("bucket_size", 0),
            ("local_steps", 1),
            ("log_every", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigurationError(
                    f"{_dashed(name)} must be at least {least}, got "
                    f"{getattr(self, name)}"
                )
        if not 0.0 < self.fraction <= 1.0:
            raise ConfigurationError(
                f"fraction must lie in (0, 1], got {self.fraction}"
            )
        self.gamma(check_only=True)

    @cached_property
    def problem(self) -> Task:
        """The learning problem."""
        return task_of(self._task_key)

    @property
    def _task_key(self) -> str:
        names = ("task", "model", "partition", "clients", "seed", "alpha")
        return json.dumps([getattr(self, name) for name in names])

    @property
    def compressor(self) -> Compressor:
        """The operator of every compressed link."""
        return StochasticQuantizer(self.levels, bucket_size=self.bucket_size or None)

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
        if check_only or self.client == "local-steps":
            return 1.0
        smoothness = self.problem.smoothness()
        if smoothness is None:
            raise ConfigurationError(
                f"no smoothness constant is known for {self.task} with model "
                f"{self.model}: give a step size, for example --step-size 0.1"
            )
        return 1.0 / smoothness

    def strategy(self) -> CompressedStrategy:
        """Return the strategy."""
        options: dict[str, Any] = {}
        algorithm = get_algorithm(self.algorithm)
        if self.algorithm != _UNCOMPRESSED:
            options["compressor"] = self.compressor
        if self.initial_memory != "zero":
            options["initial_memory"] = self.initial_memory
        try:
            return algorithm(
                step_size=self.gamma(),
                seed=self.seed,
                weighted_by_key=None,
                fraction_train=self.fraction,
                min_train_nodes=1,
                min_available_nodes=self.clients,
                fraction_evaluate=0.0,
                **options,
            )
        except TypeError as error:
            raise ConfigurationError(f"algorithm {self.algorithm}: {error}") from error

    @property
    def evaluation_interval(self) -> int:
        """Rounds between evaluations."""
        return self.log_every or max(1, self.rounds // 1000)

    def train_config(self) -> ConfigRecord:
        """Return what clients need to know, sent with every message."""
        keys = _LOCAL_KEYS if self.client == "local-steps" else _GRADIENT_KEYS
        values = {_dashed(key): getattr(self, key) for key in keys}
        return ConfigRecord({TASK_KEY: self._task_key, **values})

    def as_dict(self) -> dict[str, Any]:
        """Return all settings, by their names on the command line."""
        return {_dashed(key): value for key, value in asdict(self).items()}

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
                values[field.name] = _convert(key, config[key], type(field.default))
        return cls(**{**values, **overrides})


@lru_cache(maxsize=32)
def task_of(key: str) -> Task:
    """Return the task that a train config names under :data:`TASK_KEY`."""
    name, model, partition, clients, seed, alpha = json.loads(key)
    return make_task(
        name,
        model=model,
        partition=partition,
        num_clients=clients,
        seed=seed,
        alpha=alpha,
    )


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _convert(key: str, value: Any, kind: type) -> Any:
    if kind is str:
        return str(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(f"{key} must be a number, got {value!r}")
    if kind is int and int(value) != value:
        raise ConfigurationError(f"{key} must be a whole number, got {value!r}")
    return kind(value)
