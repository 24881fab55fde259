"""Reading Flower's records, and the mean of metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from flower_compress.errors import LayoutMismatchError
from flower_compress.wire.records import (
    model_record,
    records_of,
    uniform_mean,
)


def arrays(value: float) -> ArrayRecord:
    return ArrayRecord({"w": Array(np.full(2, value))})


def metrics(**values: Any) -> RecordDict:
    return RecordDict({"metrics": MetricRecord(values)})


def test_records_of_one_kind_in_order_and_not_copied() -> None:
    first, second = arrays(1), arrays(2)
    config, metric = ConfigRecord({"lr": 0.1}), MetricRecord({"loss": 1.0})
    content = RecordDict({"a": first, "c": config, "m": metric, "b": second})
    found = list(records_of(content, ArrayRecord))
    assert [id(record) for record in found] == [id(first), id(second)]
    assert [id(r) for r in records_of(content, ConfigRecord)] == [id(config)]
    assert [id(r) for r in records_of(content, MetricRecord)] == [id(metric)]
    assert list(records_of(RecordDict(), ArrayRecord)) == []


def test_the_models_record_is_the_one_under_its_key_or_the_only_one() -> None:
    record, other = arrays(1), arrays(2)
    content = RecordDict({"c": ConfigRecord({"lr": 0.1}), "weights": record})
    for asked in ("weights", "arrays", "c"):
        key, found = model_record(content, asked, "the reply")
        assert key == "weights"
        assert found is record
    content = RecordDict({"control": other, "weights": record})
    key, found = model_record(content, "weights", "the reply")
    assert key == "weights"
    assert found is record


@pytest.mark.parametrize("count", [0, 2, 3])
def test_none_or_several_array_records_are_refused(count: int) -> None:
    content = RecordDict({f"r{i}": arrays(i) for i in range(count)})
    content["m"] = MetricRecord({"loss": 1.0})
    message = f"one ArrayRecord in the client's reply, got {count}"
    with pytest.raises(LayoutMismatchError, match=message) as caught:
        model_record(content, "arrays", "the client's reply")
    assert ("none under 'arrays': put" in str(caught.value)) == (count > 0)


def test_mean_weighs_all_clients_alike() -> None:
    contents = [
        metrics(**{"loss": 1.0, "num-examples": 10, "hits": [1, 2]}),
        metrics(**{"loss": 4.0, "num-examples": 90, "hits": [3, 6]}),
        metrics(**{"loss": 1.0, "num-examples": 20, "hits": [2, 1]}),
    ]
    mean = uniform_mean(contents, "num-examples")
    assert mean.keys() == {"loss", "num-examples", "hits"}
    assert mean["loss"] == pytest.approx(2.0)
    assert mean["num-examples"] == pytest.approx(40.0)
    assert mean["hits"] == pytest.approx([2.0, 3.0])


def test_mean_over_all_metric_records_of_a_message() -> None:
    contents = [
        RecordDict(
            {
                "train": MetricRecord({"loss": 2.0}),
                "config": ConfigRecord({"loss": 100.0}),
                "more": MetricRecord({"accuracy": 0.5}),
            }
        )
    ]
    assert dict(uniform_mean(contents, "")) == {"loss": 2.0, "accuracy": 0.5}


def test_mean_leaves_the_messages_alone() -> None:
    contents = [metrics(loss=1.0, hits=[1.0, 2.0]), metrics(loss=3.0, hits=[3.0, 4.0])]
    uniform_mean(contents, "")
    assert dict(contents[0]["metrics"]) == {"loss": 1.0, "hits": [1.0, 2.0]}


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(LayoutMismatchError, match="'hits' differs in form"):
        uniform_mean([metrics(hits=[1, 2]), metrics(hits=[1, 2, 3])], "")


def test_a_list_for_some_clients_only_is_refused() -> None:
    for values in ((1.0, [1.0]), ([1.0], 1.0)):
        with pytest.raises(LayoutMismatchError, match="'hits'"):
            uniform_mean([metrics(hits=value) for value in values], "")
