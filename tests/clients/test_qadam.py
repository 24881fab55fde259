"""QAdam's client against its equations, and what it remembers of which run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from flower_compress import CompressionMod, TopK
from flower_compress.clients import MomentumMod, QAdamMod, qadam_client
from flower_compress.clients.objective import Arrays
from flower_compress.errors import ConfigurationError, RoundFailedError
from flower_compress.strategies import SGD, CompressedStrategy, qadam
from flower_compress.streams import Purpose, Stream
from flower_compress.testing import InProcessGrid
from tests.strategies.problem import (
    DIM,
    INITIAL,
    NUM_CLIENTS,
    Vector,
    gradient,
    to_record,
    to_vector,
)

BETA1, BETA2, EPS = 0.8, 0.95, 1e-4
ROUNDS, SEED, ETA = 20, 11, 0.05
OPTIONS: dict[str, Any] = {
    "step_size": ETA,
    "seed": SEED,
    "weighted_by_key": None,
    "fraction_evaluate": 0.0,
}


class Problem:
    """The noisy quadratic of the strategies' tests, as an Objective."""

    num_examples = 1

    def __init__(self, client: int, server_round: int) -> None:
        self.client, self.server_round = client, server_round

    def gradient(self, arrays: Arrays, indices: object) -> tuple[float, Arrays]:
        w = np.concatenate([part.reshape(-1) for part in arrays.values()])
        g = gradient(self.client, w, self.server_round)
        record = to_record(g)
        return 0.0, {name: array.numpy() for name, array in record.items()}

    def local_steps(self, *_: object) -> tuple[float, Arrays]:
        raise AssertionError("QAdam keeps moments of gradients: no local steps")

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        return {"loss": 0.0}


def objective(context: Context, config: ConfigRecord) -> Problem:
    client, now = context.node_config["partition-id"], config["server-round"]
    return Problem(int(client), int(now))  # type: ignore[arg-type]


def make_grid() -> InProcessGrid:
    app = qadam_client(objective, beta1=BETA1, beta2=BETA2, eps=EPS)
    return InProcessGrid(app, NUM_CLIENTS)


def run(strategy: CompressedStrategy, grid: InProcessGrid) -> Vector:
    return to_vector(strategy.start(grid, to_record(INITIAL), ROUNDS).arrays)


def loop(sampled: Any = lambda k: range(NUM_CLIENTS)) -> Vector:
    """QAdam as a plain NumPy loop."""
    f, c = np.float32, TopK(k=3)
    theta = INITIAL
    m, v, e = (np.zeros((NUM_CLIENTS, DIM), f) for _ in range(3))
    for t in range(1, ROUNDS + 1):
        sent = []
        for i in sampled(t):
            g = gradient(i, theta, t)
            m[i] = f(BETA1) * m[i] + f(1 - BETA1) * g
            v[i] = f(BETA2) * v[i] + f(1 - BETA2) * g**2
            corrected = m[i] / np.sqrt(v[i] + f(EPS)) + e[i]
            stream = Stream(SEED, Purpose.UPLINK, i, t + 1)
            sent.append(c.decompress(c.compress(corrected, stream)))
            e[i] = corrected - sent[-1]
        mean = np.sum(np.asarray(sent, np.float64), axis=0) / len(sent)
        theta = theta + f(-ETA) * mean.astype(f)
    return theta


def test_equals_its_equations_bit_for_bit() -> None:
    theta = run(qadam(TopK(k=3), **OPTIONS), make_grid())
    assert theta.tobytes() == loop().tobytes()
    assert np.linalg.norm(theta - INITIAL) > 0.1


def test_moments_stand_still_while_a_client_is_away() -> None:
    def sampled(k: int) -> list[int]:
        draw = Stream(SEED, Purpose.SAMPLING, 0, k).generator()
        return sorted(draw.choice(NUM_CLIENTS, 2, replace=False).tolist())

    theta = run(qadam(TopK(k=3), fraction_train=0.4, **OPTIONS), make_grid())
    assert theta.tobytes() == loop(sampled).tobytes()


def test_another_session_begins_with_zeros() -> None:
    grid = make_grid()
    first, second = (run(qadam(TopK(k=3), **OPTIONS), grid) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def app_of(record: ArrayRecord) -> ClientApp:
    app = ClientApp(mods=[QAdamMod(0.5, 0.75, 0.5)])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        return Message(RecordDict({"arrays": record}), reply_to=msg)

    return app


def test_values_that_are_no_gradients_stay_as_they_are() -> None:
    gradients = ArrayRecord(
        {
            "weight": Array(np.array([2.0, -2.0], np.float32)),
            "norm.running_mean": Array(np.array([7.0], np.float32)),
            "norm.num_batches_tracked": Array(np.array(3)),
        }
    )
    initial = ArrayRecord(
        {name: Array(np.zeros_like(array.numpy())) for name, array in gradients.items()}
    )
    strategy = SGD(step_size=1.0, weighted_by_key=None, fraction_evaluate=0.0)
    grid = InProcessGrid(app_of(gradients), 2)
    arrays = strategy.start(grid, initial, 1).arrays
    # m = 1, v = 1
    direction = np.array([1.0, -1.0], np.float32) / np.sqrt(np.float32(1.5))
    np.testing.assert_array_equal(arrays["weight"].numpy(), -direction)
    np.testing.assert_array_equal(arrays["norm.running_mean"].numpy(), [7.0])
    np.testing.assert_array_equal(arrays["norm.num_batches_tracked"].numpy(), 3)


def test_a_part_of_the_model_beside_another_record() -> None:
    """Of what is left out the gradient is zero; what is exact stays."""
    initial = {
        "body": Array(np.ones(2, np.float32)),
        "head": Array(np.zeros(2, np.float32)),
        "running_mean": Array(np.array([7.0], np.float32)),
    }
    app = ClientApp(mods=[QAdamMod(0.5, 0.75, 0.5)])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        head = ArrayRecord({"head": Array(np.full(2, 2.0, np.float32))})
        content = RecordDict({"control": ArrayRecord(initial), "arrays": head})
        return Message(content, reply_to=msg)

    strategy = SGD(step_size=1.0, weighted_by_key=None, fraction_evaluate=0.0)
    arrays = strategy.start(InProcessGrid(app, 2), ArrayRecord(initial), 2).arrays
    m = v = 0.0
    head = np.zeros(2)
    for _ in range(2):
        m, v = 0.5 * m + 0.5 * 2.0, 0.75 * v + 0.25 * 2.0**2
        head -= m / np.sqrt(v + 0.5)
    np.testing.assert_allclose(arrays["head"].numpy(), head, rtol=1e-6)
    np.testing.assert_array_equal(arrays["body"].numpy(), [1.0, 1.0])
    np.testing.assert_array_equal(arrays["running_mean"].numpy(), [7.0])


@pytest.mark.parametrize("mod", [QAdamMod(), MomentumMod()], ids=["qadam", "momentum"])
def test_evaluations_are_the_apps_own(mod: Mod) -> None:
    """The answer to one holds no gradient, and moves no moment."""
    app, states = ClientApp(mods=[mod]), []

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        content = RecordDict({"arrays": to_record(np.ones(DIM, np.float32))})
        return Message(content, reply_to=msg)

    @app.evaluate()
    def evaluate(msg: Message, context: Context) -> Message:
        states.append(context.state[type(mod).state_key]["moments"])
        norm = float(np.linalg.norm(to_vector(msg.content["arrays"])))
        metrics = MetricRecord({"num-examples": 1, "norm": norm})
        return Message(RecordDict({"metrics": metrics}), reply_to=msg)

    strategy = SGD(step_size=0.1, weighted_by_key=None)
    result = strategy.start(InProcessGrid(app, 2), to_record(INITIAL), 2)
    norm = float(np.linalg.norm(to_vector(result.arrays)))
    assert result.evaluate_metrics_clientapp[2]["norm"] == norm
    assert (len(states), len(set(states))) == (4, 2)


def test_a_gradient_that_is_not_finite_leaves_no_trace() -> None:
    grid = InProcessGrid(app_of(to_record(np.full(DIM, np.nan, np.float32))), 2)
    strategy = SGD(weighted_by_key=None, max_failed_rounds=1)
    with pytest.raises(RoundFailedError, match="client's gradient"):
        strategy.start(grid, to_record(INITIAL), 1)
    huge = InProcessGrid(app_of(to_record(np.full(DIM, 1e30, np.float32))), 2)
    strategy = SGD(weighted_by_key=None, max_failed_rounds=1)
    with pytest.raises(RoundFailedError, match="second moment"):
        strategy.start(huge, to_record(INITIAL), 1)
    for context in (*grid.contexts.values(), *huge.contexts.values()):
        assert not context.state


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"beta1": 1.0}, r"beta1 must lie in \[0, 1\), got 1.0"),
        ({"beta2": -1.0}, r"beta2 must lie in \[0, 1\)"),
        ({"eps": 0.0}, "eps must be positive, got 0.0"),
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, float], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        qadam_client(objective, **wrong)


def test_it_answers_as_the_compression_mod_does() -> None:
    """Damaged packets, and messages of other strategies."""
    replies = []
    for mod in (QAdamMod(), CompressionMod("gradient")):
        app = ClientApp(mods=[mod])

        @app.train()
        def train(msg: Message, context: Context) -> Message:
            return Message(RecordDict({"arrays": ArrayRecord()}), reply_to=msg)

        grid = InProcessGrid(app, 1)
        damaged = Array("uint8", (3,), "flower_compress/1", b"bad")
        for record in (ArrayRecord({"packet": damaged}), to_record(INITIAL)):
            content = RecordDict({"arrays": record})
            (node_id,) = grid.get_node_ids()
            (reply,) = grid.send_and_receive([Message(content, node_id, "train")])
            replies.append(reply.error.reason if reply.has_error() else "an answer")
    assert replies[:2] == replies[2:]
    assert "CorruptPacket" in replies[0] and replies[1] == "an answer"
