"""Which arrays of a model are compressed, travel dense, or are averaged exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from flower_compress.compressors import ArrayRule, Compressor, Identity, Parts, PerArray
from flower_compress.links import Link
from flower_compress.wire.layout import Layout

__all__ = ["SmallArrays", "describe_arrays", "resolve"]

SmallArrays = Literal["dense", "compressed"]
"""How arrays of one dimension travel; see :class:`CompressedStrategy`."""

_SHARE, _SHARE_OF_FEW, _FEW = 0.02, 0.1, 1024
_SHOWN = 3


def resolve(link: Link, small_arrays: SmallArrays, layout: Layout) -> Link:
    """Return the link for models of that layout."""
    if small_arrays == "dense" and not link.compressor.lossless:
        longest = _longest_dense(layout)
        if longest:
            rule = ArrayRule(max_ndim=1, max_size=longest)
            link = replace(link, compressor=_with_dense(link.compressor, rule))
    return link.bind(layout.shapes)


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
    if up == down:
        return [f"Arrays: {up}"]
    return [f"Arrays on the uplink: {up}", f"Arrays on the downlink: {down}"]


def _describe(link: Link, layout: Layout) -> str:
    compressor = link.compressor
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
