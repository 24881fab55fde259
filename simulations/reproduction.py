"""Experiments of the papers as data: one TOML file for each table or figure.

=================== ==================================================================
``title``           what it shows
``source``          the paper, and its table or figure
``seeds``           number of seeds, from 0
``[settings]``      options of every run that uses them, by their command-line names
``[quick]``         options, and ``seeds``, that take the others' place on request
``[cutoff]``        ``accuracy`` at which what each run has sent is compared, and
                    ``[cutoff.paper]``, the source's numbers, by the runs' names
``[paper]``         the source's log10 excess loss, by the runs' names
``differs``         what is not as in the source, in words
``timed``           whether the time of a round is what it shows: then one run after
                    the other is computed, seed by seed, in one process
``[[claims]]``      one for each claim of the source: ``claim``, in words; ``run``;
                    ``measure``, see :mod:`simulations.records.claims`; ``against``,
                    another run; ``at-most``, ``at-least``; ``accuracy`` or ``level``
                    to be reached; ``paper``, the source's number for the measure
``[[runs]]``        one for each run: its ``algorithm``; its ``name``, if that is not
                    the algorithm's; and options of its own
=================== ==================================================================
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flower_compress.errors import ConfigurationError, UnknownNameError

from .recorded import differences, record_settings
from .records import Claim
from .settings import (
    OPTIONS,
    Settings,
    convert,
    dashed,
    read_values,
    several,
)

__all__ = ["EXPERIMENTS", "Reproduction", "load_reproduction", "reproductions"]

EXPERIMENTS: Final = Path(__file__).parent / "experiments"
"""The folder of the files."""

_SHARED: Final = {*map(dashed, OPTIONS)}
_NEEDED: Final = ("title", "source", "seeds", "settings", "runs")
_OPTIONAL: Final = ("quick", "cutoff", "paper", "differs", "timed", "claims")
_GOALS: Final = ("accuracy", "level")
_OF_A_CLAIM: Final = ("claim", "run", "measure")
_BOUNDS: Final = ("at-most", "at-least", "paper", *_GOALS)


@dataclass(frozen=True)
class Reproduction:
    """An experiment of a paper.

    Attributes
    ----------
    name : str
        The name of its file.
    title : str
        What it shows.
    source : str
        The paper, and its table or figure.
    seeds : int
        Number of seeds.
    runs : tuple[Settings, ...]
        The runs, of seed 0.
    cutoff : tuple[float, dict[str, float]], optional
        An accuracy, and the source's numbers for what was sent until then.
    claims : tuple[Claim, ...]
        What the source claims of the runs.
    differs : tuple[str, ...]
        What is not as in the source, in words.
    paper : Mapping[str, float]
        The source's log10 excess loss of some of the runs.
    timed : bool
        Whether the time of a round is what it shows.
    """

    name: str
    title: str
    source: str
    seeds: int
    runs: tuple[Settings, ...]
    cutoff: tuple[float, dict[str, float]] | None = None
    claims: tuple[Claim, ...] = ()
    differs: tuple[str, ...] = ()
    paper: Mapping[str, float] = field(default_factory=dict)
    timed: bool = False

    @classmethod
    def load(cls, path: Path, *, quick: bool = False) -> Reproduction:
        """Read a file, with what ``[quick]`` changes if asked for.

        Raises
        ------
        ConfigurationError
            If it is no TOML, has a key or a name that is not known, lacks a key, has
            two runs of one name, or an option that cannot work or that no run uses.
        """
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            return cls._of(path.stem, table, quick)
        except (ConfigurationError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(f"{path.name}: {error}") from error

    @classmethod
    def _of(cls, name: str, table: dict[str, Any], quick: bool) -> Reproduction:
        _check("the file", table, {*_NEEDED, *_OPTIONAL}, _NEEDED)
        shared, changes = table["settings"], table.get("quick", {})
        _check("[settings]", shared, _SHARED)
        _check("[quick]", changes, _SHARED | {"seeds"})
        if not (isinstance(table["runs"], list) and table["runs"]):
            raise ConfigurationError("expected one [[runs]] or more, got none")
        for run in table["runs"]:
            _check("[[runs]]", run, _SHARED | {"algorithm", "name"}, ["algorithm"])
        changes = changes if quick else {}
        runs = tuple(
            several(
                [read_values(run) for run in table["runs"]],
                read_values(shared),
                read_values(changes),
            )
        )
        labels = [run.label for run in runs]
        if len({*labels}) < len(labels):
            raise ConfigurationError(
                f"expected a name of its own for each run, got {', '.join(labels)}"
            )
        seeds = convert("seeds", changes.get("seeds", table["seeds"]), int)
        if seeds < 1:
            raise ConfigurationError(f"seeds must be at least 1, got {seeds}")
        title, source = str(table["title"]), str(table["source"])
        differs = (str(table["differs"]),) if "differs" in table else ()
        cutoff, claims = _cutoff(table, labels), _claims(table, labels)
        paper = _numbers("[paper]", table.get("paper", {}), labels)
        timed = convert("timed", table.get("timed", False), bool)
        return cls(
            name, title, source, seeds, runs, cutoff, claims, differs, paper, timed
        )

    def jobs(
        self,
        *,
        seeds: int = 0,
        rounds: int = 0,
        task: str = "",
        data: str = "",
        device: str = "",
    ) -> list[Settings]:
        """Return all runs with all seeds; 0 and "" stand for the experiment's own.

        Of a timed experiment those of one seed follow each other, so that what else the
        machine does falls on all of them alike.

        Raises
        ------
        ConfigurationError
            If no run uses an option that is given.
        """
        values = {"rounds": rounds, "task": task, "data": data, "device": device}
        given = {name: value for name, value in values.items() if value}
        runs = [
            {**run.given(), "algorithm": run.algorithm, "name": run.name, "seed": seed}
            for run in self.runs
            for seed in range(seeds or self.seeds)
        ]
        if self.timed:
            runs.sort(key=lambda run: run["seed"])
        return several(runs, {}, given)

    def changes(self, jobs: Sequence[Settings]) -> tuple[str, ...]:
        """Return in words what jobs of the same runs have that is not the file's."""
        seeds = len({job.seed for job in jobs})
        found = differences(
            record_settings(self.runs), record_settings([j.but(seed=0) for j in jobs])
        )
        if seeds != self.seeds:
            found.append(f"seeds was {self.seeds} and is {seeds}")
        return tuple(found)


def load_reproduction(name: str, *, quick: bool = False) -> Reproduction:
    """Return the experiment of that name; see :meth:`Reproduction.load`.

    Raises
    ------
    UnknownNameError
        If there is none; the error lists those there are.
    """
    paths = _paths()
    if name not in paths:
        raise UnknownNameError("experiment", name, paths)
    return Reproduction.load(paths[name], quick=quick)


def reproductions() -> list[Reproduction]:
    """Return all experiments, by name."""
    return [Reproduction.load(path) for path in _paths().values()]


def _cutoff(
    table: dict[str, Any], labels: list[str]
) -> tuple[float, dict[str, float]] | None:
    if "cutoff" not in table:
        return None
    cutoff = table["cutoff"]
    _check("[cutoff]", cutoff, {"accuracy", "paper"}, ["accuracy"])
    paper = _numbers("[cutoff.paper]", cutoff.get("paper", {}), labels)
    return convert("accuracy", cutoff["accuracy"], float), paper


def _numbers(place: str, table: Any, labels: list[str]) -> dict[str, float]:
    """Return a table of numbers by the runs' names."""
    _check(place, table, labels)
    return {name: convert(name, value, float) for name, value in table.items()}


def _claims(table: dict[str, Any], labels: list[str]) -> tuple[Claim, ...]:
    claims = table.get("claims", [])
    if not isinstance(claims, list):
        raise ConfigurationError("expected [[claims]], got one table [claims]")
    return tuple(_claim(entry, labels) for entry in claims)


def _claim(entry: Any, labels: list[str]) -> Claim:
    _check("[[claims]]", entry, {*_OF_A_CLAIM, "against", *_BOUNDS}, _OF_A_CLAIM)
    for key in ("run", "against"):
        if key in entry and entry[key] not in labels:
            raise UnknownNameError(f"{key} of [[claims]]", entry[key], labels)
    number = {
        key: convert(key, entry[key], float) if key in entry else None
        for key in _BOUNDS
    }
    goals = [value for key in _GOALS if (value := number[key]) is not None]
    if len(goals) > 1:
        raise ConfigurationError("[[claims]] has accuracy and level: leave one out")
    return Claim(
        text=str(entry["claim"]),
        run=entry["run"],
        measure=str(entry["measure"]),
        against=entry.get("against", ""),
        at_most=number["at-most"],
        at_least=number["at-least"],
        goal=goals[0] if goals else None,
        paper=number["paper"],
    )


def _paths() -> dict[str, Path]:
    found = {path.stem: path for path in EXPERIMENTS.glob("*.toml")}
    return dict(sorted(found.items()))


def _check(
    place: str, table: Any, known: Collection[str], needed: Collection[str] = ()
) -> None:
    if not isinstance(table, Mapping):
        raise ConfigurationError(f"{place} must be a table, got {table!r}")
    for key in table:
        if key not in known:
            raise UnknownNameError(f"key of {place}", key, known)
    for key in needed:
        if key not in table:
            raise ConfigurationError(f"{place} lacks {key!r}")
