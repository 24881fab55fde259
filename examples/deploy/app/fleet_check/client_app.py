"""Each device goes halfway to its own optimum."""

from __future__ import annotations

from flower_compress import CompressionMod
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fleet_check.task import target

app = ClientApp(mods=[CompressionMod()])


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Return w - (w - c_i) / 2."""
    w = msg.content["arrays"]["w"].numpy()
    own = target(int(context.node_config["partition-id"]), w.size)
    content = RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(w - 0.5 * (w - own))}),
            "metrics": MetricRecord({"num-examples": 1}),
        }
    )
    return Message(content, reply_to=msg)
