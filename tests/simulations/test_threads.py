"""Clients that compute at a time: the same models, whatever the number of threads."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from simulations import engines
from simulations.checkpointing import Checkpointing
from simulations.settings import Settings
from tests.command import Command

NETWORK = {"task": "digits", "model": "cnn", "clients": 5, "partition": "iid"}
RUNS = {
    "mcm": {"batch_size": 16, "step_size": "0.05"},
    "malcom": {"batch_size": 16, "step_size": "0.05", "topology": "ring"},
}


def sha256(job: Settings, threads: int) -> tuple[str, set[str]]:
    """Return the final model's, and the names of the threads that trained."""
    digests: list[str] = []
    names: set[str] = set()
    objective = type(job.task.objective(0))
    gradient = objective.gradient

    def noted(*args: object) -> object:
        names.add(threading.current_thread().name)
        return gradient(*args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "gradient", noted)
        engines.run_all(
            [job],
            "inprocess",
            lambda _, __, ___, digest: digests.append(digest) if digest else None,
            Checkpointing(Path("unused")),
            workers=1,
            threads=threads,
        )
    (digest,) = digests
    return digest, names


def generators() -> tuple[object, str, bytes]:
    """Return the states of the generators that all threads share."""
    numpy = repr(np.random.get_state())  # noqa: NPY002
    return random.getstate(), numpy, torch.get_rng_state().numpy().tobytes()


@pytest.mark.parametrize("algorithm", RUNS)
def test_threads_change_no_byte_and_draw_from_no_global_generator(
    algorithm: str,
) -> None:
    job = Settings.of(algorithm, rounds=4, **NETWORK, **RUNS[algorithm])
    before = generators()
    serial, names = sha256(job, 1)
    assert names == {"MainThread"}
    threaded, names = sha256(job, 4)
    assert len(names) > 1 and "MainThread" not in names
    assert threaded == serial
    assert generators() == before
    if algorithm == "mcm":  # Left to itself it tries both ways in turns.
        assert sha256(job, 0)[0] == serial


def test_small_models_have_one_thread() -> None:
    job = Settings.of("mcm", clients=4, rounds=12, partition="iid")
    assert sha256(job, 0)[1] == {"MainThread"}


def test_threads_are_of_the_inprocess_engine(simulate: Command) -> None:
    wrong = simulate("run", "--engine", "ray", "--threads", "2")
    assert wrong.returncode == 1
    assert "threads goes with engine inprocess" in wrong.stderr
