"""What one run is: what all runs share, and what its kind of algorithm takes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from flwr.app import ConfigRecord

from flower_compress.compressors import Compressor
from flower_compress.errors import ConfigurationError, UnknownNameError
from flower_compress.strategies import (
    DECENTRALIZED,
    CompressedStrategy,
    Relay,
    get_algorithm,
)

from ..tasks import Task
from .decentralized import Decentralized
from .option import (
    Option,
    Refusal,
    check_values,
    dashed,
    one_of,
    option,
    options_of,
)
from .problem import TASK_KEY, Problem, task_of
from .schedule import SCHEDULES, Schedule
from .server import Server
from .takers import ADAPTIVE, BUCKETED, NOT_ADAPTIVE, QUANTIZING

__all__ = ["IDENTITY", "OPTIONS", "Settings", "refusals"]

IDENTITY = ("algorithm", "name", "seed")
"""What tells a run from others, and is no option."""

_ADAPTIVE_STEP_SIZE = 1e-3
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_LOSSY = one_of("quantizer", "range", "norm")
_QSGD = one_of("operator", "qsgd")
_OWN_OPERATOR = one_of("uplink", "auto")


@dataclass(frozen=True)
class Settings:
    """One run of one algorithm with one seed.

    :meth:`of` makes it from the options' names, wherever they stand.

    Parameters
    ----------
    algorithm : str
        A name in ``flower_compress.strategies.ALGORITHMS`` or ``DECENTRALIZED``; what
        follows calls the nodes of the latter clients too.
    name : str
        What the run is called in its files; the algorithm's name if empty.
    seed : int
        Fixes partition, initial model, batches, sampling and compression.
    problem : Problem
        What is learned.
    part : Server or Decentralized
        What algorithms of its kind take.
    rounds : int
        Number of rounds.
    batch_size : int
        Examples a gradient; 0 for all of them.
    step_size : str
        gamma, or ``"auto"``: 1/L with gradient clients, 1 with local steps, 0.001 with
        an algorithm that takes Adam's steps.
    schedule : str
        How gamma changes from round to round; see :class:`.schedule.Schedule`.
    smoothness : {"clients", "global"}
        Whether L is max_i L_i, which bounds every F_i, or that of F, as in the paper.
    levels : int
        Levels of the quantizer, which every compressed link uses that is not defined
        with a sparsifier; 0 for 1, and for 8 in a decentralized run.
    bucket_size : int
        Entries that share a norm; 0 for the whole vector, as in the papers (with the
        rotated quantizer for its own 4096).
    log_every : int
        Rounds between evaluations; 0 for a thousand evaluations a run.

    Raises
    ------
    UnknownNameError
        If there is no such algorithm, task, topology and so on.
    ConfigurationError
        If a value is out of its range, does not go with another, or is of an option
        that the run does not use.
    """

    algorithm: str = "mcm"
    name: str = ""
    seed: int = 0
    problem: Problem = Problem()
    part: Server | Decentralized = Server()
    rounds: int = option(100, "Number of rounds.", panel="Run", least=1)
    batch_size: int = option(
        20, "Examples a gradient; 0 for all of them.", panel="Run", least=0
    )
    step_size: str = option(
        "auto",
        'gamma; "auto" is 1/L with gradient clients, 1 with local steps, 0.001 with '
        "Adam's steps.",
        panel="Run",
    )
    schedule: str = option(
        "constant",
        "How gamma changes: gamma/sqrt(k), or 2/(mu k + 1/gamma) where that is less.",
        panel="Run",
        choices=SCHEDULES,
    )
    smoothness: str = option(
        "clients",
        "L of a step size 1/L: the largest of the clients', or that of F, the paper's.",
        panel="Run",
        choices=("clients", "global"),
        takers=NOT_ADAPTIVE,
        needs=(one_of("client", "gradient"), one_of("step_size", "auto")),
    )
    log_every: int = option(
        0, "Rounds between evaluations; 0 for a thousand a run.", panel="Run", least=0
    )
    levels: int = option(
        0,
        "Levels of the quantizer; 0 for 1, and 8 in a decentralized run.",
        panel="Compression",
        least=0,
        takers=QUANTIZING,
        needs=(_LOSSY, _OWN_OPERATOR, _QSGD),
    )
    bucket_size: int = option(
        0,
        "Entries that share a norm; 0 for the whole vector.",
        panel="Compression",
        least=0,
        takers=BUCKETED,
        needs=(_LOSSY, _OWN_OPERATOR),
    )

    def __post_init__(self) -> None:
        get_algorithm(self.algorithm)
        if not _NAME.fullmatch(self.label):
            raise ConfigurationError(
                "a run's name has lower-case letters, digits and . _ - only and begins "
                f"with a letter or a digit, got {self.name!r}"
            )
        kind = Decentralized if self.is_decentralized else Server
        if not isinstance(self.part, kind):
            raise ConfigurationError(
                f"{self.algorithm} takes the settings of {kind.__name__}, got those of "
                f"{type(self.part).__name__}"
            )
        check_values(self)
        for refusal in refusals(self.algorithm, self.given()).values():
            raise refusal.error()
        self.part.check(self.algorithm, self.problem.clients)
        self._step_size()

    @classmethod
    def of(
        cls, algorithm: str = "mcm", *, name: str = "", seed: int = 0, **given: Any
    ) -> Settings:
        """Return the settings with these options.

        Raises
        ------
        ConfigurationError
            If there is no such option, or the run does not use it.
        """
        get_algorithm(algorithm)
        for refusal in refusals(algorithm, given).values():
            raise refusal.error()

        def own(part: type) -> dict[str, Any]:
            return {each: given[each] for each in options_of(part) if each in given}

        part = Decentralized if algorithm in DECENTRALIZED else Server
        return cls(
            algorithm,
            name,
            seed,
            Problem(**own(Problem)),
            part(**own(part)),
            **own(Settings),
        )

    def but(self, **changes: Any) -> Settings:
        """Return these settings with some changed, by name.

        Raises
        ------
        ConfigurationError
            As for :meth:`of`; what was given before must be of use with the changes.
        """
        identity = {name: getattr(self, name) for name in IDENTITY}
        return Settings.of(**{**identity, **self.given(), **changes})

    def given(self) -> dict[str, Any]:
        """Return the options that do not have their default, by name."""
        return {
            name: value
            for name, value in self._values().items()
            if value != OPTIONS[name].default
        }

    def as_dict(self) -> dict[str, Any]:
        """Return algorithm, seed and every option that is used, as files name them."""
        values = self._values()
        unused = refusals(self.algorithm, values)
        used = {dashed(k): v for k, v in values.items() if k not in unused}
        return {"algorithm": self.algorithm, **used, "seed": self.seed}

    def _values(self) -> dict[str, Any]:
        return {
            name: getattr(part, name)
            for part in (self.problem, self, self.part)
            for name in options_of(type(part))
        }

    @property
    def label(self) -> str:
        """What the run is called: its name, or else its algorithm's."""
        return self.name or self.algorithm

    @property
    def is_decentralized(self) -> bool:
        """Whether nodes talk to neighbours, and no server has a model."""
        return self.algorithm in DECENTRALIZED

    @property
    def task(self) -> Task:
        """The learning problem."""
        self.problem.check_files()
        return task_of(self.problem.key(self.seed))

    @property
    def compressor(self) -> Compressor:
        """The operator of every compressed link."""
        return self.part.compressor(
            self.algorithm, self.levels, self.bucket_size or None
        )

    @property
    def evaluation_interval(self) -> int:
        """Rounds between evaluations."""
        return self.log_every or max(1, self.rounds // 1000)

    @property
    def clients_per_round(self) -> float:
        """How many clients take part in a round, on average."""
        return self.part.clients_per_round(self.problem.clients)

    def gamma(self) -> float:
        """Return the server's step size.

        Raises
        ------
        ConfigurationError
            If 1/L is asked for where L is not known.
        """
        if (known := self._step_size()) is not None:
            return known
        task = self.task
        smoothness = task.smoothness()
        if smoothness is not None and self.smoothness == "global":
            smoothness = task.global_smoothness()
        if smoothness is None:
            raise ConfigurationError(
                f"no smoothness constant is known for {self.problem.task} with model "
                f"{self.problem.model}: give a step size, for example --step-size 0.1"
            )
        return 1.0 / smoothness

    def _step_size(self) -> float | None:
        """Return gamma, None if it is 1/L."""
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
        if self.algorithm in ADAPTIVE:
            return _ADAPTIVE_STEP_SIZE
        if isinstance(self.part, Server) and self.part.client == "local-steps":
            return 1.0
        return None

    def steps(self) -> Schedule:
        """Return the server's step size of each round.

        Raises
        ------
        ConfigurationError
            If it needs 1/L or mu where that is not known.
        """
        mu = 0.0
        if self.schedule == "strongly-convex":
            mu = self.task.strong_convexity()
            if mu <= 0.0:
                raise ConfigurationError(
                    f"{self.problem.task} is not known to be strongly convex: expected "
                    f"another schedule than {self.schedule}"
                )
        return Schedule(self.schedule, self.gamma(), mu)

    def strategy(self, **options: Any) -> CompressedStrategy | Relay:
        """Return the strategy, with further arguments of its class."""
        chosen = self.part.strategy_options(
            self.algorithm, self.problem.clients, self.compressor
        )
        if self.is_decentralized:
            chosen["collect_every"] = self.evaluation_interval
        steps = self.steps()
        strategy = get_algorithm(self.algorithm)(
            step_size=steps.step_size if self.schedule == "constant" else steps,
            seed=self.seed,
            **self.part.step_options(steps),
            **chosen,
            **options,
        )
        self.part.relink(strategy, self.compressor, self.bucket_size or None)
        return strategy

    def train_config(self) -> ConfigRecord:
        """Return what clients need to know, sent with every message."""
        return ConfigRecord(
            {
                TASK_KEY: self.problem.key(self.seed),
                "batch-size": self.batch_size,
                "seed": self.seed,
                **self.part.train_config(self.algorithm),
            }
        )


OPTIONS: Final[Mapping[str, Option]] = {
    name: found
    for part in (Problem, Settings, Server, Decentralized)
    for name, found in options_of(part).items()
}
"""Every option of a run, by the name of its field."""


def refusals(algorithm: str, given: Mapping[str, Any]) -> dict[str, Refusal]:
    """Return which of the given options a run of `algorithm` does not use, and why.

    Options that the algorithm does not take have their defaults, whatever is given.

    Raises
    ------
    UnknownNameError
        If there is no such option.
    """
    for name in given:
        if name not in OPTIONS:
            raise UnknownNameError("setting", dashed(name), map(dashed, OPTIONS))
    values = {name: found.default for name, found in OPTIONS.items()}
    values |= {
        name: value
        for name, value in given.items()
        if algorithm in OPTIONS[name].takers.names
    }
    found = {name: OPTIONS[name].refusal(algorithm, values) for name in given}
    return {name: refusal for name, refusal in found.items() if refusal is not None}
