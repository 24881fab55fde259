"""What a node may post: the relay hands letters on, and looks at nothing but this."""

from __future__ import annotations

from collections.abc import Collection

from flower_compress.errors import CorruptPacket
from flower_compress.wire.mail import EVERYONE, Letter, Posting

__all__ = ["LETTER_BYTES", "check_letters"]

LETTER_BYTES = 22
"""What a letter takes besides its data, in a message and here."""

_BYTES_A_FLOAT64 = 8
_LEAST_PAYLOAD = 2
_BYTES_AN_ENTRY, _BYTES_OF_TABLES = 16, 1 << 17
"""No payload is longer: no code takes more for an entry, or for its symbols."""


def check_letters(
    node: int,
    posting: Posting,
    *,
    readers: Collection[int],
    sources: Collection[int],
    dim: int,
    num_phases: int,
) -> None:
    """Raise an error unless a posting's letters are what a node may post.

    That is: to its neighbours or to everyone, of one kind and phase no more than one to
    each; and of each neighbour no more than one notice.

    Parameters
    ----------
    node : int
        The sender.
    posting : Posting
        What came, an answer to the delivery of its number.
    readers, sources : Collection[int]
        Who hears the node, and whom it hears.
    dim, num_phases : int
        Length d of the vectors, and exchanges a round.

    Raises
    ------
    CorruptPacket
        If they are others.
    """
    seen: set[tuple[int, int, int]] = set()
    for letter in posting.letters:
        others = sources if letter.notice else {EVERYONE, *readers}
        known = letter.node in others and letter.phase < num_phases
        if not known or letter.version != posting.number:
            raise CorruptPacket(
                f"node {node} posts a letter to node {letter.node}, phase "
                f"{letter.phase}, version {letter.version}, which is none of its "
                "neighbours, phases and deliveries"
            )
        _check_size(letter, dim)
        phase = 0 if letter.notice else letter.phase
        key = letter.kind, phase, letter.node
        everyone = letter.kind, phase, EVERYONE
        if key in seen or (not letter.notice and everyone in seen):
            raise CorruptPacket(
                f"node {node} posts a second letter of one kind to node {letter.node}, "
                f"phase {letter.phase}: expected one"
            )
        seen.add(key)


def _check_size(letter: Letter, dim: int) -> None:
    size, dense = len(letter.data), _BYTES_A_FLOAT64 * dim
    if letter.notice:
        if size:
            raise CorruptPacket(f"expected a notice without data, got {size} bytes")
    elif letter.snapshot:
        if size != dense:
            raise CorruptPacket(f"expected a snapshot of {dense} bytes, got {size}")
    elif not _LEAST_PAYLOAD <= size <= _BYTES_AN_ENTRY * dim + _BYTES_OF_TABLES:
        raise CorruptPacket(
            f"a payload of {size} bytes cannot be a vector of length {dim}"
        )
