"""State dicts as arrays and back; models of bfloat16 and float16 from end to end."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
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
from sklearn.datasets import load_digits
from torch import Tensor, nn

from flower_compress import CompressionMod, torch_arrays
from flower_compress.errors import ConfigurationError
from flower_compress.strategies import MCM, Diana
from flower_compress.testing import InProcessGrid
from flower_compress.torch_arrays import to_arrays, to_state_dict
from flower_compress.wire.arrays import BFLOAT16, encode_entries, read_array

State = dict[str, Tensor]

STATE: State = {
    "half": torch.tensor([[1.5, -2.0, 3.0], [0.1, 1e30, 0.0]], dtype=torch.bfloat16),
    "scalar": torch.tensor(-0.25, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 3, dtype=torch.bfloat16),
    "strided": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T,
    "float16": torch.tensor([1.5, 2.0], dtype=torch.float16),
    "float32": torch.tensor([[1.5, 2.1]]),
    "float64": torch.tensor(0.1, dtype=torch.float64),
    "num_batches_tracked": torch.tensor(7),
    "mask": torch.tensor([True, False]),
    "parameter": nn.Parameter(torch.ones(2)),
}


def assert_same(one: State, other: State) -> None:
    assert list(one) == list(other)
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


def test_a_state_dict_comes_back() -> None:
    arrays = to_arrays(STATE)
    back = to_state_dict(arrays)
    assert_same(back, STATE)
    assert {name for name, a in arrays.items() if a.dtype == BFLOAT16} == {
        name for name, tensor in STATE.items() if tensor.dtype == torch.bfloat16
    }
    assert arrays["half"].shape == (2, 3)
    for tensor in back.values():  # Its own memory: torch may write to it.
        tensor.zero_()
    assert_same(to_state_dict(arrays), STATE)


def test_other_dtypes_are_as_flower_has_them() -> None:
    plain = {name: t for name, t in STATE.items() if t.dtype != torch.bfloat16}
    arrays = to_arrays(plain)
    assert arrays == ArrayRecord(plain)
    assert_same(to_state_dict(arrays), dict(arrays.to_torch_state_dict()))


def test_rounding_and_reading_are_torchs() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 100_000, dtype=np.uint32)
    bits[:4] = 0x7F7F_FFFF, 0x7F80_0000, 0x0000_8000, 0x0001_8000
    values = bits.view(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16)
    known = ~torch.isnan(expected)
    array = to_arrays({"w": expected})["w"]
    came = np.frombuffer(encode_entries(values, BFLOAT16), np.int16)
    assert torch.equal(
        torch.from_numpy(came.copy())[known], expected.view(torch.int16)[known]
    )
    np.testing.assert_array_equal(read_array(array), expected.float().numpy())


def test_what_has_no_array_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"'w'.*float8_e4m3fn"):
        to_arrays({"w": torch.zeros(2, dtype=torch.float8_e4m3fn)})
    extra: Any = {"_extra_state": b"pickled"}
    with pytest.raises(ConfigurationError, match=r"'_extra_state'.*tensor, got bytes"):
        to_arrays(extra)


def test_the_example_of_the_docstring() -> None:
    assert doctest.testmod(torch_arrays).failed == 0


# --- Training -------------------------------------------------------------------------

NUM_CLIENTS, ROUNDS, STEPS = 4, 6, 12


class Digits:
    """scikit-learn's digits; a network with BatchNorm, all of it bfloat16."""

    def __init__(self) -> None:
        features, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(labels))
        self.x = torch.tensor(features[order] / 16, dtype=torch.bfloat16)
        self.y = torch.tensor(labels[order])
        torch.manual_seed(0)
        layers = nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)
        self.model = nn.Sequential(*layers).to(torch.bfloat16)
        self.initial = {n: t.clone() for n, t in self.model.state_dict().items()}

    def train(self, client: int, server_round: int, state: State) -> State:
        """Return the state after local steps on a client's share."""
        self.model.load_state_dict(state)
        self.model.train()
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.3)
        share = torch.arange(400 + client, len(self.y), NUM_CLIENTS)
        generator = torch.Generator().manual_seed(client + NUM_CLIENTS * server_round)
        for _ in range(STEPS):
            batch = share[torch.randint(len(share), (32,), generator=generator)]
            optimizer.zero_grad()
            outputs = self.model(self.x[batch])
            nn.functional.cross_entropy(outputs, self.y[batch]).backward()
            optimizer.step()
        return {n: t.clone() for n, t in self.model.state_dict().items()}

    @torch.no_grad()
    def accuracy(self, state: State) -> float:
        """Return the share of held-out digits that a state gets right."""
        self.model.load_state_dict(state)
        self.model.eval()
        right = self.model(self.x[:400]).argmax(dim=1) == self.y[:400]
        return float(right.float().mean())


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


@pytest.fixture(scope="module")
def reference(digits: Digits) -> float:
    """Federated averaging without any of this package; the mean is float32."""
    state = digits.initial
    for server_round in range(1, ROUNDS + 1):
        states = [digits.train(i, server_round, state) for i in range(NUM_CLIENTS)]
        columns = {n: [s[n].float() for s in states] for n in state}
        state = {
            name: (sum(column) / NUM_CLIENTS).to(state[name].dtype)
            for name, column in columns.items()
        }
    return digits.accuracy(state)


def compressed(digits: Digits, strategy: Any) -> ArrayRecord:
    app = ClientApp(mods=[CompressionMod()])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        config = msg.content["config"]
        assert isinstance(config, ConfigRecord)
        state = to_state_dict(msg.content["arrays"])
        trained = digits.train(client, int(config["server-round"]), state)
        content = RecordDict(
            {
                "arrays": to_arrays(trained),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        return Message(content, reply_to=msg)

    grid = InProcessGrid(app, NUM_CLIENTS)
    arrays: ArrayRecord = strategy.start(grid, to_arrays(digits.initial), ROUNDS).arrays
    return arrays


@pytest.mark.parametrize("make", [MCM, Diana])
def test_bfloat16_learns_as_with_fedavg(
    digits: Digits, reference: float, make: Callable[..., Any]
) -> None:
    strategy = make(fraction_evaluate=0.0)
    arrays = compressed(digits, strategy)
    assert [a.dtype for a in arrays.values()] == [
        "int64" if "num_batches" in name else BFLOAT16 for name in arrays
    ]
    state = to_state_dict(arrays)
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert int(state["1.num_batches_tracked"]) == ROUNDS * STEPS
    assert reference > 0.9
    assert digits.accuracy(state) > reference - 0.015
    assert not strategy.refused
    # Of a weight's 16 bits about two go up; biases, norms and statistics as they are.
    dim = sum(t.numel() for name, t in state.items() if "running" not in name) - 1
    exact_bits = 2 * 32 * 16 + 64
    bits = strategy.ledger.uplink.payload_bits / ROUNDS / NUM_CLIENTS - exact_bits
    assert 1.5 * dim < bits < 3.5 * dim


def test_flowers_own_arrays_of_bfloat16_are_refused_by_torch_not_by_us() -> None:
    """Why to_arrays is there."""
    with pytest.raises(TypeError, match="BFloat16"):
        Array(torch.zeros(2, dtype=torch.bfloat16))
