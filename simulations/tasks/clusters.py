"""Clients by clusters of their examples, as in the convex experiments of MCM.

"We obtain non-i.i.d. data distributions by computing a TSNE representation followed by
a clustering" (Philippenko & Dieuleveut, NeurIPS 2021, appendix B): into the plane, then
a Gaussian mixture with a component for each client. What the paper does not give are
scikit-learn's defaults, and the sample: TSNE of many examples takes minutes, so that a
sample of :data:`SAMPLE` is laid out, and each of the others goes where its nearest
neighbour in the sample is. What was found is kept in the user's cache folder
(``$XDG_CACHE_HOME/flower-compress``), for every process that takes part.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from flower_compress.errors import MissingExtraError

__all__ = ["SAMPLE", "cluster_owners"]

SAMPLE: Final = 600
"""Examples that are laid out in the plane."""

_BLOCK: Final = 1 << 22


class _Features:
    """Features as the key of a cache: the same array, not an equal one."""

    def __init__(self, array: NDArray[np.float32]) -> None:
        self.array = array

    def __hash__(self) -> int:
        return id(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Features) and other.array is self.array


def cluster_owners(features: NDArray[np.float32], num_clients: int) -> NDArray[np.intp]:
    """Return the cluster of each example; one may be empty.

    Parameters
    ----------
    features : NDArray[np.float32]
        Shape (n, d).
    num_clients : int
        Number of clusters.

    Raises
    ------
    MissingExtraError
        scikit-learn is not installed.
    """
    return _owners(_Features(features), num_clients).copy()


@lru_cache(maxsize=8)
def _owners(features: _Features, num_clients: int) -> NDArray[np.intp]:
    path = _path_of(features.array, num_clients)
    owners = _kept(path, len(features.array), num_clients)
    if owners is None:
        owners = _find(features.array.astype(np.float64), num_clients)
        _keep(path, owners)
    return owners


def _path_of(features: NDArray[np.float32], num_clients: int) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.sha256(features.tobytes()).hexdigest()
    name = f"tsne-{SAMPLE}-{num_clients}-{digest[:32]}.npy"
    return Path(root) / "flower-compress" / name


def _kept(path: Path, count: int, num_clients: int) -> NDArray[np.intp] | None:
    """Return what was found before; None if there is nothing that will do."""
    try:
        owners = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = owners.shape == (count,) and np.issubdtype(owners.dtype, np.integer)
    if not fits or owners.min() < 0 or owners.max() >= num_clients:
        return None
    return np.asarray(owners, np.intp)


def _keep(path: Path, owners: NDArray[np.intp]) -> None:
    """Write it, whole or not at all; without a place for it each process finds it."""
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp.npy")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(temporary, owners.astype(np.int32))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)


def _find(rows: NDArray[np.float64], num_clients: int) -> NDArray[np.intp]:
    try:
        from sklearn.manifold import TSNE
        from sklearn.mixture import GaussianMixture
    except ModuleNotFoundError as error:
        raise MissingExtraError("scikit-learn", "simulation") from error
    generator = np.random.Generator(np.random.Philox(0))
    sample = np.arange(len(rows))
    if len(rows) > SAMPLE:
        sample = np.sort(generator.choice(len(rows), SAMPLE, replace=False))
    if num_clients == 1 or len(sample) < 3:
        return np.zeros(len(rows), np.intp)
    # One thread: sums of several would depend on their number.
    with threadpool_limits(limits=1):
        plane = TSNE(
            perplexity=min(30.0, (len(sample) - 1) / 3), random_state=0
        ).fit_transform(rows[sample])
        mixture = GaussianMixture(min(num_clients, len(sample)), random_state=0)
        clusters = mixture.fit_predict(plane.astype(np.float64))
        nearest = _nearest(rows, rows[sample])
    owners: NDArray[np.intp] = clusters[nearest].astype(np.intp)
    return owners


def _nearest(
    rows: NDArray[np.float64], sample: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Return the index in the sample of each row's nearest neighbour."""
    nearest = np.empty(len(rows), np.intp)
    squares = np.square(sample).sum(1)
    step = max(1, _BLOCK // len(sample))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        nearest[start : start + step] = (squares - 2.0 * block @ sample.T).argmin(1)
    return nearest
