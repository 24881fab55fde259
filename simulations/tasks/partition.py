"""How a data set is divided among clients.

================ =========================================================
scheme           client i holds
================ =========================================================
``iid``          an equal share of a random permutation
``label``        one contiguous run of the examples sorted by label:
                 the most heterogeneous equal division
``dirichlet``    of each label c a share p_c[i], p_c ~ Dir(alpha, ..., alpha)
                 (Hsu, Qi, Brown, "Measuring the effects of non-identical
                 data distribution", 2019, with unequal client sizes)
``quantity``     a share p[i] of a random permutation, p ~ Dir(alpha, ..., alpha):
                 the same distribution, unequal sizes
``tsne``         one cluster of a Gaussian mixture in the plane of a TSNE, as the
                 convex experiments of MCM; see :mod:`.clusters`
================ =========================================================
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flower_compress.errors import ConfigurationError, UnknownNameError

from .clusters import cluster_owners

__all__ = [
    "SCHEMES",
    "SEEDLESS",
    "PartitionError",
    "partition",
]

SCHEMES: Final = ("iid", "label", "dirichlet", "quantity", "tsne")
"""Names of the known partition schemes."""


SEEDLESS: Final = ("label", "tsne")
"""Those that draw nothing."""


class PartitionError(ConfigurationError):
    """The data set cannot be divided as asked."""


def partition(
    labels: NDArray[np.int64],
    num_clients: int,
    scheme: str,
    *,
    seed: int,
    alpha: float = 0.5,
    features: NDArray[np.float32] | None = None,
) -> list[NDArray[np.intp]]:
    """Divide the examples with these labels among clients.

    Parameters
    ----------
    labels : NDArray[np.int64]
        Shape (n,), the label of each example.
    num_clients : int
        Number of parts, N, from 1 to n.
    scheme : str
        One of :data:`SCHEMES`. ``iid`` and ``label`` give sizes that differ by one
        at most.
    seed : int
        Non-negative; the same seed gives the same parts. ``label`` and ``tsne`` do not
        use it.
    alpha : float
        Concentration of ``dirichlet`` and ``quantity``, the others do not use it.
    features : NDArray[np.float32], optional
        Shape (n, d), for ``tsne`` alone.

    Returns
    -------
    list[NDArray[np.intp]]
        For each client the sorted indices of its examples. The parts are disjoint,
        none is empty, and together they hold every example.

    Raises
    ------
    UnknownNameError
        `scheme` is none of :data:`SCHEMES`.
    PartitionError
        `num_clients` is not in 1, ..., n, `seed` is negative, `alpha` is not a
        positive finite number, `labels` is not one-dimensional, or ``tsne`` has no
        features.
    """
    if scheme not in SCHEMES:
        raise UnknownNameError("partition scheme", scheme, SCHEMES)
    if labels.ndim != 1:
        raise PartitionError(
            f"expected one label per example, shape (n,), came shape {labels.shape}: "
            f"pass class indices, not one-hot rows"
        )
    if num_clients < 1:
        raise PartitionError(
            f"expected at least one client, came num_clients={num_clients}"
        )
    if num_clients > len(labels):
        raise PartitionError(
            f"expected at least one example per client, came {len(labels)} examples "
            f"for {num_clients} clients: ask for at most {len(labels)} clients"
        )
    if seed < 0:
        raise PartitionError(f"expected a non-negative seed, came seed={seed}")
    if scheme in ("dirichlet", "quantity") and not (
        math.isfinite(alpha) and alpha > 0.0
    ):
        raise PartitionError(
            f"expected a positive finite Dirichlet concentration, came alpha={alpha}: "
            f"0.1 divides very unevenly, 100 almost evenly"
        )

    if scheme == "tsne":
        if features is None:
            raise PartitionError("tsne divides by the features: pass them")
        owners = cluster_owners(features, num_clients)
        generator = np.random.Generator(np.random.Philox(0))
        _fill(owners, num_clients, generator)
        return [np.flatnonzero(owners == i) for i in range(num_clients)]
    if scheme == "label":
        parts = np.array_split(np.argsort(labels, kind="stable"), num_clients)
    else:
        generator = np.random.Generator(np.random.Philox(seed))
        if scheme == "iid":
            parts = np.array_split(generator.permutation(len(labels)), num_clients)
        elif scheme == "quantity":
            shares = generator.dirichlet(np.full(num_clients, alpha))
            # One example for each client before the rest is shared out.
            rest = len(labels) - num_clients
            cuts = np.rint(np.cumsum(shares)[:-1] * rest).astype(np.intp)
            cuts += np.arange(1, num_clients)
            parts = np.split(generator.permutation(len(labels)), cuts)
        else:
            owners = _dirichlet_owners(labels, num_clients, generator, alpha)
            parts = [np.flatnonzero(owners == i) for i in range(num_clients)]
    return [np.sort(part).astype(np.intp, copy=False) for part in parts]


def _dirichlet_owners(
    labels: NDArray[np.int64],
    num_clients: int,
    generator: np.random.Generator,
    alpha: float,
) -> NDArray[np.intp]:
    """Return the client of each example, every client present."""
    owners = np.empty(len(labels), dtype=np.intp)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        shares = generator.dirichlet(np.full(num_clients, alpha))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(np.intp)
        for client, part in enumerate(np.split(members, cuts)):
            owners[part] = client
    _fill(owners, num_clients, generator)
    return owners


def _fill(
    owners: NDArray[np.intp], num_clients: int, generator: np.random.Generator
) -> None:
    """Give each client without one an example of the client that has most.

    Drawing again until no client is empty may never end (small alpha, many clients).
    """
    counts = np.bincount(owners, minlength=num_clients)
    for empty in np.flatnonzero(counts == 0):
        donor = int(np.argmax(counts))
        owners[generator.choice(np.flatnonzero(owners == donor))] = empty
        counts[donor] -= 1
        counts[empty] += 1
