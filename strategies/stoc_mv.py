"""AMSGrad at the server on gradients sparsified at random with the least variance.

Source: "Sparsified distributed adaptive learning with error feedback" (draft),
figure 1, "Stoc-MV"; Wangni, Wang, Liu & Zhang, "Gradient sparsification for
communication-efficient distributed optimization" (NeurIPS 2018).
"""

from __future__ import annotations

from typing import Any

from flower_compress.compressors import Compressor, MinVarianceSparsifier

from .run.names import refuse_fixed
from .spars_ams import SparsAMS

__all__ = ["stoc_mv"]


def stoc_mv(
    compressor: Compressor = MinVarianceSparsifier(density=0.01), **kwargs: Any
) -> SparsAMS:
    """Return SPARS-AMS with q_i = C(g_i(theta_{t-1})), C unbiased.

    Parameters
    ----------
    compressor : Compressor
        C; by default a hundredth part of the entries, on average.
    **kwargs
        Every other argument of :class:`SparsAMS`.
    """
    refuse_fixed("stoc_mv", kwargs, "error_feedback")
    return SparsAMS(compressor, error_feedback=False, **kwargs)
