"""Decentralized SGD at a node: a gradient step.

Source: Lian et al., "Can decentralized algorithms outperform centralized algorithms?"
(NeurIPS 2017), with the step before the averaging ("adapt then combine").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .choco_sgd import ChocoSGD

__all__ = ["DPSGD"]


@dataclass(frozen=True)
class DPSGD(ChocoSGD):
    """z = x - eta g(x); what differs from CHOCO-SGD is that z travels as it is."""

    name: ClassVar[str] = "dpsgd"
