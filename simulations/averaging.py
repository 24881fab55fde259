"""The Polyak-Ruppert average of a run's models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flower_compress.clients import Arrays
from flower_compress.errors import CheckpointError

__all__ = ["AveragedIterates"]

_KEPT: Final = 3


class AveragedIterates:
    """sum_{k<=K} lambda_k w_{k-1} / sum_{k<=K} lambda_k with lambda_k = 1 / gamma_k.

    The plain mean of w_0, ..., w_{K-1} where the step size is constant (theorem 2 of
    Philippenko & Dieuleveut, NeurIPS 2021; weighted in theorem 1). Sums are float64.
    They are kept beside the checkpoints, since a resumed run needs those up to there.

    Parameters
    ----------
    step_size : Callable[[int], float]
        gamma_k of round k, from 1.
    folder : Path
        Where the sums are kept.
    every : int
        Rounds between them; 0 for none.
    """

    def __init__(
        self, step_size: Callable[[int], float], folder: Path, every: int
    ) -> None:
        self._step_size, self._folder, self._every = step_size, folder, every
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._weight, self._round = 0.0, -1

    def take(self, server_round: int, arrays: Arrays) -> Arrays:
        """Return the average after that round, and take its model in.

        Parameters
        ----------
        server_round : int
            The round; 0 for the initial model, which is its own average.
        arrays : dict[str, NDArray]
            Its model.

        Raises
        ------
        CheckpointError
            If the rounds before are neither known nor kept.
        """
        if self._round != server_round - 1:
            self._restore(server_round - 1)
        average = {
            name: (self._sums[name] / self._weight).astype(array.dtype)
            if self._sums
            else array
            for name, array in arrays.items()
        }
        weight = 1.0 / self._step_size(server_round + 1)
        for name, array in arrays.items():
            before = self._sums.get(name, np.zeros(array.shape))
            self._sums[name] = before + weight * array.astype(np.float64)
        self._weight += weight
        self._round = server_round
        if self._every and server_round and server_round % self._every == 0:
            self._keep()
        return average

    def _path(self, server_round: int) -> Path:
        return self._folder / f"average-{server_round}.npz"

    def _keep(self) -> None:
        """Write the sums, whole or not at all; a run is saved after its evaluation."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(self._round)
        temporary = path.with_suffix(".tmp.npz")
        arrays: dict[str, Any] = {
            f"sum/{name}": sums for name, sums in self._sums.items()
        }
        np.savez(temporary, weight=np.float64(self._weight), **arrays)
        temporary.replace(path)
        self._path(self._round - _KEPT * self._every).unlink(missing_ok=True)

    def _restore(self, server_round: int) -> None:
        path = self._path(server_round)
        try:
            with np.load(path, allow_pickle=False) as saved:
                self._weight = float(saved["weight"])
                self._sums = {
                    name.removeprefix("sum/"): saved[name]
                    for name in saved.files
                    if name != "weight"
                }
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"expected the average up to round {server_round} in {path}, got "
                f"{error}: run again from the start, in another folder"
            ) from error
