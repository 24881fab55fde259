"""Rand-MCM: MCM with a memory and an independent draw for each client.

Source: Philippenko & Dieuleveut, "Preserved central model for faster bidirectional
compression in distributed settings" (NeurIPS 2021), algorithm 1.
"""

from __future__ import annotations

from typing import Any

from flower_compress.compressors import Compressor

from .mcm import MCM
from .run.names import refuse_fixed
from .server import DEFAULT_COMPRESSOR, DownlinkMemory, Groups, ResetEvery

__all__ = ["RandMCM"]


class RandMCM(MCM):
    """As :class:`MCM`, with a model of its own for each client.

        w_hat_i = H_i + C_i(w_k - H_i),   H_i += alpha_down C_i(w_k - H_i)

    The draws C_i are independent, so their noise averages out over clients. With a
    number of groups the clients of a group share memory and draw (Rand-MCM-G). With
    ``memory="average"`` the server keeps one vector for all clients instead of one for
    each (eq. (S1)):

        w_hat_i = H_i + C_i(w_k - Hbar),   H_i += alpha_down C_i(w_k - Hbar),
        Hbar += alpha_down / N sum_i C_i(w_k - Hbar)

    H_i at the client, Hbar at the server; every `reset_every` rounds H_i = Hbar, which
    costs one dense message a client.

    Parameters
    ----------
    compressor : Compressor
        C_up, and C_i unless ``downlink_compressor`` is given.
    groups : int or "client" (default: "client")
        Number of groups G; client i is in group i mod G.
    memory : {"each", "average"} (default: "each")
        Whether the server keeps every client's H_i, or their average.
    reset_every : int, "auto" or None (default: "auto")
        Rounds between resets of the average; ``"auto"`` is 4 sqrt(d), None never.
    **kwargs
        Every other argument of :class:`MCM`.
    """

    def __init__(
        self,
        compressor: Compressor = DEFAULT_COMPRESSOR,
        *,
        groups: Groups = "client",
        memory: DownlinkMemory = "each",
        reset_every: ResetEvery = "auto",
        **kwargs: Any,
    ) -> None:
        refuse_fixed(self, kwargs, downlink_memory="it is memory=...")
        super().__init__(
            compressor,
            groups=groups,
            downlink_memory=memory,
            reset_every=reset_every,
            **kwargs,
        )
