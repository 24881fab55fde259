"""Symbols to bits, one code a file."""

from __future__ import annotations

from ..errors import CorruptPacket, UnknownNameError
from .base import Code
from .elias import Elias
from .fixed_width import FixedWidth
from .symbols import Symbols

__all__ = [
    "CODE_NAMES",
    "Code",
    "Elias",
    "FixedWidth",
    "Symbols",
    "choose_code",
    "code_by_wire_id",
]

_CODES: tuple[Code, ...] = (FixedWidth(), Elias())
_BY_NAME = {code.name: code for code in _CODES}
_BY_WIRE_ID = {code.wire_id: code for code in _CODES}

CODE_NAMES: tuple[str, ...] = ("auto", *_BY_NAME)
"""Every name that a link's `code` argument takes."""


def choose_code(name: str, symbols: Symbols) -> Code:
    """Return the code called `name`; ``"auto"`` is the shortest for `symbols`.

    The choice is by exact length, before a bit is written.
    """
    if name == "auto":
        return min(_CODES, key=lambda code: code.num_bits(symbols))
    if name not in _BY_NAME:
        raise UnknownNameError("code", name, CODE_NAMES)
    return _BY_NAME[name]


def code_by_wire_id(wire_id: int) -> Code:
    """Return the code that a packet names."""
    if wire_id not in _BY_WIRE_ID:
        raise CorruptPacket(
            f"code id {wire_id} is not known: expected one of {sorted(_BY_WIRE_ID)}; "
            "is the peer's flower-compress newer?"
        )
    return _BY_WIRE_ID[wire_id]
