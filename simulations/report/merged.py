"""One page of several experiments, with a calculator of time on a network."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from flower_compress.errors import ConfigurationError

from ..network import Network
from .page import environment
from .results import Result
from .tables import TextTable, tables_of
from .times import RATES, ROUND_SECONDS, Goal, costs_of, fastest, goals_of

__all__ = ["merge_reports", "winners_of"]

_TEMPLATE: Final = "merged.html.md"
_LATENCY: Final = 0.04
_GOAL: Final = -2
_UNITS: Final = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"), (0.0, "s"))


def merge_reports(results: Sequence[tuple[Result, Path]], path: Path) -> Path:
    """Write a page of all results; return its path.

    Parameters
    ----------
    results : Sequence[tuple[Result, Path]]
        The experiments, and their folders, whose ``report.png`` is shown if there is
        one. A folder that comes twice is shown once; of two with one name each is
        called by its whole path.
    path : Path
        The page, replaced if it exists; its folder is made.

    Raises
    ------
    ConfigurationError
        If it cannot be written.
    """
    entries, calculator = [], []
    for index, (result, folder) in enumerate(_told_apart(results)):
        goals = {goal: costs_of(result, goal) for goal in goals_of(result)}
        picture = folder / "report.png"
        claims = result.summary.get("claims")
        entries.append(
            {
                "name": result.name,
                "anchor": f"experiment-{index}",
                "title": result.title,
                "source": result.source,
                "differs": claims["differs"] if claims else [],
                "tables": tables_of(result.summary),
                "winners": winners_of(result),
                "picture": base64.b64encode(picture.read_bytes()).decode("ascii")
                if picture.exists()
                else "",
            }
        )
        if goals:
            calculator.append(
                {
                    "name": result.name,
                    "goals": [
                        {"name": str(goal), "costs": _numbers(costs)}
                        for goal, costs in goals.items()
                    ],
                }
            )
    # No "<" may stand in a script, whatever a run is called.
    data = json.dumps(calculator, allow_nan=False).replace("<", "\\u003c")
    text = (
        environment()
        .get_template(_TEMPLATE)
        .render(results=entries, calculator=data if calculator else "")
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"expected {path} to be a page that can be written, got {error}"
        ) from error
    return path


def _told_apart(results: Sequence[tuple[Result, Path]]) -> list[tuple[Result, Path]]:
    folders = {folder.resolve(): result for result, folder in results}
    names = Counter(result.name for result in folders.values())
    return [
        (
            replace(result, name=str(folder)) if names[result.name] > 1 else result,
            folder,
        )
        for folder, result in folders.items()
    ]


def winners_of(result: Result) -> list[TextTable]:
    """Return which run is first at a goal, by the rate of the link and Flower's round.

    The goal is at 95 % of the way of the run that gets furthest; no table if there is
    none.
    """
    goals = goals_of(result)
    if not goals:
        return []
    goal: Goal = goals[_GOAL]
    costs = [*costs_of(result, goal).items()]
    if all(cost is None for _, cost in costs):
        return []
    rows = []
    for rate in RATES:
        network = Network(rate, rate, _LATENCY)
        row = [f"{rate / 1e6:g} Mbit/s"]
        for own in ROUND_SECONDS:
            times = fastest(costs, network, own)
            (best, name), last = times[0], times[-1]
            row.append(f"{name}, {_duration(best)} ({last[1]} {_duration(last[0])})")
        rows.append(row)
    columns = ["link both ways, 40 ms"]
    columns += [f"Flower's own round {own:g} s" for own in ROUND_SECONDS]
    return [TextTable(f"First to {goal} (and the last that gets there)", columns, rows)]


def _numbers(costs: Any) -> dict[str, list[float] | None]:
    return {
        name: None
        if cost is None
        else [cost.rounds, cost.uplink_bytes, cost.downlink_bytes]
        for name, cost in costs.items()
    }


def _duration(seconds: float) -> str:
    size, unit = next(each for each in _UNITS if seconds >= 2 * each[0])
    return f"{seconds / (size or 1.0):.3g} {unit}"
