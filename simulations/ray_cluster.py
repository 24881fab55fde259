"""Ray, here or as a cluster, and how many clients a node of Flower has there."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["choose_clients_per_node", "ray_started"]

_log = logging.getLogger("flwr")
_MOST_THREADS, _THREADS_MORE = 32, 4


@contextmanager
def ray_started(options: Mapping[str, Any]) -> Iterator[None]:
    """Start Ray meanwhile, or join the cluster that ``RAY_ADDRESS`` names.

    Flower takes a Ray that runs as it is, and starts it in the same way else.

    Parameters
    ----------
    options : Mapping[str, Any]
        Arguments of ``ray.init``.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    paths = [*sys.path, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
    ray.init(include_dashboard=False, runtime_env={"env_vars": environment}, **options)
    try:
        yield
    finally:
        ray.shutdown()


def choose_clients_per_node(
    num_clients: int, resources: Mapping[str, float], asked: int = 0
) -> int:
    """Return how many clients a node has: as many as leave no actor without a node.

    Parameters
    ----------
    num_clients : int
        How many clients there are.
    resources : Mapping[str, float]
        ``num_cpus`` and ``num_gpus`` that an actor takes.
    asked : int (default: 0)
        How many a node is to have; 0 for N / A, rounded up, where A is how many actors
        Ray has room for, and Flower keeps busy.
    """
    if asked:
        return asked
    room = _room(resources)
    # Of Flower's threads each waits for one actor.
    threads = min(_MOST_THREADS, (os.cpu_count() or 1) + _THREADS_MORE)
    actors = min(room, threads)
    per_node = -(-num_clients // actors)
    _log.info(
        "%d clients on %d nodes, %d a node: Ray has room for %d actors at %g CPU and "
        "%g GPU, of which Flower keeps at most %d busy",
        num_clients,
        -(-num_clients // per_node),
        per_node,
        room,
        resources["num_cpus"],
        resources["num_gpus"],
        threads,
    )
    return per_node


def _room(resources: Mapping[str, float]) -> int:
    from flwr.simulation.ray_transport.ray_actor import pool_size_from_resources

    return pool_size_from_resources(dict(resources))
