"""Models and replies of any dtype and shape, from the strategy to the app and back."""

from __future__ import annotations

import logging
from collections.abc import Iterable
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
from flwr.serverapp import Grid
from numpy.typing import NDArray

from flower_compress import (
    CompressionMod,
    Identity,
    RotatedQuantizer,
    StochasticQuantizer,
)
from flower_compress.clients import GossipMod
from flower_compress.errors import ConfigurationError
from flower_compress.strategies import DEFAULT_COMPRESSOR, DPSGD, MCM, SGD
from flower_compress.strategies.topology import ring
from flower_compress.testing import InProcessGrid
from flower_compress.wire.arrays import array_of_bytes, encode_entries, read_array
from tests.strategies.test_ledger_on_the_wire import Scales

Arrays = dict[str, NDArray[Any]]
NUM_CLIENTS = 3


def of_dtype(dtype: str, values: NDArray[Any]) -> Array:
    return array_of_bytes(dtype, values.shape, encode_entries(values, dtype))


def record(dtype: str = "float32", **arrays: Any) -> ArrayRecord:
    return ArrayRecord({n: of_dtype(dtype, np.asarray(a)) for n, a in arrays.items()})


def start(
    strategy: Any, initial: ArrayRecord, train: Any, rounds: int = 1, **keywords: Any
) -> Any:
    """Run rounds in which client i answers with the records train(i, content)."""
    app = ClientApp(mods=[CompressionMod()])

    @app.train()
    def _train(msg: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        content = RecordDict(train(client, msg.content))
        content["metrics"] = MetricRecord({"num-examples": 1})
        return Message(content, reply_to=msg)

    @app.evaluate()
    def _evaluate(msg: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 1})
        content = RecordDict({"metrics": metrics})
        if "control" in msg.content:
            content["control"] = msg.content["control"]
        return Message(content, reply_to=msg)

    grid = InProcessGrid(app, NUM_CLIENTS, **keywords)
    return strategy.start(grid, initial, rounds)


# --- Half precision -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_in_and_out_converges_as_float32(dtype: str) -> None:
    """Clients that move half of the way to their own optima, in half precision."""
    targets = np.random.default_rng(0).normal(size=(NUM_CLIENTS, 200))

    def train(client: int, content: RecordDict) -> dict[str, ArrayRecord]:
        received = content["arrays"]["w"]
        assert received.dtype == dtype
        w = read_array(received).astype(np.float32)
        return {"arrays": record(dtype, w=w + 0.5 * (targets[client] - w))}

    result = start(
        MCM(fraction_evaluate=0.0), record(dtype, w=np.zeros(200)), train, rounds=25
    )
    assert result.arrays["w"].dtype == dtype
    error = read_array(result.arrays["w"]) - targets.mean(axis=0)
    bits = {"float16": 10, "bfloat16": 7}[dtype]
    # Its clients round w, of entries up to 2, and so does the result.
    assert np.abs(error).max() < 2 * 2.0**-bits + 0.02


# --- float64 --------------------------------------------------------------------------


def unchanged(client: int, content: RecordDict) -> dict[str, ArrayRecord]:
    return {"arrays": content["arrays"]}


def test_float64_is_carried_as_float32_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    w = np.random.default_rng(0).normal(size=50)
    initial = record("float64", w=w, running_mean=w, b=np.float64(0.5))
    with caplog.at_level(logging.INFO, "flwr"):
        result = start(SGD(fraction_evaluate=0.0), initial, unchanged, rounds=2)
    said = [line for line in caplog.messages if "float32" in line]
    assert said == [
        "2 of 3 arrays have more than 32 bits an entry and travel as float32: values "
        "keep a relative precision of 6e-8"
    ]
    came = result.arrays["w"].numpy()
    assert came.dtype == np.float64
    np.testing.assert_array_equal(came, w.astype(np.float32))
    np.testing.assert_allclose(came, w, rtol=2.0**-24)
    np.testing.assert_array_equal(result.arrays["running_mean"].numpy(), w)


def test_nothing_is_said_of_other_models(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    initial = record("float32", w=np.ones(3))
    initial["n"] = Array(np.array(2))
    with caplog.at_level(logging.INFO, "flwr"):
        start(SGD(fraction_evaluate=0.0), initial, unchanged)
    assert caplog.messages
    assert not any("as float32" in line for line in caplog.messages)


# --- Bytes ----------------------------------------------------------------------------


def strategies() -> list[Any]:
    return [MCM(), SGD(), DPSGD(ring(NUM_CLIENTS), step_size=0.1)]


@pytest.mark.parametrize("strategy", strategies(), ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("trees", [[b""], [b"{learner}"], [b"{}", b"[1]"]])
def test_bytes_are_refused_before_anything_is_sent(
    strategy: Any, trees: list[bytes]
) -> None:
    sent: list[Message] = []
    app = ClientApp(mods=[CompressionMod(), GossipMod()])
    grid = InProcessGrid(
        app, NUM_CLIENTS, on_message=lambda msg, reply: sent.append(msg)
    )
    initial = ArrayRecord([np.frombuffer(tree, np.uint8) for tree in trees])
    with pytest.raises(ConfigurationError, match=r"bytes.*FedXgbBagging") as caught:
        strategy.start(grid, initial, 1)
    assert "uint8" in str(caught.value)
    assert not sent


@pytest.mark.parametrize(
    "beside",
    [
        {"w": np.zeros(3, np.float32), "mask": np.arange(4, dtype=np.uint8)},
        {"image": np.zeros((2, 2), np.uint8)},
        {"count": np.array(3, np.uint8)},
        {"counts": np.arange(4), "mask": np.zeros(2, np.uint8)},
    ],
)
def test_uint8_in_a_model_is_a_number(beside: Arrays) -> None:
    initial = ArrayRecord({name: Array(a) for name, a in beside.items()})
    result = start(SGD(fraction_evaluate=0.0), initial, unchanged)
    assert result.arrays == initial


# --- Subsets --------------------------------------------------------------------------


def test_clients_that_return_the_head_leave_the_rest_as_it_was() -> None:
    body, head = np.arange(6.0), np.zeros(4)
    initial = record(body=body, head=head)
    initial["steps"], initial["seen"] = Array(np.array(3)), Array(np.array(10))

    def train(client: int, content: RecordDict) -> dict[str, ArrayRecord]:
        arrays = record(head=content["arrays"]["head"].numpy() + client)
        steps = content["arrays"]["steps"].numpy() + client
        arrays["steps"] = Array(np.asarray(steps))
        return {"arrays": arrays}

    result = start(SGD(fraction_evaluate=0.0), initial, train, rounds=2)
    arrays = {name: array.numpy().tolist() for name, array in result.arrays.items()}
    assert arrays == {
        "body": body.tolist(),
        "head": [2.0] * 4,  # the mean of 0, 1 and 2, twice
        "steps": 5,
        "seen": 10,
    }


@pytest.mark.parametrize("returns_all", [True, False])
def test_noise_on_a_frozen_array_is_told_and_per_tensor_keeps_it(
    returns_all: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    body = np.linspace(-1, 1, 600).reshape(20, 30)
    initial = record(body=body, head=np.zeros((10, 30)))
    before = initial["body"].data

    def train(client: int, content: RecordDict) -> dict[str, ArrayRecord]:
        arrays = content.array_records["arrays"]
        changed = record(head=arrays["head"].numpy() + client)
        if returns_all:
            changed["body"] = arrays["body"]
        return {"arrays": changed}

    def body_after(operator: Any) -> tuple[bytes, list[str]]:
        caplog.clear()
        strategy = MCM(operator, fraction_evaluate=0.0)
        result = start(strategy, initial, train, rounds=3)
        said = (each.getMessage() for each in caplog.records)
        return result.arrays["body"].data, [text for text in said if "left" in text]

    moved, (told,) = body_after(RotatedQuantizer(step=1.5))
    assert moved != before
    assert "training left 1 of 2 arrays as they were (body)" in told
    assert 'per="tensor"' in told
    for operator in (DEFAULT_COMPRESSOR, StochasticQuantizer(levels=4), Identity()):
        assert body_after(operator) == (before, [])


def test_a_node_may_return_the_head_under_a_key_of_its_own() -> None:
    """And nothing but mail comes to the relay."""
    app = ClientApp(mods=[GossipMod()])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        head = msg.content["arrays"]["head"].numpy() + 1
        content = RecordDict({"mine": record(head=head)})
        content["metrics"] = MetricRecord({"num-examples": 1})
        return Message(content, reply_to=msg)

    stypes = set()

    def note(msg: Message, reply: Message) -> None:
        for entry in reply.content.values():
            if isinstance(entry, ArrayRecord):
                stypes.update(array.stype for array in entry.values())

    grid = InProcessGrid(app, NUM_CLIENTS, on_message=note)
    initial = record(body=np.arange(6.0), head=np.zeros(4))
    result = DPSGD(ring(NUM_CLIENTS), step_size=0.1).start(grid, initial, 2)
    arrays = {name: array.numpy().tolist() for name, array in result.arrays.items()}
    assert arrays == {"body": np.arange(6.0).tolist(), "head": [2.0] * 4}
    assert stypes == {"flower_compress.mail/1"}


# --- Other records --------------------------------------------------------------------


class WithControls(SGD):
    """SCAFFOLD's shape: a control variate goes out, and clients' changes of it back."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.control = np.zeros(5)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        for msg in super().configure_train(server_round, arrays, config, grid):
            msg.content["control"] = record(c=self.control)
            yield msg

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        replies = list(replies)
        changes = [msg.content["control"]["c"].numpy() for msg in replies]
        self.control = self.control + np.mean(changes, axis=0)
        return super().aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        for msg in super().configure_evaluate(server_round, arrays, config, grid):
            msg.content["control"] = record(c=self.control)
            yield msg


@pytest.mark.parametrize("evaluate_on", ["held", "global"])
def test_other_records_travel_untouched_and_are_billed(evaluate_on: str) -> None:
    def train(client: int, content: RecordDict) -> dict[str, ArrayRecord]:
        c = content["control"]["c"].numpy()
        arrays = record(w=content["arrays"]["w"].numpy() + 1)
        return {"control": record(c=c + client), "arrays": arrays}

    runs = []
    for cls in (SGD, WithControls):
        scales, strategy = Scales(), cls(evaluate_on=evaluate_on)
        answer = train if cls is WithControls else moved_by_one
        initial = record(w=np.zeros(5))
        result = start(strategy, initial, answer, rounds=2, on_message=scales)
        assert strategy.ledger.downlink.num_bytes == scales.down_bytes
        assert strategy.ledger.uplink.num_bytes == scales.up_bytes
        assert result.arrays["w"].numpy().tolist() == [2.0] * 5
        runs.append(strategy)
    plain, with_controls = runs
    assert with_controls.control.tolist() == [3.0] * 5  # 0 + 1, then 1 + (1 + 1)
    # Each of the clients, with each training and each evaluation of two rounds.
    extra = 2 * 2 * NUM_CLIENTS * len(record(c=np.zeros(5))["c"].data)
    for way in ("downlink", "uplink"):
        with_extra, without = (
            getattr(with_controls.ledger, way),
            getattr(plain.ledger, way),
        )
        assert with_extra.num_bytes == without.num_bytes + extra
        assert with_extra.payload_bits == without.payload_bits + 8 * extra
        assert with_extra.framing_bytes == without.framing_bytes
    assert with_controls.ledger.downlink.messages == plain.ledger.downlink.messages


def moved_by_one(client: int, content: RecordDict) -> dict[str, ArrayRecord]:
    return {"arrays": record(w=content["arrays"]["w"].numpy() + 1)}
