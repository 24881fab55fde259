"""The verdict on a fleet's rounds is not always good."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy.verdict import check


def rounds() -> list[dict[str, Any]]:
    """Rounds 0 to 3 of three devices, the second of them twice, as after a crash."""
    first = {"round": 0, "error": 1.0, "dense-bytes": 0}
    return [first] + [
        {"round": number, "error": 0.1**number, "dense-bytes": 120 * (number == 1)}
        for number in (1, 2, 2, 3)
    ]


def test_good_rounds_pass() -> None:
    check(rounds(), devices=3, entries=10, num_rounds=3)


@pytest.mark.parametrize(
    ("index", "key", "value"),
    [
        (-1, "error", 0.02),  # not the optimum
        (-1, "round", 4),  # a round is missing
        (3, "dense-bytes", 40),  # a client was sent the model again
        (1, "dense-bytes", 80),  # one has never been sent it
    ],
)
def test_bad_rounds_do_not(index: int, key: str, value: float) -> None:
    changed = rounds()
    changed[index][key] = value
    with pytest.raises(AssertionError):
        check(changed, devices=3, entries=10, num_rounds=3)
