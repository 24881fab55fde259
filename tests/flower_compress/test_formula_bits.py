"""The papers' formulas: by hand, and against what their codes take."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flower_compress import DitheredQuantizer, StochasticQuantizer
from flower_compress.coding import choose_code
from flower_compress.errors import ConfigurationError
from flower_compress.formula_bits import (
    entropy_bits,
    laplace_frequencies,
    malcom_bits,
    qsgd_bits,
    sparse_bits,
)
from flower_compress.streams import Purpose, Stream

STREAM = Stream(3, Purpose.UPLINK)


def test_by_hand() -> None:
    assert entropy_bits([2, 0, 1, 1]) == pytest.approx(4 * 1.5)
    assert entropy_bits([0, 7]) == entropy_bits([]) == 0.0
    # Few counts and many are summed differently.
    many = [2, 0, 1, 1, *[0] * 100]
    assert entropy_bits(np.array(many)) == pytest.approx(4 * 1.5)
    # f_0 = 1/2 is implicit; 1/4 of 1, then 1/4 of the 3/4 that are left.
    expected = 0.25 * (2.914 + 2) + 0.25 * (2.914 + math.log2(3))
    assert malcom_bits([0.25, 0.5, 0.25], 8) == pytest.approx(8 * expected)
    assert malcom_bits([1.0, 0.0], 8) == 0.0
    # s (s + sqrt(d)) = 2 * 6, 2 (s^2 + d) / 12 = 40 / 12
    assert qsgd_bits(16, 2) == pytest.approx((3 + 1.5 * math.log2(10 / 3)) * 12 + 32)
    assert sparse_bits(64, 3) == 3 * 38
    with pytest.raises(ConfigurationError, match="add up to 1"):
        malcom_bits([0.5, 0.4], 8)


@pytest.mark.parametrize("levels", [7, 8])
def test_malcoms_formula_bounds_its_code(levels: int) -> None:
    """As printed it lies below the entropy; from m = 1 it is above the code."""
    x = np.random.default_rng(0).laplace(size=1 << 16).astype(np.float32)
    compressed = DitheredQuantizer(levels).compress(x, STREAM)
    symbols = compressed.symbols
    assert symbols is not None
    counts = np.unique(symbols.dense(), return_counts=True)[1]
    bound = malcom_bits(counts / x.size, x.size)
    code = choose_code("support-vector", symbols).num_bits(symbols)
    assert entropy_bits(counts) < code < bound < 1.5 * code
    # Eq. (14): levels around zero, what lies beyond in the outermost.
    ratio = float(x.max() - x.min())
    f = laplace_frequencies(ratio, levels)
    assert f.sum() == pytest.approx(1.0) and np.all(np.diff(f[len(f) // 2 :]) <= 0)
    half = levels // 2
    rounded = np.clip(np.rint(x * levels / ratio), -half, half)
    shares = [np.mean(rounded == k) for k in range(-half, half + 1)]
    np.testing.assert_allclose(f, shares, atol=4 * x.size**-0.5)


@pytest.mark.parametrize(("dim", "levels"), [(4096, 1), (4096, 4), (65536, 2)])
def test_qsgds_formula_bounds_its_code(dim: int, levels: int) -> None:
    x = np.random.default_rng(1).standard_normal(dim).astype(np.float32)
    symbols = StochasticQuantizer(levels).compress(x, STREAM).symbols
    assert symbols is not None
    code = choose_code("elias", symbols).num_bits(symbols)
    assert code + 32 < qsgd_bits(dim, levels)
