"""Trains and evaluates the network on a client's own digits."""

from __future__ import annotations

import torch
from flower_compress import CompressionMod
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digits_torch.task import Net, load_data
from digits_torch.task import test as test_fn
from digits_torch.task import train as train_fn

app = ClientApp(mods=[CompressionMod()])


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the model that has come, and return it."""
    net = Net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    partition_id = int(context.node_config["partition-id"])
    torch.manual_seed(partition_id + 1000 * msg.content["config"]["server-round"])
    loader, _ = load_data(partition_id, int(context.node_config["num-partitions"]))
    loss = train_fn(
        net,
        loader,
        int(context.run_config["local-epochs"]),
        msg.content["config"]["learning-rate"],
    )
    metrics = {"train-loss": loss, "num-examples": len(loader.dataset)}
    content = RecordDict(
        {
            "arrays": ArrayRecord(net.state_dict()),
            "metrics": MetricRecord(metrics),
        }
    )
    return Message(content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the model that has come."""
    net = Net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    _, loader = load_data(
        int(context.node_config["partition-id"]),
        int(context.node_config["num-partitions"]),
    )
    loss, accuracy = test_fn(net, loader)
    metrics = {"loss": loss, "accuracy": accuracy, "num-examples": len(loader.dataset)}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
