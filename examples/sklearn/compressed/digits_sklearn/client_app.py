"""Trains and evaluates logistic regression on a client's own digits."""

from __future__ import annotations

import numpy as np
from flower_compress import CompressionMod
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.metrics import log_loss

from digits_sklearn.task import CLASSES, classifier, load_data

app = ClientApp(mods=[CompressionMod()])


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the model that has come, and return it."""
    partition_id = int(context.node_config["partition-id"])
    server_round = msg.content["config"]["server-round"]
    model = classifier(msg.content["arrays"].to_numpy_ndarrays(), seed=server_round)
    (features, labels), _ = load_data(
        partition_id, int(context.node_config["num-partitions"])
    )
    for _ in range(int(context.run_config["local-epochs"])):
        model.partial_fit(features, labels)
    weights = [model.coef_, model.intercept_]
    content = RecordDict(
        {
            "arrays": ArrayRecord([w.astype(np.float32) for w in weights]),
            "metrics": MetricRecord({"num-examples": len(labels)}),
        }
    )
    return Message(content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the model that has come."""
    model = classifier(msg.content["arrays"].to_numpy_ndarrays())
    _, (features, labels) = load_data(
        int(context.node_config["partition-id"]),
        int(context.node_config["num-partitions"]),
    )
    metrics = {
        "loss": log_loss(labels, model.predict_proba(features), labels=CLASSES),
        "accuracy": float(model.score(features, labels)),
        "num-examples": len(labels),
    }
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
