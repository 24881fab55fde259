"""Tables of MCM's convex experiments from openml.org, through scikit-learn."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flower_compress.errors import ConfigurationError, MissingExtraError

__all__ = ["OPENML", "ON_OPENML", "fetch_table"]

OPENML: Final = "openml"
"""What is given for a folder, to fetch a table."""

ON_OPENML: Final[dict[str, dict[str, Any]]] = {
    "a9a": {"name": "a9a", "version": 1},
    "phishing": {"data_id": 4534},
    "superconduct": {"data_id": 44964},
    "w8a": {"name": "w8a", "version": 1},
}
"""Name of a task -> how scikit-learn's ``fetch_openml`` is told of its table."""

_NOMINAL = "phishing"  # There as it was before LIBSVM's coding, 30 columns of names.


def fetch_table(
    name: str, num_features: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return features, shape (n, d), and targets, shape (n,), as OpenML has them.

    scikit-learn keeps what it has fetched in a folder of its own. Columns of names are
    coded as LIBSVM codes them: one column of 0 and 1 for each value, and rows of
    length one.

    Parameters
    ----------
    name : str
        Of the task.
    num_features : int
        How many features the table has: another number is another table.

    Raises
    ------
    ConfigurationError
        OpenML has no such table, does not answer, or answers with another table.
    MissingExtraError
        scikit-learn is not installed.
    """
    if name not in ON_OPENML:
        raise ConfigurationError(
            f"{name} is not on OpenML: expected {', '.join(ON_OPENML)}; give a folder "
            "with its file, --data FOLDER"
        )
    try:
        from sklearn.datasets import fetch_openml
    except ModuleNotFoundError as error:
        raise MissingExtraError("scikit-learn", "simulation") from error
    try:
        rows, target = fetch_openml(
            **ON_OPENML[name], return_X_y=True, as_frame=False, parser="liac-arff"
        )
        numbers = np.asarray(target).astype(np.float64)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{name}: expected its table from openml.org, got {error}. Without a "
            "network give a folder with its file (--data FOLDER), or leave --data out "
            "for examples that are made up"
        ) from error
    dense = np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows, np.float64)
    if name == _NOMINAL:
        dense = _coded(dense)
    if dense.shape[1] != num_features:
        raise ConfigurationError(
            f"{name}: expected {num_features} features from openml.org, got "
            f"{dense.shape[1]}: it is another table; give a folder with the file, "
            "--data FOLDER"
        )
    return dense, numbers


def _coded(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a column of 0 or 1/sqrt(c) for each value of each of c columns."""
    ones = [column[:, None] == np.unique(column) for column in columns.T]
    coded: NDArray[np.float64] = np.hstack(ones) / np.sqrt(columns.shape[1])
    return coded
