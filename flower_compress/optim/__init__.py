"""Optimizers for one machine, for torch; torch is imported when one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .torch_spars_ams import SparsAMS

__all__ = ["SparsAMS"]


def __getattr__(name: str) -> Any:
    if name == "SparsAMS":
        from .torch_spars_ams import SparsAMS

        return SparsAMS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
