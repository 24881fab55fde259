"""Whether a payload is of its link's operator and code, before it is decoded.

A receiver that decodes whatever a payload says it is lets the sender choose: what
decoding costs, and whether a memory folds it whole.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ..coding import code_by_wire_id, code_ids, nonzeros_said
from ..coding.chosen import may_be_chosen, may_be_runs
from ..compressors import Compressor, Parts, Tied
from ..errors import CorruptPacket

__all__ = ["require_form"]

_NO_CODE = 0
_LENGTH = struct.Struct("<I")


def require_form(
    data: bytes,
    dim: int,
    operators: Sequence[Compressor],
    code: str,
    sizes: tuple[int, ...] | None = None,
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
    sizes : tuple[int, ...], optional
        Lengths of the tensors that the vector is made of.

    Raises
    ------
    CorruptPacket
        If it is of another operator, other parameters, or another code, or says that it
        holds more symbols than the operator makes.
    """
    if any(_has_form(memoryview(data), dim, sizes, each, code) for each in operators):
        return
    head = ", ".join(str(byte) for byte in data[:2])
    raise CorruptPacket(
        f"expected a payload of {operators[0]}, code {code}, as the contract says, got "
        f"one of operator and code {head}: is the peer's mod the one of this package?"
    )


def _has_form(
    view: memoryview,
    dim: int,
    sizes: tuple[int, ...] | None,
    operator: Compressor,
    code: str,
) -> bool:
    if len(view) < 2:
        return False
    if isinstance(operator, Tied):
        return _is_tied(view, operator, code)
    if isinstance(operator, Parts):
        return _is_in_parts(view, operator, code)
    wire_id, parameters = operator.to_wire()
    body = view[2 + len(parameters) :]
    if view[0] != wire_id or view[2 : 2 + len(parameters)] != parameters:
        return False
    alphabet = operator.alphabet(dim)
    if alphabet is None:
        return view[1] == _NO_CODE
    if view[1] not in code_ids(code, *alphabet):
        return False
    said, most = nonzeros_said(view[1], body, dim), operator.most_nonzeros(dim, sizes)
    if said is not None and said > most:
        return False
    if code != "auto":
        return True
    if said is not None:
        return may_be_runs(dim, *alphabet, said)
    name = code_by_wire_id(view[1]).name
    return may_be_chosen(name, dim, *alphabet, most)


def _is_tied(view: memoryview, tied: Tied, code: str) -> bool:
    body = 2 + tied.mask_bytes
    mask = int.from_bytes(view[2:body], "little")
    heads = len(view) > body and view[0] == tied.wire_id and view[1] == _NO_CODE
    if not heads or mask >> len(tied.ties):
        return False
    reduced = tied.reduced(mask)
    sizes = reduced.sizes
    return _has_form(view[body:], sum(sizes), sizes, reduced.operator, code)


def _is_in_parts(view: memoryview, parts: Parts, code: str) -> bool:
    count = len(parts.operators)
    if len(view) < 3 or bytes(view[:3]) != bytes((parts.wire_id, _NO_CODE, count)):
        return False
    rest = view[3:]
    for number, (operator, sizes) in enumerate(
        zip(parts.operators, parts.part_sizes, strict=True), 1
    ):
        size = len(rest)
        if number < count:
            if size < _LENGTH.size:
                return False
            (size,) = _LENGTH.unpack_from(rest)
            rest = rest[_LENGTH.size :]
        if size > len(rest):
            return False
        if not _has_form(rest[:size], sum(sizes), sizes, operator, code):
            return False
        rest = rest[size:]
    return True
