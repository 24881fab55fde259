"""The tables of MCM's convex experiments: from a file, from OpenML, or made up.

None of them comes with the project. With a folder the file in it is read: ``NAME``,
``NAME.txt``, ``NAME.svm`` or ``NAME.libsvm``, also compressed (``.gz``, ``.bz2``), in
LIBSVM's format, or ``NAME.csv`` with the target in the last column. a9a, w8a and
phishing are on the pages of LIBSVM; quantum is the first task of KDD Cup 2004,
superconduct is in the UCI repository ("Superconductivty Data"). With ``openml`` for a
folder scikit-learn fetches all but quantum (:mod:`.openml`). Without a folder
examples are made up that have the table's number of examples and features and its share
of entries that are not zero, from twenty overlapping groups, with labels of a linear
model that errs: they say in the report what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flower_compress.errors import ConfigurationError, MissingExtraError

from .base import Kind, Options
from .dataset import Dataset
from .linear import LinearTask
from .openml import OPENML, fetch_table
from .parity import make_linear
from .shipped import as_classes, standardised

__all__ = ["TABLES", "Table", "load_table", "tabular"]

_ENDINGS: Final = ("", ".txt", ".svm", ".libsvm")
_PACKED: Final = ("", ".gz", ".bz2")
_GROUPS: Final = 20


@dataclass(frozen=True)
class Table:
    """What is known of a table.

    Attributes
    ----------
    examples, features : int
        Its size; a column of ones for the bias comes to it, d = features + 1.
    density : float
        Share of entries that are not zero, in (0, 1].
    binary : bool
        Whether features are 0 or 1.
    regression : bool
        Whether the target is a number.
    """

    examples: int
    features: int
    density: float
    binary: bool = False
    regression: bool = False


TABLES: Final[dict[str, Table]] = {
    "a9a": Table(32_561, 123, 0.113, binary=True),
    "phishing": Table(11_055, 68, 0.441, binary=True),
    "quantum": Table(50_000, 65, 1.0),
    "superconduct": Table(21_263, 81, 1.0, regression=True),
    "w8a": Table(49_749, 300, 0.039, binary=True),
}
"""The tables, by the names of their tasks (table S1 of MCM, d = features + 1)."""


def tabular(name: str) -> Kind:
    """Return the kind of the task with that table."""

    def make(options: Options) -> LinearTask:
        return make_linear(load_table(name, options.data, options.examples), options)

    return Kind(make, stands_in=True)


@cache
def load_table(name: str, folder: str = "", examples: int = 0) -> Dataset:
    """Return a table's examples, or made-up ones without a folder.

    Columns of numbers that are not binary have mean 0 and variance 1, and so has the
    target of a regression.

    Parameters
    ----------
    name : str
        One of :data:`TABLES`.
    folder : str
        Where its file is, or ``"openml"``.
    examples : int
        How many examples are drawn of all; 0 for all.

    Raises
    ------
    ConfigurationError
        The file is not there, or cannot be read; OpenML does not have the table, or
        does not answer.
    MissingExtraError
        scikit-learn is not installed.
    """
    table = TABLES[name]
    generator = np.random.Generator(np.random.Philox(0))
    if folder == OPENML:
        raw, target = fetch_table(name, table.features)
    elif folder:
        raw, target = _read(name, Path(folder), table)
    else:
        raw, target = _make_up(table, generator)
    count = len(target)
    if examples and examples < count:
        chosen = np.sort(generator.choice(count, examples, replace=False))
        raw, target = raw[chosen], target[chosen]
    features = standardised(raw)
    if table.binary:
        features[:, :-1] = raw
    origin = _origin(name, table, folder, count, len(target))
    if table.regression:
        targets = (target - target.mean()) / target.std()
        classes = as_classes(targets.astype(np.float64))
        return Dataset(name, features, classes, classes, targets=targets, origin=origin)
    labels = _signs(name, target)
    return Dataset(name, features, labels, (labels + 1) // 2, origin=origin)


def _origin(name: str, table: Table, folder: str, found: int, count: int) -> str:
    if folder:
        if folder != OPENML or found == table.examples:
            return ""
        return f"{name} as OpenML has it: {found:,} examples for {table.examples:,}"
    return (
        f"made-up examples stand in for {name}: {count:,} of {table.features} "
        f"features, {100 * table.density:.3g} % of them not zero"
    )


def _signs(name: str, target: NDArray[Any]) -> NDArray[np.int64]:
    values = np.unique(target)
    if len(values) != 2:
        raise ConfigurationError(
            f"{name}: expected a target of two classes, came {len(values)} values, as "
            f"{values[:3].tolist()}: is it another table?"
        )
    return np.where(target == values[1], 1, -1).astype(np.int64)


def _read(
    name: str, folder: Path, table: Table
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return features and target of the file in the folder."""
    names = [f"{name}{end}{packed}" for end in _ENDINGS for packed in _PACKED]
    path = next((folder / n for n in names if (folder / n).is_file()), None)
    text = folder / f"{name}.csv"
    try:
        if path is not None:
            return _read_libsvm(path, table)
        if text.is_file():
            rows = np.genfromtxt(text, delimiter=",")
            rows = rows[~np.isnan(rows).any(1)]  # a header
            return rows[:, :-1], rows[:, -1]
    except (ValueError, OSError) as error:
        raise ConfigurationError(
            f"{name}: expected {path or text} in LIBSVM's format, or as CSV with the "
            f"target in the last column, got {error}"
        ) from error
    raise ConfigurationError(
        f"{name}: expected its file in {str(folder)!r}, as {name} (LIBSVM's format) or "
        f"{name}.csv, got none of these: put it there, or leave --data out for "
        f"examples that are made up"
    )


def _read_libsvm(
    path: Path, table: Table
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    try:
        from sklearn.datasets import load_svmlight_file
    except ModuleNotFoundError as error:
        raise MissingExtraError("scikit-learn", "simulation") from error
    rows, target = load_svmlight_file(str(path))
    dense = rows.toarray()
    if dense.shape[1] < table.features:  # Columns that are zero in all rows.
        missing = table.features - dense.shape[1]
        dense = np.hstack([dense, np.zeros((len(dense), missing))])
    return dense, target


def _make_up(
    table: Table, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw examples of twenty groups, and targets of a linear model that errs."""
    shape = (table.examples, table.features)
    group = generator.integers(_GROUPS, size=table.examples)
    if table.binary:
        # Few features are common, most are rare, and groups differ in which.
        common = generator.gamma(0.5, size=(_GROUPS, table.features))
        usual = generator.gamma(0.5, size=table.features)
        odds = 0.5 * common + 0.5 * usual
        low, high = 0.0, 1e6
        for _ in range(60):  # Bisection for the density.
            scale = (low + high) / 2
            mean = float(np.mean(1.0 - np.exp(-scale * odds)))
            low, high = (scale, high) if mean < table.density else (low, scale)
        chance = 1.0 - np.exp(-scale * odds)
        rows = (generator.random(shape) < chance[group]).astype(np.float64)
    else:
        # Correlated columns: a few directions have most of the variance.
        rank = max(4, table.features // 8)
        mixing = generator.normal(size=(rank, table.features))
        centres = generator.normal(size=(_GROUPS, rank))
        inner = centres[group] + generator.normal(size=(table.examples, rank))
        rows = np.einsum("ir,rj->ij", inner, mixing) / rank**0.5
        rows += 0.5 * generator.normal(size=shape)
    weights = generator.normal(size=table.features)
    score = np.einsum("ij,j->i", rows, weights)
    score = (score - score.mean()) / score.std()
    if table.regression:
        return rows, score + 0.5 * generator.normal(size=table.examples)
    chance = 1.0 / (1.0 + np.exp(-3.0 * score))
    return rows, np.where(generator.random(table.examples) < chance, 1.0, -1.0)
