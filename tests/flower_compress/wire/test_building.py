"""Records that are made without Flower's checks are those that it makes itself."""

from __future__ import annotations

from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto

from flower_compress.testing import InProcessGrid
from flower_compress.wire import building


def _made() -> RecordDict:
    array = building.new_array("uint8", (2,), "s", b"ab")
    return building.new_record_dict(
        {
            "arrays": building.new_array_record({"x": array}),
            "config": building.new_config_record({"a": 1, "b": b"c"}),
            "metrics": building.new_metric_record({"d": 0.5}),
        }
    )


def _expected() -> RecordDict:
    return RecordDict(
        {
            "arrays": ArrayRecord({"x": Array("uint8", (2,), "s", b"ab")}),
            "config": ConfigRecord({"a": 1, "b": b"c"}),
            "metrics": MetricRecord({"d": 0.5}),
        }
    )


@pytest.mark.parametrize("as_known", [True, False])
def test_records_are_those_of_the_constructors(
    as_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not as_known:  # As with a release of Flower that holds something else.
        monkeypatch.setattr(building, "_ARRAYS_AS_KNOWN", False)
        for name in (
            "_EMPTY_ARRAYS",
            "_EMPTY_CONFIG",
            "_EMPTY_RECORDS",
            "_EMPTY_METRICS",
        ):
            monkeypatch.setattr(building, name, None)
    made, expected = _made(), _expected()
    assert made == expected
    assert made.object_id == expected.object_id
    assert recorddict_to_proto(made) == recorddict_to_proto(expected)
    record: Any = made["arrays"]
    with pytest.raises(TypeError):
        record["x"] = 1
    with pytest.raises(TypeError):
        building.new_metric_record({"d": "no number"})  # type: ignore[dict-item]
    record["x"].data = b"cd"
    assert made.object_id != expected.object_id


def test_a_message_with_another_record_leaves_the_first_as_it_was() -> None:
    InProcessGrid(lambda msg, _: msg, 1)  # Messages need a run.
    msg = Message(_expected(), 7, "train")
    changed = building.with_record(msg, "config", ConfigRecord({"a": 2}))
    assert changed.metadata is msg.metadata
    assert changed.content["config"] == {"a": 2}
    assert changed.content["arrays"] is msg.content["arrays"]
    assert msg.content == _expected()


def test_a_reply_has_the_metadata_that_flower_gives() -> None:
    InProcessGrid(lambda msg, _: msg, 1)  # Messages need a run.
    msg = Message(_expected(), 7, "train", group_id="3", ttl=100.0)
    vars(msg.metadata)["_created_at"] -= 60.0  # It was on its way, and trained on.
    made, expected = (
        building.new_reply(msg, _made()),
        Message(_made(), reply_to=msg),
    )
    assert made.content == expected.content
    assert not made.has_error()
    times = ("_created_at", "_ttl")
    for name, value in vars(expected.metadata).items():
        held = vars(made.metadata)[name]
        assert held == (pytest.approx(value, abs=5.0) if name in times else value)
    assert vars(made.metadata).keys() == vars(expected.metadata).keys()
