"""The client app of ``flwr run .`` and of every engine."""

from __future__ import annotations

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from flower_compress import ManyClientsMod
from flower_compress.clients import (
    Objective,
    gossip_client,
    gradient_client,
    local_steps_client,
    momentum_client,
    qadam_client,
)
from flower_compress.errors import ConfigurationError
from flower_compress.wire.mail import find_mail
from flower_compress.wire.records import first_config

from .settings import TASK_KEY, device_of, task_of

__all__ = ["app", "dispatch"]


def _objective(context: Context, config: ConfigRecord) -> Objective:
    """Return this node's part of the learning problem that the server names."""
    if "partition-id" not in context.node_config:
        raise ConfigurationError(
            "this node does not know which part of the data is its own: start it with "
            '--node-config "partition-id=0 num-partitions=10"'
        )
    task = task_of(str(config[TASK_KEY]))
    return task.objective(int(context.node_config["partition-id"]))


def _device(msg: Message) -> str | None:
    """Return where a node compresses: with NumPy, unless it computes elsewhere."""
    device = device_of(str(first_config(msg.content)[TASK_KEY]))
    return None if device == "cpu" else device


_APPS = {
    "gradient": gradient_client(_objective),
    "local-steps": local_steps_client(_objective),
    "qadam": qadam_client(_objective),
    "dist-ef-sgd": momentum_client(_objective),
    "gossip": gossip_client(_objective, device=_device),
}


def dispatch(msg: Message, context: Context) -> Message:
    """Let the client of the kind that the server asks for answer a message."""
    if find_mail(msg.content) is not None:  # A relay asks.
        return _APPS["gossip"](msg, context)
    config = first_config(msg.content)
    return _APPS[str(config.get("client", "gradient"))](msg, context)


app = ClientApp(mods=[ManyClientsMod()])
app.train()(dispatch)
app.evaluate()(dispatch)
