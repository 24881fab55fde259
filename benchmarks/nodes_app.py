"""Client apps that train nothing, in a module that Ray's actors can import."""

from __future__ import annotations

from functools import lru_cache

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flower_compress import CompressionMod, ManyClientsMod
from flower_compress.clients import Arrays, gossip_client
from flower_compress.compressors import Vector
from flower_compress.wire.arrays import read_array, write_array

from .vectors import random_vector

__all__ = ["compressed", "gossip", "plain"]


@lru_cache(maxsize=1)
def _update(dim: int) -> Vector:
    return 1e-3 * random_vector("gaussian", dim)


def _train(msg: Message, _: Context) -> Message:
    record = msg.content["arrays"]
    assert isinstance(record, ArrayRecord)
    ((name, array),) = record.items()
    w = read_array(array)
    trained = ArrayRecord({name: write_array(w - _update(w.size))})
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": trained, "metrics": metrics}), reply_to=msg)


plain = ClientApp(mods=[ManyClientsMod()])
plain.train()(_train)
compressed = ClientApp(mods=[ManyClientsMod(), CompressionMod()])
compressed.train()(_train)


class _NoProblem:
    """A gradient that is the same everywhere."""

    num_examples = 1

    def gradient(self, arrays: Arrays, _: object) -> tuple[float, Arrays]:
        """Return no loss, and that gradient."""
        return 0.0, {name: _update(x.size) for name, x in arrays.items()}

    def local_steps(self, arrays: Arrays, *_: object) -> tuple[float, Arrays]:
        """Raise NotImplementedError: no node takes any."""
        raise NotImplementedError

    def evaluate(self, _: Arrays) -> dict[str, float]:
        """Return no metrics."""
        return {}


_node = gossip_client(lambda _, __: _NoProblem())


def _gossip(msg: Message, context: Context) -> Message:
    return _node(msg, context)


gossip = ClientApp(mods=[ManyClientsMod()])
gossip.train()(_gossip)
