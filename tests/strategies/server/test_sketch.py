"""A sketch is linear, and as long as its vector."""

from __future__ import annotations

import numpy as np

from flower_compress.strategies.server.sketch import SLACK, Sketch, length


def test_the_length_is_that_of_the_vector_and_sums_are_sums() -> None:
    generator = np.random.default_rng(0)
    ratios = []
    for key in range(200):
        sketch = Sketch(3000, key)
        x, y = generator.standard_normal((2, 3000)).astype(np.float32)
        ratios.append(length(sketch.of(x)) / np.linalg.norm(x))
        np.testing.assert_allclose(
            sketch.of(x + y), sketch.of(x) + sketch.of(y), atol=1e-3
        )
    # ||S x||^2 has the mean ||x||^2 and the variance 2 / 64 of it.
    squares = np.square(ratios)
    assert abs(squares.mean() - 1) < 4 * np.sqrt(2 / 64 / 200)
    assert np.std(squares) < 1.3 * np.sqrt(2 / 64)
    assert 1 / SLACK < min(ratios) < max(ratios) < SLACK


def test_one_entry_has_its_own_length_and_a_key_fixes_the_draws() -> None:
    one = np.zeros(100, np.float32)
    one[37] = -3
    assert length(Sketch(100).of(one)) == 3
    assert (Sketch(100, 5).of(one) == Sketch(100, 5).of(one)).all()
    keys = {Sketch(100).key for _ in range(4)}
    assert len(keys) == 4, "a secret of the server's"
