"""AMSGrad at the server on uniformly drawn entries of the gradients.

Source: "Sparsified distributed adaptive learning with error feedback" (draft),
figure 1, "Stoc-Unif"; Stich, Cordonnier & Jaggi, "Sparsified SGD with memory" (NeurIPS
2018).
"""

from __future__ import annotations

from typing import Any

from flower_compress.compressors import Compressor, RandK

from .run.names import refuse_fixed
from .spars_ams import SparsAMS

__all__ = ["stoc_unif"]


def stoc_unif(compressor: Compressor = RandK(fraction=0.01), **kwargs: Any) -> SparsAMS:
    """Return SPARS-AMS with q_i = C(g_i(theta_{t-1})), C unbiased.

    Parameters
    ----------
    compressor : Compressor
        C; by default a hundredth part of the entries.
    **kwargs
        Every other argument of :class:`SparsAMS`.
    """
    refuse_fixed("stoc_unif", kwargs, "error_feedback")
    return SparsAMS(compressor, error_feedback=False, **kwargs)
