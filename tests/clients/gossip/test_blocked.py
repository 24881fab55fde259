"""Arithmetic in blocks is the plain NumPy expression, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from flower_compress.clients.gossip.blocked import (
    add_scaled,
    averaged,
    difference,
    scaled,
)

BLOCK = 1 << 15


@pytest.mark.parametrize("size", [0, 1, 17, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_blocks_are_the_plain_expressions(size: int) -> None:
    generator = np.random.default_rng(size)
    z = generator.standard_normal(size).astype(np.float32)
    s, y = generator.standard_normal((2, size))
    s.flags.writeable = y.flags.writeable = False
    weight, gamma = 1 / 3, 0.7
    np.testing.assert_array_equal(scaled(z, weight), weight * z.astype(np.float64))
    total = s.copy()
    add_scaled(total, z, weight)
    np.testing.assert_array_equal(total, s + weight * z.astype(np.float64))
    add_scaled(total, y, 1.0)
    np.testing.assert_array_equal(total, s + weight * z.astype(np.float64) + y)
    found = difference(z, y)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, (z - y).astype(np.float32))
    expected = (gamma * (s - weight * y) + z).astype(np.float32)
    found = averaged(z, s, y, weight, gamma)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
