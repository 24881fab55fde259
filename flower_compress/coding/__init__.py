"""Symbols to bits, one code a file."""

from __future__ import annotations

from functools import lru_cache

from ..errors import CorruptPacket, UnknownNameError
from .base import Code
from .bit_reader import BitReader
from .bits import FEW
from .chosen import may_be_runs
from .elias import Elias
from .elias_levels import EliasLevels
from .entropy import Entropy
from .fixed_width import FixedWidth
from .indices import Indices
from .nested_golomb import NestedGolomb
from .packed_huffman import PackedHuffman
from .sampling import SAMPLE_SIZE, sample_symbols
from .support_vector import SupportVector
from .symbols import Symbols
from .universal import take_gamma

__all__ = [
    "CODE_NAMES",
    "Code",
    "Elias",
    "EliasLevels",
    "Entropy",
    "FixedWidth",
    "Indices",
    "NestedGolomb",
    "PackedHuffman",
    "SupportVector",
    "Symbols",
    "choose_code",
    "code_by_wire_id",
    "encode_symbols",
]

_CODES: tuple[Code, ...] = (
    FixedWidth(),
    Elias(),
    Indices(),
    NestedGolomb(),
    SupportVector(),
    PackedHuffman(),
    Entropy(),
    EliasLevels(),
)
_BY_NAME = {code.name: code for code in _CODES}
_BY_WIRE_ID = {code.wire_id: code for code in _CODES}

CODE_NAMES: tuple[str, ...] = ("auto", *_BY_NAME)
"""Every name that a link's `code` argument takes."""

# Shorter vectors: Huffman's tables take more than they save.
_MIN_HUFFMAN_DIM = 2**11
# On dense symbols Golomb's runs are up to five times slower than packed bytes: where
# that is noticed, they must save at least this part.
_MIN_SAVING = 1 / 64


def choose_code(name: str, symbols: Symbols) -> Code:
    """Return the code called `name`; ``"auto"`` is the shortest fast one for `symbols`.

    ``"auto"`` compares fixed-width, packed-huffman and nested-golomb (for the alphabet
    {0, 1} indices): by exact length up to dimension 2^16, beyond by length on a sample
    of 2^16 symbols, where packed-huffman is preferred if it is less than 1.6 % longer
    than the runs. Below dimension 2^11 packed-huffman is left out. From 2^12 on runs
    are left out where most symbols are not zero, have a sign and cannot exceed 2: they
    save a table of 100 bytes and 5 % at most there, mostly below 1 %, and take ten
    times as long to read. Up to dimension 256 fixed-width is taken at once for wide
    alphabets of which most symbols are not zero: runs save a few bytes there and take
    several times as long. The choice is a function of the symbols.

    The other codes are taken only by name. elias and support-vector are slower than
    nested-golomb and hardly ever shorter; entropy needs an optional package at both
    ends and saves about 1 %; elias-levels is a baseline to measure the others against.

    Raises
    ------
    UnknownNameError
        If there is no code of that name.
    """
    if name == "auto":
        return _choose_fast(symbols)
    if name not in _BY_NAME:
        raise UnknownNameError("code", name, CODE_NAMES)
    return _BY_NAME[name]


def encode_symbols(name: str, symbols: Symbols) -> tuple[Code, bytes, int]:
    """Return the code that :func:`choose_code` chooses, its bytes and their bits."""
    if name == "auto" and symbols.dim < _MIN_HUFFMAN_DIM:
        fixed = _BY_NAME["fixed-width"]
        if not _is_short_and_dense(symbols):
            # Writing the runs takes hardly longer than counting them.
            runs = _runs_code(symbols)
            data, num_bits = runs.encode(symbols)
            count = symbols.num_nonzero
            # Zeros beside other symbols take a bit each in fixed width, at least.
            few = num_bits < symbols.dim and 0 < count < symbols.dim
            if few or num_bits < fixed.num_bits(symbols):
                return runs, data, num_bits
        return fixed, *fixed.encode(symbols)
    if name == "auto" and symbols.dim <= SAMPLE_SIZE:
        return _encode_shortest(symbols)
    code = choose_code(name, symbols)
    return code, *code.encode(symbols)


def code_by_wire_id(wire_id: int) -> Code:
    """Return the code that a packet names."""
    if wire_id not in _BY_WIRE_ID:
        raise CorruptPacket(
            f"code id {wire_id} is not known: expected one of {sorted(_BY_WIRE_ID)}; "
            "is the peer's flower-compress newer?"
        )
    return _BY_WIRE_ID[wire_id]


@lru_cache(maxsize=256)
def code_ids(name: str, low: int, high: int) -> frozenset[int]:
    """Return the ids that a packet may name where the code `name` was agreed on.

    One, or with ``"auto"`` those that :func:`choose_code` chooses among for symbols in
    [low, high].

    Raises
    ------
    UnknownNameError
        If there is no code of that name.
    """
    if name == "auto":
        fast = (_BY_NAME["fixed-width"], _BY_NAME["packed-huffman"])
        return frozenset(code.wire_id for code in (*fast, _runs_of(low, high)))
    if name not in _BY_NAME:
        raise UnknownNameError("code", name, CODE_NAMES)
    return frozenset((_BY_NAME[name].wire_id,))


def nonzeros_said(code_id: int, data: memoryview, dim: int) -> int | None:
    """Return how many symbols are not zero, where a code of `dim` begins with that.

    Raises
    ------
    CorruptPacket
        If that number is cut off, or larger than `dim`.
    """
    if not isinstance(code_by_wire_id(code_id), Elias | Indices | NestedGolomb):
        return None
    return take_gamma(BitReader(data), dim + 1) - 1


def _runs_code(symbols: Symbols) -> Code:
    return _runs_of(symbols.low, symbols.high)


def _runs_of(low: int, high: int) -> Code:
    return _BY_NAME["indices" if (low, high) == (0, 1) else "nested-golomb"]


def _is_short_and_dense(symbols: Symbols) -> bool:
    if symbols.dim > FEW or max(-symbols.low, symbols.high) <= 1:
        return False
    return 2 * symbols.num_nonzero > symbols.dim


def _encode_shortest(symbols: Symbols) -> tuple[Code, bytes, int]:
    """Return what :func:`_choose_fast` chooses by exact lengths, and its bytes.

    Huffman's length is known once it is written. Runs of few symbols are written hardly
    later than counted; of many they are seldom the shortest, so they are counted.
    """
    fixed, huffman = _BY_NAME["fixed-width"], _BY_NAME["packed-huffman"]
    runs = _runs_code(symbols)
    # The first of equals wins: fixed width before Huffman's, that before runs.
    best, least = None, fixed.num_bits(symbols)
    data, num_bits = huffman.encode(symbols)
    if num_bits < least:
        best, least = (huffman, data, num_bits), num_bits
    if _may_be_runs(symbols) and (
        4 * symbols.num_nonzero <= symbols.dim or runs.num_bits(symbols) < least
    ):
        data, num_bits = runs.encode(symbols)
        if num_bits < least:
            best = runs, data, num_bits
    return best or (fixed, *fixed.encode(symbols))


def _may_be_runs(symbols: Symbols) -> bool:
    return may_be_runs(symbols.dim, symbols.low, symbols.high, symbols.num_nonzero)


def _choose_fast(symbols: Symbols) -> Code:
    runs = _runs_code(symbols)
    best = _BY_NAME["fixed-width"]
    if _is_short_and_dense(symbols):
        return best
    sample, saving = symbols, 0.0
    if symbols.dim > SAMPLE_SIZE:
        sample, saving = sample_symbols(symbols), _MIN_SAVING
    least = float(best.num_bits(sample))
    if symbols.dim >= _MIN_HUFFMAN_DIM:
        huffman = _BY_NAME["packed-huffman"]
        num_bits = huffman.num_bits(sample)
        if num_bits < least:
            best, least = huffman, num_bits * (1 - saving)
    if not _may_be_runs(symbols):
        return best
    return runs if runs.num_bits(sample) < least else best
