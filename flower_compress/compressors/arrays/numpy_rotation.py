"""The random rotation of the rows of a NumPy table."""

from __future__ import annotations

import numpy as np

from .numpy_blocks import blocks
from .ops import Array

__all__ = ["rotate"]


def rotate(table: Array, signs: list[Array], inverse: bool) -> Array:
    """Return :meth:`ArrayOps.rotate`."""
    rows, width = table.shape
    part = signs[0].shape[1]
    factor = np.float32(part**-0.5)
    spans = [slice(0, part), slice(width - part, width)][: len(signs)]
    steps = list(zip(spans, signs, strict=True))
    result = table.copy()
    for span, flips in reversed(steps) if inverse else steps:
        for r, _ in blocks(rows, part, whole_rows=True):
            factors = np.float32(1.0) - np.float32(2.0) * flips[r]
            block = result[r, span]
            if inverse:
                result[r, span] = _hadamard(block) * factor * factors
            else:
                result[r, span] = _hadamard(block * factors) * factor
    return result


def _hadamard(table: Array) -> Array:
    """Walsh-Hadamard transform of each row, in stages of falling stride; overwrites.

    A stage of stride s replaces every pair (a_i, a_{i+s}) by its sum and difference.
    Here the two halves of a row meet in every stage, and what they make is written
    pairwise, which brings the pairs of the next stage into the halves, and in the end
    all into their places: every stage has long loops.
    """
    stages, half = table.shape[1].bit_length() - 1, table.shape[1] // 2
    # Of one row a flat array: a loop over rows takes time, even over one.
    start = table.reshape(-1) if len(table) == 1 else np.ascontiguousarray(table)
    tables = start, np.empty_like(start)
    halves = [(each[..., :half], each[..., half:]) for each in tables]
    pairs = [(each[..., ::2], each[..., 1::2]) for each in tables]
    for stage in range(stages):
        first, second = halves[stage % 2]
        sums, differences = pairs[1 - stage % 2]
        np.add(first, second, out=sums)
        np.subtract(first, second, out=differences)
    return tables[stages % 2].reshape(table.shape)
