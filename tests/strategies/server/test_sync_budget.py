"""What requests to be synchronised cost, and whom they cost nothing."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flower_compress import CompressionMod
from flower_compress.strategies import MCM
from flower_compress.strategies.server.sync_budget import SyncBudget
from flower_compress.testing import InProcessGrid


def dense_models(rounds: int, answers: str) -> int:
    """How many dense models a client is sent that asks (a) and updates (u) in turn."""
    budget, sent, at = SyncBudget(), 0, 0
    for version in range(1, rounds + 1):
        if version % 7 == 0:  # A checkpoint makes no difference.
            saved = json.loads(json.dumps(budget.save()))
            budget = SyncBudget()
            budget.restore(saved)
        if budget.rests(0):
            continue
        if answers[at % len(answers)] == "a":
            sent += 1
            budget.ask(0, version)
            budget.ask(0, version)  # Its answer arrives twice.
        else:
            budget.pay(0)
        at += 1
    return sent


def test_a_client_that_goes_on_asking_is_sent_less_and_less() -> None:
    assert dense_models(1000, "a") < 4 + 6 + 1000 / 60
    assert dense_models(1000, "au") < 100


def test_one_that_restarts_is_not_left_out() -> None:
    assert dense_models(999, "auu") == 333
    assert dense_models(4, "a") == 4


@pytest.mark.parametrize("paid", [0, 1])
def test_each_request_doubles_what_is_left_out(paid: int) -> None:
    budget, left_out = SyncBudget(), list[int]()
    for version in range(1, 13):
        budget.ask(0, version)
        left_out.append(sum(iter(lambda: budget.rests(0), False)))
        if version <= paid:
            budget.pay(0)
    assert left_out == [0, 0, 0, 0, 2, 4, 8, 16, 32, 64, 64, 64]


def test_it_is_told_who_is_left_out_and_what_is_paid_is_forgotten() -> None:
    budget = SyncBudget()
    for version in range(1, 6):
        budget.ask(3, version)
    assert budget.rests(3)
    assert not budget.rests(4)
    (reason,) = budget.left_out()
    assert "client 3" in reason
    assert not budget.left_out()
    for _ in range(10):
        budget.pay(3)
    assert budget.save() == []


@pytest.mark.parametrize("fault", ["raises", "NaN"])
def test_a_client_that_fails_again_and_again_is_told_of(
    fault: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, with why; it takes part as soon as it works."""
    rounds, dim, asked = 12, 500, []
    app = ClientApp(mods=[CompressionMod()])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        w = msg.content.array_records["arrays"]["w"].numpy()
        if context.node_config["partition-id"] == 1:
            asked.append(int(msg.content.config_records["config"]["server-round"]))
            if len(asked) < 8 and len(asked) != 2:
                if fault == "raises":
                    raise ValueError("no data")
                w = w * np.float32(np.nan)
        content = RecordDict(
            {
                "arrays": ArrayRecord({"w": Array(0.9 * w)}),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        return Message(content, reply_to=msg)

    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    initial = ArrayRecord({"w": Array(np.ones(dim, np.float32))})
    MCM(fraction_evaluate=0.0).start(InProcessGrid(app, 3), initial, rounds)
    assert asked == list(range(1, rounds + 1))
    texts = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    (told,) = {text for text in texts if "times in a row" in text}
    assert "client 1 (node 1002) has failed 5 times in a row" in told
    assert ("no data" if fault == "raises" else "NaN") in told
