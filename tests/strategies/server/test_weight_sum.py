"""A sum that is kept is the one that is made anew, or none."""

from __future__ import annotations

import numpy as np

from flower_compress.strategies.server.weight_sum import WeightSum


def test_it_is_the_sum_in_any_order_or_none() -> None:
    rng = np.random.default_rng(0)
    weights = [float(w) for w in rng.integers(0, 10**12, 200)]
    kept = WeightSum(weights)
    for _ in range(300):
        place = int(rng.integers(len(weights)))
        others = (0.0, float(rng.integers(10**12)), 0.5, 1 / 3, 2.0**-100, 2.0**60)
        after = others[int(rng.integers(0, 6) if rng.random() < 0.2 else 1)]
        kept.replace(weights[place], after)
        weights[place] = after
        whole = all(weight == int(weight) for weight in weights)
        if whole and sum(map(int, weights)) <= 2**53:
            assert kept.exact == sum(weights) == sum(sorted(weights))
        else:
            assert kept.exact is None
    for place, weight in enumerate(weights):
        kept.replace(weight, float(place))
    assert kept.exact == sum(range(200))
