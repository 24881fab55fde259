"""One memory at the server for all clients: the mean of theirs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flower_compress.compressors import Vector
from flower_compress.links import Channel, Payload, fold

from ..run.checkpoint import Arrays, Checkpoint
from .saved_links import restore_payload, save_payload

__all__ = ["AveragedMemory"]

_GONE_SHARE = 0.1
_WAIT = 50


class AveragedMemory:
    """Hbar += alpha / N sum_i C_i(w - Hbar), over the clients i that heard.

    Source: Philippenko & Dieuleveut (NeurIPS 2021), eq. (S1). Every so many rounds a
    reset sets H_i = Hbar at every client; epochs are counted by them.

    What a client that is forgotten had its part in cannot be taken out of Hbar, which
    is no mean of the others' H_i any more, and holds the model off. So there is a reset
    ahead of time once more than a tenth of the clients were forgotten since the last
    one, or 50 rounds after the first of them.

    Parameters
    ----------
    initial : NDArray[np.float32]
        w_0, from which all H_i start, shape (d,).
    reset_every : int, optional
        Rounds between resets, None for never.

    Attributes
    ----------
    epoch : int
        How many resets were due so far.
    """

    def __init__(self, initial: Vector, reset_every: int | None) -> None:
        self._mean: NDArray[np.float64] = initial.astype(np.float64)
        self._origin = initial  # What Hbar was at the last reset.
        self._reset_every = reset_every
        self._heard: dict[tuple[int, int], Payload] = {}
        self.epoch = 0
        self._num_early = 0  # Resets ahead of time.
        self._num_gone = self._gone_since = 0
        self._newest_round = 0

    @property
    def vector(self) -> Vector:
        """Hbar."""
        return self._mean.astype(np.float32)

    @property
    def joining(self) -> int | None:
        """The epoch that a client joins in, None if nothing has moved in it yet."""
        return None if np.array_equal(self._origin, self._mean) else self.epoch

    def begin_round(self, server_round: int, num_clients: int) -> None:
        """Note a reset that is due with that round."""
        if server_round == self._newest_round:
            return  # Clients that evaluate were sent what belongs to it.
        self._newest_round = server_round
        due = 0
        if self._reset_every is not None:
            due = (server_round - 1) // self._reset_every
        if self._num_gone:
            self._gone_since = self._gone_since or server_round
            is_late = server_round - self._gone_since >= _WAIT
            is_early = is_late or self._num_gone > _GONE_SHARE * num_clients
            self._num_early += is_early and due + self._num_early <= self.epoch
        epoch = due + self._num_early
        if epoch > self.epoch:
            self.epoch, self._origin = epoch, self.vector
            self._num_gone = self._gone_since = 0

    def beginning(self, *, had_part: bool) -> Vector:
        """Return the H_i of a client that has to begin anew.

        What Hbar was at the reset: the client has no part in what it has moved by
        since, and with any other H_i it would not be the mean of them any more. A
        client that had its part, and has lost it, begins with Hbar.
        """
        return self.vector if had_part else self._origin

    def hear(self, identity: int, version: int, payload: Payload) -> None:
        """Note that a client has folded a payload."""
        self._heard[identity, version] = payload.compact()

    def forget(self, identity: int) -> None:
        """Leave out what a client has folded since the last step."""
        heard = self._heard.items()
        self._heard = {key: q for key, q in heard if key[0] != identity}
        self._num_gone += 1

    def settle(self, rate: float, num_clients: int) -> None:
        """Move on by what the clients have folded."""
        for _, payload in sorted(self._heard.items()):
            step = fold(None, payload, rate).astype(np.float64)
            self._mean += step / num_clients
        self._heard.clear()

    @property
    def counts(self) -> list[int]:
        """Epoch, resets ahead of time, and who is gone since when; for JSON."""
        return [
            self.epoch,
            self._num_early,
            self._num_gone,
            self._gone_since,
            self._newest_round,
        ]

    def save(self, arrays: Arrays) -> list[tuple[int, int]]:
        """Return whom of what was heard; add the vectors to `arrays`."""
        arrays["downlink/mean"] = self._mean
        arrays["downlink/origin"] = self._origin
        for (identity, version), payload in self._heard.items():
            save_payload(arrays, f"downlink/heard/{identity}/{version}", payload)
        return sorted(self._heard)

    def restore(
        self,
        heard: list[tuple[int, int, Channel]],
        counts: list[int],
        checkpoint: Checkpoint,
    ) -> None:
        """Take over what :meth:`save` and `counts` gave, with each one's channel."""
        self.epoch, self._num_early, *rest = counts
        self._num_gone, self._gone_since, self._newest_round = rest
        shape = self._origin.shape
        self._mean = checkpoint.array("downlink/mean", shape, np.float64)
        origin = checkpoint.array("downlink/origin", shape, np.float32)
        if not np.array_equal(origin, self._origin):  # Else it is the initial model.
            self._origin = origin
        for identity, version, channel in heard:
            name = f"downlink/heard/{identity}/{version}"
            payload = restore_payload(
                checkpoint, name, self._mean.size, channel, version
            )
            if payload is not None:
                self._heard[identity, version] = payload
