"""AMSGrad at the server on the clients' largest entries, without error feedback.

Source: "Sparsified distributed adaptive learning with error feedback" (draft),
figure 1, "TopK".
"""

from __future__ import annotations

from typing import Any

from flower_compress.compressors import Compressor, TopK

from .run.names import refuse_fixed
from .spars_ams import SparsAMS

__all__ = ["topk"]


def topk(compressor: Compressor = TopK(fraction=0.01), **kwargs: Any) -> SparsAMS:
    """Return SPARS-AMS that forgets what it leaves out: q_i = TopK(g_i(theta_{t-1})).

    Parameters
    ----------
    compressor : Compressor
        TopK; default the hundredth part of the entries.
    **kwargs
        Every other argument of :class:`SparsAMS`.
    """
    refuse_fixed("topk", kwargs, "error_feedback")
    return SparsAMS(compressor, error_feedback=False, **kwargs)
