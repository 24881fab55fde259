"""Whether a payload is of its link's operator and code, before it is decoded.

A receiver that decodes whatever a payload says it is lets the sender choose: what
decoding costs, and whether a memory folds it whole.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ..coding import code_ids
from ..compressors import Compressor, Parts, Tied
from ..errors import CorruptPacket

__all__ = ["require_form"]

_NO_CODE = 0
_LENGTH = struct.Struct("<I")


def require_form(
    data: bytes, dim: int, operators: Sequence[Compressor], code: str
) -> None:
    """Look at the heads of a payload's bytes, and decode nothing.

    Parameters
    ----------
    data : bytes
        The bytes, as :class:`Payload` has them.
    dim : int
        Length d of the vector.
    operators : Sequence[Compressor]
        The operators that may have made it, bound to the vector's arrays.
    code : str
        Name of the code for their symbols; ``"auto"`` allows those it chooses among.

    Raises
    ------
    CorruptPacket
        If it is of another operator, other parameters, or another code.
    """
    if any(_has_form(memoryview(data), dim, each, code) for each in operators):
        return
    head = ", ".join(str(byte) for byte in data[:2])
    raise CorruptPacket(
        f"expected a payload of {operators[0]}, code {code}, as the contract says, got "
        f"one of operator and code {head}: is the peer's mod the one of this package?"
    )


def _has_form(view: memoryview, dim: int, operator: Compressor, code: str) -> bool:
    if len(view) < 2:
        return False
    if isinstance(operator, Tied):
        return _is_tied(view, operator, code)
    if isinstance(operator, Parts):
        return _is_in_parts(view, operator, code)
    wire_id, parameters = operator.to_wire()
    alphabet = operator.alphabet(dim)
    ids = frozenset((_NO_CODE,)) if alphabet is None else code_ids(code, *alphabet)
    return (
        view[0] == wire_id
        and view[1] in ids
        and view[2 : 2 + len(parameters)] == parameters
    )


def _is_tied(view: memoryview, tied: Tied, code: str) -> bool:
    body = 2 + tied.mask_bytes
    mask = int.from_bytes(view[2:body], "little")
    heads = len(view) > body and view[0] == tied.wire_id and view[1] == _NO_CODE
    if not heads or mask >> len(tied.ties):
        return False
    reduced = tied.reduced(mask)
    return _has_form(view[body:], sum(reduced.sizes), reduced.operator, code)


def _is_in_parts(view: memoryview, parts: Parts, code: str) -> bool:
    count = len(parts.operators)
    if len(view) < 3 or bytes(view[:3]) != bytes((parts.wire_id, _NO_CODE, count)):
        return False
    rest = view[3:]
    for number, (operator, dim) in enumerate(
        zip(parts.operators, parts.dims, strict=True), 1
    ):
        size = len(rest)
        if number < count:
            if size < _LENGTH.size:
                return False
            (size,) = _LENGTH.unpack_from(rest)
            rest = rest[_LENGTH.size :]
        if size > len(rest) or not _has_form(rest[:size], dim, operator, code):
            return False
        rest = rest[size:]
    return True
