"""What a paper claims of its runs, as data, and whether these runs bear it out.

A claim sets a measure of one run against a bound, or against the same measure of
another run: seed by seed as a difference, for what is sent as a ratio.

====================== ===============================================================
measure                of one run
====================== ===============================================================
``level``              mean log10 excess loss of the last tenth of its rounds
``gain``               that level, less the log10 excess loss before the first round:
                       positive for a run that diverges
``second-half``        decrease of log10 excess loss in the second half of its rounds,
                       over that in the first: 1 for linear convergence, 0 for a run
                       that has levelled off
``loss``               F(w) after the last round
``accuracy``           after the last round
``bits``               payload bits in both directions (``uplink-bits`` and
                       ``downlink-bits`` in one)
``bits-to-accuracy``   of them, those until the claim's ``accuracy`` was first logged
``rounds-to-accuracy`` rounds until then
``bits-to-level``      bits until log10 excess loss was first at the claim's ``level``
``seconds``            median processor time of a round, evaluation aside
``consensus``          mean of ||x_i - mean x||^2 after the last round
====================== ===============================================================

What diverges or never gets there measures infinity, what it has sent too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, TypedDict

import numpy as np

from flower_compress.errors import ConfigurationError, UnknownNameError

from .level import log10_level
from .record import RoundRecord

__all__ = ["MEASURES", "WORDS", "Claim", "Verdict", "Verdicts", "judge"]

WORDS: Final[Mapping[bool | None, str]] = {
    True: "holds",
    False: "does not hold",
    None: "not known",
}
"""A verdict in words."""

_Rows = Sequence[RoundRecord]


@dataclass(frozen=True)
class Claim:
    """One claim.

    Parameters
    ----------
    text : str
        What is claimed, in words.
    run : str
        Name of the run.
    measure : str
        One of :data:`MEASURES`.
    against : str
        Name of the run that it is set against; empty for none.
    at_most, at_least : float, optional
        The bounds; one of them, or both.
    goal : float, optional
        Accuracy or level of the measures that ask when it is reached.
    paper : float, optional
        What the paper has for the same measure.

    Raises
    ------
    UnknownNameError
        If there is no such measure.
    ConfigurationError
        If there is no bound, or a goal is missing or of no use.
    """

    text: str
    run: str
    measure: str
    against: str = ""
    at_most: float | None = None
    at_least: float | None = None
    goal: float | None = None
    paper: float | None = None

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise UnknownNameError("measure", self.measure, MEASURES)
        if self.at_most is None and self.at_least is None:
            raise ConfigurationError(
                f"claim {self.text!r}: expected at-most, at-least or both, got neither"
            )
        needed = MEASURES[self.measure].goal
        if (needed is None) != (self.goal is None):
            raise ConfigurationError(
                f"claim {self.text!r}: measure {self.measure} "
                + (f"needs {needed}" if needed else "takes no accuracy and no level")
            )

    def holds_for(self, value: float) -> bool:
        """Whether a value lies within the bounds."""
        return (self.at_most is None or value <= self.at_most) and (
            self.at_least is None or value >= self.at_least
        )


class Verdict(TypedDict):
    """A claim, and what came of it.

    ``value`` is the mean over the seeds of the measure, or of its difference or ratio
    to the other run's, None where it is not known or not finite; ``holds`` is None
    where it cannot be told. ``seeds`` counts those in which it holds by itself.
    """

    claim: str
    run: str
    measure: str
    against: str
    at_most: float | None
    at_least: float | None
    paper: float | None
    value: float | None
    deviation: float | None
    seeds: str
    holds: bool | None


class Verdicts(TypedDict):
    """All claims, and what is not as in the source."""

    verdicts: list[Verdict]
    differs: list[str]


@dataclass(frozen=True)
class _Measure:
    """How a run is measured, and whether two runs are compared by a ratio."""

    of: Callable[[_Rows, float], float | None]
    ratio: bool = False
    goal: str | None = None
    total: bool = False
    """Whether a run that ends early has less of it, so that nothing compares."""


def judge(
    claims: Iterable[Claim], records: Iterable[RoundRecord], differs: Iterable[str] = ()
) -> Verdicts:
    """Return what the records make of the claims.

    Parameters
    ----------
    claims : Iterable[Claim]
        The claims.
    records : Iterable[RoundRecord]
        Of any number of runs and seeds, in any order, as ``rounds.csv`` has them.
    differs : Iterable[str]
        What is not as in the source, in words.
    """
    runs: dict[str, dict[int, list[RoundRecord]]] = {}
    for record in sorted(records, key=attrgetter("round")):
        seeds = runs.setdefault(record.algorithm, {})
        seeds.setdefault(record.seed, []).append(record)
    return {
        "verdicts": [_judge(claim, runs) for claim in claims],
        "differs": list(differs),
    }


def _judge(claim: Claim, runs: Mapping[str, Mapping[int, _Rows]]) -> Verdict:
    own, others = runs.get(claim.run, {}), runs.get(claim.against, {})
    values = [
        _value(claim, rows, others.get(seed))
        for seed, rows in sorted(own.items())
        if not claim.against or seed in others
    ]
    known = [value for value in values if value is not None]
    holds: bool | None = None
    mean = deviation = math.nan
    if known and len(known) == len(values):
        with np.errstate(invalid="ignore"):
            mean = float(np.mean(known))
            deviation = float(np.std(known, ddof=1)) if len(known) > 1 else math.nan
        holds = None if math.isnan(mean) else claim.holds_for(mean)
    return {
        "claim": claim.text,
        "run": claim.run,
        "measure": claim.measure,
        "against": claim.against,
        "at_most": claim.at_most,
        "at_least": claim.at_least,
        "paper": claim.paper,
        "value": mean if math.isfinite(mean) else None,
        "deviation": deviation if math.isfinite(deviation) else None,
        "seeds": f"{sum(map(claim.holds_for, known))} of {len(values)}",
        "holds": holds,
    }


def _value(claim: Claim, rows: _Rows, others: _Rows | None) -> float | None:
    """Return one seed's value, None where it is not known."""
    measure = MEASURES[claim.measure]
    goal = math.nan if claim.goal is None else claim.goal
    own = measure.of(rows, goal)
    if others is None or own is None:
        return own
    other = measure.of(others, goal)
    if other is None or math.isinf(other) and (measure.total or math.isinf(own)):
        return None
    if not measure.ratio:
        return own - other
    return own / other if other else None


def _excess(row: RoundRecord) -> float | None:
    """Return log10 of the excess loss, infinity for a run that has diverged."""
    if row.excess_loss is None:
        return None
    excess = row.known_excess_loss
    return math.log10(excess) if math.isfinite(excess) else math.inf


def _level(rows: _Rows, _: float) -> float | None:
    if _excess(rows[-1]) is None:
        return None
    with np.errstate(invalid="ignore"):
        level = log10_level(rows)
    return level if math.isfinite(level) else math.inf


def _gain(rows: _Rows, goal: float) -> float | None:
    level, start = _level(rows, goal), _excess(rows[0])
    return None if level is None or start is None else level - start


def _second_half(rows: _Rows, _: float) -> float | None:
    half = min(rows, key=lambda row: abs(2 * row.round - rows[-1].round))
    first, middle, last = map(_excess, (rows[0], half, rows[-1]))
    if first is None or middle is None or last is None:
        return None
    if math.isinf(last) or middle >= first:
        return -math.inf
    return (middle - last) / (first - middle)


def _last(value: Callable[[RoundRecord], float]) -> Callable[[_Rows, float], float]:
    def of(rows: _Rows, _: float) -> float:
        number = value(rows[-1])
        return math.inf if math.isnan(number) else number

    return of


def _sent(bits: Callable[[RoundRecord], float]) -> _Measure:
    """Return a measure of what was sent: a run that ends early has saved nothing."""
    of = _last(lambda row: bits(row) if math.isfinite(row.loss) else math.inf)
    return _Measure(of, ratio=True, total=True)


def _bits(row: RoundRecord) -> float:
    return float(row.uplink_bits + row.downlink_bits)


def _until(
    value: Callable[[RoundRecord], float],
    reached: Callable[[RoundRecord, float], bool],
) -> Callable[[_Rows, float], float]:
    def of(rows: _Rows, goal: float) -> float:
        return next((value(row) for row in rows if reached(row, goal)), math.inf)

    return of


def _is_accurate(row: RoundRecord, goal: float) -> bool:
    return row.accuracy >= goal


def _is_low(row: RoundRecord, goal: float) -> bool:
    excess = _excess(row)
    return excess is not None and excess <= goal


def _consensus(rows: _Rows, _: float) -> float | None:
    nodes = rows[-1].nodes
    return None if nodes is None else float(np.mean(nodes.distance))


MEASURES: Final[Mapping[str, _Measure]] = {
    "level": _Measure(_level),
    "gain": _Measure(_gain),
    "second-half": _Measure(_second_half),
    "loss": _Measure(_last(lambda row: row.loss)),
    "accuracy": _Measure(_last(lambda row: row.accuracy)),
    "bits": _sent(_bits),
    "uplink-bits": _sent(lambda row: float(row.uplink_bits)),
    "downlink-bits": _sent(lambda row: float(row.downlink_bits)),
    "bits-to-accuracy": _Measure(
        _until(_bits, _is_accurate), ratio=True, goal="accuracy"
    ),
    "rounds-to-accuracy": _Measure(
        _until(lambda row: float(row.round), _is_accurate), ratio=True, goal="accuracy"
    ),
    "bits-to-level": _Measure(_until(_bits, _is_low), ratio=True, goal="level"),
    "seconds": _Measure(lambda rows, _: rows[-1].seconds, ratio=True),
    "consensus": _Measure(_consensus, ratio=True),
}
"""What a run is measured by."""
