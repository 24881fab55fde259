"""Networks that learn scikit-learn's digits for so many local epochs, as apps do."""

from __future__ import annotations

from typing import Any, NamedTuple

CLIENTS, BATCH = 10, 32


class Learnt(NamedTuple):
    """How a run ended.

    Attributes
    ----------
    accuracy : float
        Of the server's model on the test set.
    up, down : int
        Bytes on the wire, first models included.
    """

    accuracy: float
    up: int
    down: int


def run_digits(
    name: str, model: str, partition: str, epochs: int, rounds: int, seed: int = 0
) -> Learnt:
    """Train with a strategy as it is constructed without arguments.

    Parameters
    ----------
    name : str
        The strategy's, ``"sgd"`` for federated averaging.
    model, partition : str
        As ``python -m simulations`` has them.
    epochs, rounds : int
        Local epochs of each of ten clients, and rounds.
    seed : int
        Of the partition, the initial model, batches and operators.
    """
    from flwr.app import ArrayRecord

    from flower_compress.strategies import get_algorithm
    from flower_compress.testing import InProcessGrid
    from flower_compress.wire.arrays import read_array, write_array
    from simulations.client_app import app
    from simulations.settings import Settings as Run

    problem: dict[str, Any] = {
        "task": "digits",
        "model": model,
        "partition": partition,
        "clients": CLIENTS,
        "batch_size": BATCH,
        "client": "local-steps",
        "seed": seed,
    }
    task = Run.of("sgd", **problem).task
    num_examples = task.objective(0).num_examples
    local_steps = epochs * -(-num_examples // BATCH)
    run = Run.of("sgd", local_steps=local_steps, **problem)
    initial = ArrayRecord({k: write_array(a) for k, a in task.initial_arrays().items()})
    strategy: Any = get_algorithm(name)(fraction_evaluate=0.0, seed=seed)
    grid = InProcessGrid(app, CLIENTS)
    result = strategy.start(grid, initial, rounds, train_config=run.train_config())
    arrays = {key: read_array(array) for key, array in result.arrays.items()}
    ledger = strategy.ledger
    return Learnt(
        task.accuracy(arrays), ledger.uplink.num_bytes, ledger.downlink.num_bytes
    )
