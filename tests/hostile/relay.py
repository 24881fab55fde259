"""A decentralized run of which one node writes letters that are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from numpy.typing import NDArray

from flower_compress.clients import GossipMod
from flower_compress.strategies import MalcomPSGD
from flower_compress.strategies.topology import Topology, complete, ring
from flower_compress.testing import InProcessGrid
from flower_compress.wire.building import with_record
from flower_compress.wire.mail import Posting, find_mail, mail_record

from .fleet import apart, silenced, targets

N, DIM, ROUNDS, LIAR = 6, 200, 200, 2
TOPOLOGIES = {"ring": ring(N), "complete": complete(N)}
Change = Callable[[Posting], Posting]


def garbled(posting: Posting) -> Posting:
    """Payloads that nobody can decode."""
    letters = (
        a if a.kind else replace(a, data=b"\xff" * len(a.data)) for a in posting.letters
    )
    return replace(posting, letters=tuple(letters))


def empty(posting: Posting) -> Posting:
    """Twenty thousand letters of no data."""
    letters = tuple(replace(a, data=b"") for a in posting.letters[:1]) * 20_000
    return replace(posting, letters=letters)


class Nodes(InProcessGrid):
    """Nodes that pull their model to targets; what one of them posts is changed."""

    def __init__(self, change: Change | None, num_nodes: int, once: bool) -> None:
        self.num_failed = self._num_posted = 0
        self._change, self._once = change, once
        app = ClientApp(mods=[self._tamper, GossipMod("gradient")])
        app.train()(self._train)
        self._targets = targets(num_nodes, DIM)
        super().__init__(app, num_nodes)

    def _tamper(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message:
        reply = call_next(msg, context)
        if reply.has_error():
            self.num_failed += 1
            return reply
        found = find_mail(reply.content)
        if context.node_config["partition-id"] != LIAR or not found:
            return reply
        posting = Posting.parse(found[1])
        self._num_posted += bool(posting.number)
        if self._change is None or not posting.number or not posting.letters:
            return reply
        if self._once and self._num_posted != 5:
            return reply
        return with_record(reply, found[0], mail_record(self._change(posting).data))

    def _train(self, msg: Message, context: Context) -> Message:
        w = msg.content["arrays"]["w"].numpy()
        gradient = w - self._targets[int(context.node_config["partition-id"])]
        content = {
            "arrays": ArrayRecord({"w": Array(gradient)}),
            "metrics": MetricRecord({"loss": 0.0}),
        }
        return Message(RecordDict(content), reply_to=msg)


def run(
    topology: Topology,
    change: Change | None = None,
    *,
    once: bool = False,
    num_nodes: int = N,
) -> tuple[NDArray[np.float32], int, str]:
    """Return the mean model, how often a node failed to answer, and the run's error."""
    nodes = Nodes(change, num_nodes, once)
    initial = ArrayRecord({"w": Array(np.zeros(DIM, dtype=np.float32))})
    relay = MalcomPSGD(topology, step_size=0.05)
    try:
        with silenced():
            relay.start(nodes, initial, ROUNDS)
    except Exception as raised:  # noqa: BLE001 - that is the outcome
        return np.zeros(DIM, np.float32), nodes.num_failed, f"{raised}"
    models = [
        relay.node_models[i]["w"].numpy() for i in range(N) if i in relay.node_models
    ]
    return np.mean(models, axis=0), nodes.num_failed, ""


def distance(model: NDArray[np.float32], without: set[int]) -> float:
    """How far a model is from the optimum of the others, or of all."""
    stay = [i for i in range(N) if i not in without]
    return apart(model, targets(N, DIM)[stay].mean(axis=0))
