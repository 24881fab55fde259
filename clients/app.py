"""What the ready-made client apps share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from flwr.app import ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from flower_compress.mods.client_mod import stable_identity
from flower_compress.wire.arrays import read_array, write_array
from flower_compress.wire.building import (
    entries,
    new_array_record,
    new_metric_record,
    new_record_dict,
    new_reply,
)
from flower_compress.wire.records import first_config, model_record

from .objective import Arrays, Objective

__all__ = ["ObjectiveFactory", "Step", "make_app"]

ObjectiveFactory = Callable[[Context, ConfigRecord], Objective]
"""Builds a client's objective from its context and the message's config."""


class Step(Protocol):
    """What a client does with the received model in one round."""

    def __call__(
        self, objective: Objective, arrays: Arrays, config: ConfigRecord, client: int
    ) -> tuple[float, Arrays]:
        """Return the training loss and the arrays to send."""


def make_app(objective: ObjectiveFactory, step: Step, mods: Sequence[Mod]) -> ClientApp:
    """Return an app whose train function is `step`, and which can evaluate."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        key, arrays, config = _content(msg)
        problem = objective(context, config)
        loss, result = step(problem, arrays, config, stable_identity(context))
        metrics = new_metric_record(
            {"num-examples": problem.num_examples, "train-loss": loss}
        )
        record = new_array_record({name: write_array(a) for name, a in result.items()})
        content = new_record_dict({key: record, "metrics": metrics})
        return new_reply(msg, content)

    @app.evaluate()
    def evaluate(msg: Message, context: Context) -> Message:
        _, arrays, config = _content(msg)
        problem = objective(context, config)
        metrics = MetricRecord()
        metrics["num-examples"] = problem.num_examples
        metrics.update(problem.evaluate(arrays))
        content = new_record_dict({"metrics": metrics})
        return Message(content, reply_to=msg)

    return app


def _content(msg: Message) -> tuple[str, Arrays, ConfigRecord]:
    """Return the model's ArrayRecord with its key, and the config (empty if none)."""
    key, record = model_record(msg.content, "arrays", "the message")
    arrays: Arrays = {k: read_array(array) for k, array in entries(record).items()}
    return key, arrays, first_config(msg.content)
