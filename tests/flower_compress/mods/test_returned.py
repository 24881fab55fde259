"""Whether a reply looks like what the train function is said to return."""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from flower_compress import CompressionMod
from flower_compress.mods.returned import ReturnedArrays
from flower_compress.strategies import MCM, compress
from flower_compress.testing import InProcessGrid

Returned = Literal["weights", "difference", "gradient"]
RNG = np.random.default_rng(3)
MODEL = RNG.standard_normal(400).astype(np.float32)
STEP = RNG.standard_normal(400).astype(np.float32) / 10


@pytest.fixture(autouse=True)
def _told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    monkeypatch.setattr(ReturnedArrays, "_told", set())


def hints(caplog: pytest.LogCaptureFixture) -> list[str]:
    told = (r.getMessage() for r in caplog.records)
    return [text for text in told if "the train function returned" in text]


@pytest.mark.parametrize("strategy", [MCM, lambda: compress(FedAvg())])
@pytest.mark.parametrize(
    ("does", "returns", "said"),
    [
        ("weights", "weights", None),
        ("gradient", "gradient", None),
        ("difference", "weights", "return the model with that added"),
        ("gradient", "weights", 'CompressionMod(returns="gradient")'),
        ("weights", "gradient", 'leave out returns="gradient"'),
    ],
)
def test_a_reply_of_the_other_kind_is_told_once(
    strategy: Any,
    does: Returned,
    returns: Literal["weights", "gradient"],
    said: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = ClientApp(mods=[CompressionMod(returns)])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        arrays = msg.content["arrays"]
        assert isinstance(arrays, ArrayRecord)
        found = arrays["w"].numpy() - STEP if does == "weights" else STEP
        content = RecordDict(
            {
                "arrays": ArrayRecord({"w": Array(found)}),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        return Message(content, reply_to=msg)

    initial = ArrayRecord({"w": Array(MODEL)})
    strategy().start(InProcessGrid(app, num_nodes=3), initial, num_rounds=2)
    told = hints(caplog)
    assert len(told) == (said is not None)
    assert said is None or said in told[0]


@pytest.mark.parametrize("returns", ["weights", "gradient"])
def test_nothing_is_told_of_what_has_no_length(
    returns: Literal["weights", "gradient"], caplog: pytest.LogCaptureFixture
) -> None:
    zeros, endless = np.zeros(4, np.float32), np.full(4, np.inf, np.float32)
    huge = np.full(4, 3e38, np.float32)
    empty = np.zeros(0, np.float32)
    for model, returned in (
        (zeros, zeros),
        (zeros, endless),
        (huge, endless),
        (empty, empty),
        (np.ones(4, np.float32), np.full(4, np.nan, np.float32)),
    ):
        ReturnedArrays().look(1, returns, model, returned)
    assert not hints(caplog)
