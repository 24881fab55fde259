"""Artemis: Diana's uplink, and the update compressed down.

Source: Philippenko & Dieuleveut, "Bidirectional compression in heterogeneous settings
for distributed or federated learning with partial participation" (2020).
"""

from __future__ import annotations

from typing import Any

from flower_compress.compressors import Compressor
from flower_compress.links import Direct

from .diana import Diana
from .run.names import refuse_fixed
from .server import DEFAULT_COMPRESSOR

__all__ = ["Artemis"]


class Artemis(Diana):
    """All clients and the server apply the same compressed update (degraded).

        q_i = C_up(g_i(w_k) - h_i),    h_i += alpha q_i
        w_{k+1} = w_k + C_down(-gamma/N sum_i (h_i + q_i))

    C_down(gamma g) is gamma C_down(g) for every operator that scales with its input.

    Parameters
    ----------
    compressor : Compressor
        C_up.
    downlink_compressor : Compressor, optional
        C_down where it differs from C_up.
    **kwargs
        Every other argument of :class:`Diana`: ``uplink_rate``, ``initial_memory`` and
        those of :class:`CompressedStrategy`.
    """

    def __init__(
        self,
        compressor: Compressor = DEFAULT_COMPRESSOR,
        *,
        downlink_compressor: Compressor | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_fixed(self, kwargs, "downlink", "downlink_carries", "preserved")
        super().__init__(
            compressor,
            downlink=Direct(downlink_compressor or compressor),
            downlink_carries="update",
            preserved=False,
            **kwargs,
        )
