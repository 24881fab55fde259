"""Trains the shared body with a head that stays with the client."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digits_heads.task import Body, accuracy, load_data, make_head
from digits_heads.task import train as train_fn

app = ClientApp()


def _load(msg: Message, context: Context) -> tuple[Body, torch.nn.Linear]:
    """Return the body that has come, and the head that was kept."""
    body, head = Body(), make_head()
    body.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    if "head" in context.state:
        head.load_state_dict(context.state["head"].to_torch_state_dict())
    return body, head


def _data(context: Context) -> list[torch.Tensor]:
    config = context.node_config
    return load_data(int(config["partition-id"]), int(config["num-partitions"]))


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train both, return the body, and keep the head."""
    server_round = msg.content["config"]["server-round"]
    torch.manual_seed(100 * server_round + int(context.node_config["partition-id"]))
    body, head = _load(msg, context)
    images, labels, *_ = _data(context)
    epochs = int(context.run_config["local-epochs"])
    loss = train_fn(body, head, images, labels, epochs)
    context.state["head"] = ArrayRecord(head.state_dict())
    metrics = {"train-loss": loss, "num-examples": len(labels)}
    content = RecordDict(
        {
            "arrays": ArrayRecord(body.state_dict()),
            "metrics": MetricRecord(metrics),
        }
    )
    return Message(content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the body that has come with the head that was kept."""
    *_, images, labels = _data(context)
    metrics = {
        "accuracy": accuracy(*_load(msg, context), images, labels),
        "num-examples": len(labels),
    }
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
