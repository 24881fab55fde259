"""The settings of an experiment as its files have them, and whether two are the same.

What runs share stands once; what differs between the runs that use it stands under
``"runs"``, by the runs' names. Only what a run uses counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flower_compress.errors import ConfigurationError

from .settings import OPTIONS, Settings, dashed, refusals

__all__ = ["differences", "read_settings", "record_settings"]

_ALGORITHM, _RUNS, _SEED = "algorithm", "runs", "seed"
_NUM_CLIENTS, _PER_ROUND = "num-clients", "clients-per-round"
_NO_OPTIONS = (_ALGORITHM, _RUNS, _SEED, _PER_ROUND)
_DEFAULTS = {dashed(name): option.default for name, option in OPTIONS.items()}


def record_settings(jobs: Sequence[Settings]) -> dict[str, Any]:
    """Return what the runs that use it share, and under ``"runs"`` what they do not."""
    runs = {job.label: job.as_dict() for job in jobs}
    keys = dict.fromkeys(key for values in runs.values() for key in values)
    common: dict[str, Any] = {}
    own: list[str] = []
    for key in keys:
        values = [run[key] for run in runs.values() if key in run]
        if key not in (_ALGORITHM, _SEED):
            if all(value == values[0] for value in values):
                common[key] = values[0]
            else:
                own.append(key)
    record = {_ALGORITHM: [*dict.fromkeys(job.algorithm for job in jobs)], **common}
    record[_SEED] = sorted({job.seed for job in jobs})
    if "clients" in record:
        record[_NUM_CLIENTS] = record.pop("clients")
    if len(per_round := {job.clients_per_round for job in jobs}) == 1:
        record[_PER_ROUND] = per_round.pop()
    if own or any(job.label != job.algorithm for job in jobs):
        record[_RUNS] = {
            label: {key: run[key] for key in (_ALGORITHM, *own) if key in run}
            for label, run in runs.items()
        }
    return record


def read_settings(path: Path) -> dict[str, Any]:
    """Read what :func:`record_settings` returned, from this version or an earlier one.

    Raises
    ------
    ConfigurationError
        If the file does not tell.
    """
    try:
        record = dict(json.loads(path.read_text(encoding="utf-8")))
        _runs_of(record)
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"expected {path} to tell which experiment is to be resumed, got {error}: "
            "give another folder (--out)"
        ) from error
    return record


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words what tells one record from another.

    An option that a record lacks has its default; one that a run does not use counts
    for nothing, although earlier versions recorded it.
    """
    for key in (_ALGORITHM, _SEED):
        if earlier.get(key) != now.get(key):
            return [f"{key} was {earlier.get(key)} and is {now.get(key)}"]
    before, after = _runs_of(earlier), _runs_of(now)
    if list(before) != list(after):
        return [f"{_RUNS} was {list(before)} and is {list(after)}"]
    found: dict[str, list[str]] = {}
    for label in after:
        old, new = before[label], after[label]
        for key in dict.fromkeys([*new, *old]):
            if old.get(key) != new.get(key):
                text = f"{key} was {old.get(key)} and is {new.get(key)}"
                found.setdefault(text, []).append(label)
    return [
        text if len(labels) == len(after) else f"{text} ({', '.join(labels)})"
        for text, labels in found.items()
    ]


def _runs_of(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by name what each run uses; options it does not know are kept."""
    names = {dashed(name): name for name in OPTIONS}
    common = {key: value for key, value in record.items() if key not in _NO_OPTIONS}
    if _NUM_CLIENTS in common:
        common["clients"] = common.pop(_NUM_CLIENTS)
    runs = record.get(_RUNS) or {name: {} for name in record.get(_ALGORITHM, ())}
    found = {}
    for label, own in runs.items():
        values = {**_DEFAULTS, **common, **own}
        algorithm = values.pop(_ALGORITHM, label)
        known = {names[key]: value for key, value in values.items() if key in names}
        unused = {dashed(name) for name in refusals(algorithm, known)}
        used = {key: value for key, value in values.items() if key not in unused}
        found[label] = {_ALGORITHM: algorithm, **used}
    return found
