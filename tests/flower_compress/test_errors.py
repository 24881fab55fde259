"""What the errors say."""

from __future__ import annotations

import pytest

from flower_compress.errors import UnknownNameError


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("mmc", "mcm"),
        ("MCM", "mcm"),
        ("rand_mcm", "rand-mcm"),
        ("randmcm", "rand-mcm"),
        ("diane", "diana"),
    ],
)
def test_a_slip_asks_for_the_nearest_name(name: str, nearest: str) -> None:
    error = UnknownNameError("algorithm", name, iter(["rand-mcm", "mcm", "diana"]))
    known = "expected one of diana, mcm, rand-mcm"
    question = f"did you mean {nearest!r}?"
    assert str(error) == f"unknown algorithm {name!r}: {known}; {question}"


@pytest.mark.parametrize("name", ["fedfoo", "", 7, None])
def test_a_name_that_is_near_to_none_lists_them_only(name: object) -> None:
    error = UnknownNameError("algorithm", name, ["mcm", "diana"])
    assert str(error) == f"unknown algorithm {name!r}: expected one of diana, mcm"
