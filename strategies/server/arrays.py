"""Which arrays of a model are compressed, travel dense, or are averaged exactly."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from logging import getLogger
from typing import Literal

from flower_compress.compressors import (
    ArrayRule,
    Compressor,
    Identity,
    Parts,
    PerArray,
    Tied,
    Vector,
)
from flower_compress.links import Link
from flower_compress.wire.layout import Layout

__all__ = ["SmallArrays", "Ties", "describe_arrays", "resolve", "ties_of"]

_log = getLogger("flwr")

Ties = tuple[tuple[int, int], ...]
"""Numbers of two arrays of the vector that are equal, the later one first."""

SmallArrays = Literal["dense", "compressed"]
"""How arrays of one dimension travel; see :class:`CompressedStrategy`."""

_SHARE, _SHARE_OF_FEW, _FEW = 0.02, 0.1, 1024
_SHOWN = 3


def resolve(
    link: Link, small_arrays: SmallArrays, layout: Layout, ties: Ties = ()
) -> Link:
    """Return the link for models of that layout and with those ties.

    Rules of a :class:`PerArray` that no array matches are told: a name with a slip.
    """
    if isinstance(link.compressor, PerArray):
        for rule, _ in link.compressor.rules:
            if not any(rule.match(*array) for array in layout.shapes):
                names = [name for name, _ in layout.shapes]
                _log.warning(
                    "%s of PerArray matches no array: the model has %s",
                    rule,
                    _shown(names),
                )
    if small_arrays == "dense" and not link.compressor.lossless:
        longest = _longest_dense(layout)
        if longest:
            rule = ArrayRule(max_ndim=1, max_size=longest)
            link = replace(link, compressor=_with_dense(link.compressor, rule))
    if ties:
        link = replace(link, compressor=Tied(link.compressor, ties))
    return link.bind(layout.shapes)


def ties_of(layout: Layout, model: Vector) -> Ties:
    """Return which arrays of a model are equal to one before them.

    Those of one entry over and over are left out: they are equal by chance.
    """
    first: dict[tuple[str, tuple[int, ...], bytes], int] = {}
    ties, start = [], 0
    tensors = [each for each in layout.tensors if not each.exact]
    for number, tensor in enumerate(tensors):
        entries = model[start : start + tensor.size]
        start += tensor.size
        if not tensor.size or (entries == entries[0]).all():
            continue
        digest = hashlib.blake2b(entries.tobytes(), digest_size=16).digest()
        original = first.setdefault((tensor.dtype, tensor.shape, digest), number)
        if original != number:
            ties.append((number, original))
    return tuple(ties)


def _with_dense(compressor: Compressor, rule: ArrayRule) -> Compressor:
    if isinstance(compressor, PerArray):
        return compressor.but_first(rule, Identity())
    return PerArray({rule: Identity()}, default=compressor)


def _longest_dense(layout: Layout) -> int:
    """Return up to which length arrays of one dimension travel dense, 0 for none.

    All of a length do or none: norm layers have several of each.
    """
    lengths = Counter(
        each.size
        for each in layout.tensors
        if not each.exact and len(each.shape) <= 1 and each.size
    )
    limit = max(_SHARE * layout.dim, min(_FEW, _SHARE_OF_FEW * layout.dim))
    longest, total = 0, 0
    for length, count in sorted(lengths.items()):
        total += length * count
        if total > limit:
            break
        longest = length
    return longest


def describe_arrays(uplink: Link, downlink: Link, layout: Layout) -> list[str]:
    """Return a line for the log, or one for each link where they differ."""
    up, down = _describe(uplink, layout), _describe(downlink, layout)
    lines = [f"Arrays: {up}"]
    if up != down:
        lines = [f"Arrays on the uplink: {up}", f"Arrays on the downlink: {down}"]
    for compressor in (uplink.compressor, downlink.compressor):
        if isinstance(compressor, Tied):
            names = [name for name, _ in compressor.arrays]
            pairs = [f"{names[copy]} = {names[i]}" for copy, i in compressor.ties]
            return [*lines, f"Sent once while they are equal: {_shown(pairs)}"]
    return lines


def _describe(link: Link, layout: Layout) -> str:
    compressor = link.compressor
    if isinstance(compressor, Tied):
        compressor = compressor.operator.bind(layout.shapes)
    names = [name for name, _ in layout.shapes]
    lossless = [compressor.lossless] * len(names)
    if isinstance(compressor, Parts):
        lossless = [compressor.operators[group].lossless for group in compressor.groups]
    kinds = {
        "compressed": [
            n for n, dense in zip(names, lossless, strict=True) if not dense
        ],
        "dense": [n for n, dense in zip(names, lossless, strict=True) if dense],
        "averaged exactly": [each.name for each in layout.tensors if each.exact],
    }
    sizes = {each.name: each.size for each in layout.tensors}
    texts = [
        f"{len(found)} {kind} ({sum(sizes[name] for name in found):,} entries: "
        f"{_shown(found)})"
        for kind, found in kinds.items()
        if found
    ]
    return ", ".join(texts)


def _shown(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
