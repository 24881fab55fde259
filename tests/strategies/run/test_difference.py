"""What distinguishes two runs, in one line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flower_compress.strategies.run.difference import differences

LAYOUT = [[f"layers.{i}.weight", [3, i], "float32", False] for i in range(1000)]


def contract(**changed: Any) -> str:
    return json.dumps({"layout": LAYOUT, "seed": 0, "rate": None, **changed})


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"seed": 1}, ["contract.seed was 0 and is 1"]),
        ({"rate": 0.5}, ["contract.rate was nothing and is 0.5"]),
        ({"more": True}, ["contract.more was nothing and is true"]),
        (
            {"layout": [["head", *LAYOUT[0][1:]], *LAYOUT[1:]], "seed": 7},
            [
                'contract.layout[0][0] was "layers.0.weight" and is "head"',
                "contract.seed was 0 and is 7",
            ],
        ),
    ],
)
def test_differences_are_found_within_a_contract(
    changed: dict[str, Any], expected: list[str]
) -> None:
    saved = {"contract": contract(), "optimizer": ["m", "v"]}
    own = {"contract": contract(**changed), "optimizer": ["m", "v"]}
    assert list(differences(saved, own)) == expected


def test_of_lists_of_other_lengths_the_lengths_are_told() -> None:
    (found,) = differences({"contract": contract()}, {"contract": contract(layout=[])})
    assert found.startswith('contract.layout was [["layers.0.weight"')
    assert found.endswith("... and is [] (1000 and 0 entries)")
    assert len(found) < 150


def test_long_values_are_cut_and_strings_need_not_be_json() -> None:
    (found,) = differences({"a": "{no", "b": 1}, {"a": LAYOUT, "b": 1})
    assert found.startswith('a was "{no" and is [["layers.0.weight"')
    assert len(found) < 100
