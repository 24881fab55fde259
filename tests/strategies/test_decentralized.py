"""The decentralized algorithms against their equations, written out in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from flower_compress import DitheredQuantizer, TopK
from flower_compress.clients import GossipMod
from flower_compress.compressors import Compressor
from flower_compress.links import Channel, Payload
from flower_compress.mods.client_mod import stable_identity
from flower_compress.strategies import DPSGD, CDProxSGT, ChocoSGD, MalcomPSGD, Relay
from flower_compress.strategies.topology import (
    Topology,
    complete,
    erdos_renyi,
    ring,
    star,
)
from flower_compress.streams import Purpose, Stream
from flower_compress.testing import InProcessGrid
from tests.strategies.problem import (
    DIM,
    INITIAL,
    NUM_CLIENTS,
    gradient,
    to_record,
    to_vector,
)

ROUNDS = 50
SEED = 3
ETA = 0.05
SIZES = (3, 20)
Matrix = NDArray[np.float64]


def make_node_app(returns: str = "gradient") -> ClientApp:
    """Return a node's app; gradients are those of the noisy quadratic."""
    app = ClientApp(mods=[GossipMod(returns)])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        client = stable_identity(context)
        server_round = int(msg.content["config"]["server-round"])
        x = to_vector(msg.content["arrays"])
        result = gradient(client, x, server_round)
        if returns == "weights":
            result = x - np.float32(ETA) * result
        metrics = MetricRecord({"train-loss": float(client)})
        content = RecordDict({"arrays": to_record(result), "metrics": metrics})
        return Message(content, reply_to=msg)

    @app.evaluate()
    def evaluate(msg: Message, context: Context) -> Message:
        x = to_vector(msg.content["arrays"])
        metrics = MetricRecord({"norm": float(np.abs(x).sum())})
        return Message(RecordDict({"metrics": metrics}), reply_to=msg)

    return app


def run(relay: Relay, rounds: int = ROUNDS, app: ClientApp | None = None) -> Any:
    """Run in process; return the models by node."""
    grid = InProcessGrid(app or make_node_app(), NUM_CLIENTS)
    relay.start(grid, to_record(INITIAL), num_rounds=rounds)
    return {node: to_vector(model) for node, model in relay.node_models.items()}


def compress(
    C: Compressor, x: NDArray[np.float32], node: int, version: int
) -> NDArray[np.float32]:
    """Return C(x) as node `node` draws it."""
    stream = Stream(SEED, Purpose.GOSSIP, node, version)
    return Payload.encode(x, C, "auto", Channel(stream, SIZES)).vector


def soft_threshold(v: NDArray[np.float32], t: float) -> NDArray[np.float32]:
    """Return max(|v| - t, 0) sign(v), in float32, entry by entry."""
    result = np.zeros_like(v)
    t32 = np.float32(t)
    for k, entry in enumerate(v):
        if entry > t32:
            result[k] = entry - t32
        elif entry < -t32:
            result[k] = entry + t32
    return result


class Gossip:
    """y and the sums over neighbours of one exchanged vector, at all nodes."""

    def __init__(
        self, W: Matrix, C: Compressor, gamma: float, start: Any, power: float = 0.0
    ) -> None:
        self.W, self.C, self.gamma, self.power = W, C, gamma, power
        self.round = 0
        n = len(W)
        self.y = [start.astype(np.float64) for _ in range(n)]
        self.s = [np.zeros(DIM) for _ in range(n)]
        for i in range(n):
            for j in range(n):
                if i != j:
                    self.s[i] = self.s[i] + W[i, j] * self.y[j]

    def exchange(self, z: list[Any], version: int) -> list[NDArray[np.float32]]:
        n = len(self.W)
        self.round += 1
        gamma = self.gamma / self.round**self.power
        q = [
            compress(self.C, (z[i] - self.y[i]).astype(np.float32), i, version)
            for i in range(n)
        ]
        x = []
        for i in range(n):
            self.y[i] = self.y[i] + q[i]
            weight = 0.0
            for j in range(n):
                if i != j and self.W[i, j] > 0:
                    self.s[i] = self.s[i] + self.W[i, j] * q[j].astype(np.float64)
                    weight += self.W[i, j]
            average = z[i] + gamma * (self.s[i] - weight * self.y[i])
            x.append(average.astype(np.float32))
        return x


def malcom_loop(
    W: Matrix, C: Compressor, gamma: float, mu: float
) -> list[NDArray[np.float32]]:
    n = len(W)
    x = [INITIAL.copy() for _ in range(n)]
    gossip = Gossip(W, C, gamma, INITIAL)
    for t in range(1, ROUNDS + 1):
        z = [
            soft_threshold(x[i] - np.float32(ETA) * gradient(i, x[i], t), ETA * mu)
            for i in range(n)
        ]
        x = gossip.exchange(z, t)
    return x


def cdprox_loop(
    W: Matrix, C: Compressor, gamma: float, mu: float, power: float = 0.0
) -> list[NDArray[np.float32]]:
    n = len(W)
    x = [INITIAL.copy() for _ in range(n)]
    v = [np.zeros(DIM, np.float32) for _ in range(n)]
    before = [np.zeros(DIM, np.float32) for _ in range(n)]
    models = Gossip(W, C, gamma, INITIAL, power)
    trackers = Gossip(W, C, gamma, np.zeros(DIM), power)
    for t in range(1, ROUNDS + 1):
        for i in range(n):
            g = gradient(i, x[i], t)
            v[i] = v[i] + g - before[i]
            before[i] = g
        v = trackers.exchange(v, 2 * t - 1)
        z = [soft_threshold(x[i] - np.float32(ETA) * v[i], ETA * mu) for i in range(n)]
        x = models.exchange(z, 2 * t)
    return x


def dpsgd_loop(W: Matrix, gamma: float) -> list[NDArray[np.float32]]:
    n = len(W)
    x = [INITIAL.copy() for _ in range(n)]
    for t in range(1, ROUNDS + 1):
        z = [x[i] - np.float32(ETA) * gradient(i, x[i], t) for i in range(n)]
        x = []
        for i in range(n):
            s, weight = np.zeros(DIM), 0.0
            for j in range(n):
                if i != j and W[i, j] > 0:
                    s = s + W[i, j] * z[j].astype(np.float64)
                    weight += W[i, j]
            average = z[i] + gamma * (s - weight * z[i].astype(np.float64))
            x.append(average.astype(np.float32))
    return x


TOPOLOGIES = [ring(5), complete(5), star(5), erdos_renyi(5, 0.6, seed=1)]
OPERATORS: list[Compressor] = [
    DitheredQuantizer(8),
    DitheredQuantizer(8, tau="lemma"),
    TopK(fraction=0.3),
]
MIXED = [
    pytest.param(topology, C, id=f"{topology.name}-{C}")
    for topology, C in [
        *((TOPOLOGIES[0], C) for C in OPERATORS),
        *zip(TOPOLOGIES[1:], OPERATORS, strict=True),
    ]
]
"""Each operator on one graph, and each graph: neither knows of the other."""


def check(found: dict[int, Any], expected: list[Any]) -> None:
    assert sorted(found) == list(range(NUM_CLIENTS))
    for i in range(NUM_CLIENTS):
        np.testing.assert_array_equal(found[i], expected[i])
    assert not np.array_equal(expected[0], INITIAL)


@pytest.mark.parametrize(("topology", "C"), MIXED)
@pytest.mark.parametrize("gamma", [1.0, 0.6])
def test_malcom_is_its_equations(topology: Topology, C: Any, gamma: float) -> None:
    relay = MalcomPSGD(
        topology, C, step_size=ETA, l1=0.3, consensus_step=gamma, seed=SEED
    )
    expected = malcom_loop(topology.mixing, C, gamma, 0.3)
    found = run(relay)
    check(found, expected)


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda t: t.name)
def test_choco_is_malcom_without_a_threshold(topology: Topology) -> None:
    C = DitheredQuantizer(4)
    relay = ChocoSGD(topology, C, step_size=ETA, consensus_step=0.7, seed=SEED)
    check(run(relay), malcom_loop(topology.mixing, C, 0.7, 0.0))


@pytest.mark.parametrize(("topology", "C"), MIXED)
def test_cdprox_sgt_is_its_equations(topology: Topology, C: Any) -> None:
    relay = CDProxSGT(topology, C, step_size=ETA, l1=0.2, consensus_step=0.8, seed=SEED)
    check(run(relay), cdprox_loop(topology.mixing, C, 0.8, 0.2))


def test_gamma_of_both_exchanges_decreases_with_the_round() -> None:
    topology, C = ring(5), DitheredQuantizer(8)
    relay = CDProxSGT(
        topology,
        C,
        step_size=ETA,
        l1=0.2,
        consensus_step=0.8,
        consensus_power=0.5,
        seed=SEED,
    )
    check(run(relay), cdprox_loop(topology.mixing, C, 0.8, 0.2, power=0.5))


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda t: t.name)
@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_dpsgd_is_its_equations(topology: Topology, gamma: float) -> None:
    relay = DPSGD(topology, step_size=ETA, consensus_step=gamma, seed=SEED)
    check(run(relay), dpsgd_loop(topology.mixing, gamma))


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda t: t.name)
def test_without_residuals_what_arrives_of_the_model_is_averaged(
    topology: Topology,
) -> None:
    C, W = DitheredQuantizer(8), topology.mixing
    relay = ChocoSGD(topology, C, step_size=ETA, residual=False, seed=SEED)
    x = [INITIAL.copy() for _ in W]
    for t in range(1, ROUNDS + 1):
        z = [x[i] - np.float32(ETA) * gradient(i, x[i], t) for i in range(len(W))]
        sent = [compress(C, z[i], i, t).astype(np.float64) for i in range(len(W))]
        x = []
        for i in range(len(W)):
            s, weight = np.zeros(DIM), 0.0
            for j in range(len(W)):
                if i != j and W[i, j] > 0:
                    s = s + W[i, j] * sent[j]
                    weight += W[i, j]
            x.append((z[i] + (s - weight * sent[i])).astype(np.float32))
    check(run(relay), x)
