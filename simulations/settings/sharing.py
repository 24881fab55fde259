"""Several runs that share options, and have others of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flower_compress.strategies import get_algorithm

from .option import Refusal
from .run import IDENTITY, Settings, refusals

__all__ = ["several"]


def several(
    runs: Iterable[Mapping[str, Any]],
    shared: Mapping[str, Any],
    last: Mapping[str, Any] | None = None,
) -> list[Settings]:
    """Return the settings of runs that share options.

    Parameters
    ----------
    runs : Iterable[Mapping[str, Any]]
        For each run its algorithm, its name and seed if it has any, and options of its
        own, of which it must use every one.
    shared : Mapping[str, Any]
        Options of every run that uses them and has none of its own instead.
    last : Mapping[str, Any], optional
        The same, but they take the place of a run's own.

    Raises
    ------
    ConfigurationError
        As for :meth:`Settings.of`; or if no run uses an option that they share.
    """
    last = last or {}
    made, idle = [], dict[str, list[Refusal]]()
    used = set[str]()
    for run in runs:
        identity = {name: run[name] for name in IDENTITY if name in run}
        own = {name: value for name, value in run.items() if name not in IDENTITY}
        given = {**shared, **own, **last}
        get_algorithm(run["algorithm"])
        refused = refusals(run["algorithm"], given)
        for name in own:
            if name in refused and name not in last:
                raise refused[name].error()
        kept = {name: value for name, value in given.items() if name not in refused}
        made.append(Settings.of(**identity, **kept))
        used |= {*kept}
        for name, refusal in refused.items():
            idle.setdefault(name, []).append(refusal)
    for name in (*shared, *last):
        if name not in used:
            first, *others = idle[name]
            raise first.error(*others)
    return made
