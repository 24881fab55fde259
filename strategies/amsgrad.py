"""Distributed AMSGrad on the clients' full gradients.

Source: "Sparsified distributed adaptive learning with error feedback" (draft),
figure 1, "AMSGrad"; Reddi, Kale & Kumar, "On the convergence of Adam and beyond" (ICLR
2018).
"""

from __future__ import annotations

from typing import Any

from flower_compress.compressors import Identity

from .run.names import refuse_fixed
from .spars_ams import SparsAMS

__all__ = ["amsgrad"]


def amsgrad(**kwargs: Any) -> SparsAMS:
    """Return SPARS-AMS with nothing compressed: q_i = g_i(theta_{t-1}).

    Parameters
    ----------
    **kwargs
        Every argument of :class:`SparsAMS` but the compressor.
    """
    refuse_fixed("amsgrad", kwargs, "compressor", "error_feedback")
    return SparsAMS(Identity(), error_feedback=False, **kwargs)
