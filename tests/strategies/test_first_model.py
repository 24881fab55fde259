"""A first model that does not travel dense: what it costs, and what may go wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message
from flwr.serverapp.strategy import FedAvg

from flower_compress import Memory, RotatedQuantizer
from flower_compress.errors import ConfigurationError, CorruptPacket
from flower_compress.mods import compression_mod
from flower_compress.strategies import (
    MCM,
    Artemis,
    ArtemisND,
    CompressedStrategy,
    Diana,
    Dore,
    RandMCM,
    compress,
)
from flower_compress.strategies.callbacks import Callback, ClientEvent
from flower_compress.strategies.server.first_model import Beginning
from flower_compress.testing import InProcessGrid
from flower_compress.wire.contract import Contract
from flower_compress.wire.first_model import unpack
from flower_compress.wire.layout import Layout
from flower_compress.wire.packet import Packet, find_packet
from tests.strategies.problem import (
    GAMMA,
    INITIAL,
    NUM_CLIENTS,
    Vector,
    make_app,
    to_record,
    to_vector,
)

DENSE_BYTES = NUM_CLIENTS * INITIAL.nbytes
PLAIN: dict[str, Any] = {"step_size": GAMMA, "fraction_evaluate": 0.0}
Make = Any
MAKE: dict[str, Make] = {
    "mcm": MCM,
    "rand-mcm": RandMCM,
    "artemis": Artemis,
    "artemis-nd": ArtemisND,
    "dore": Dore,
}


def build(seed: int) -> ArrayRecord:
    """Make the first model as the server does."""
    assert seed == 3
    return to_record(INITIAL)


def run(
    make: Make, first: Any, rounds: int = 4, first_model: Any = None, **kwargs: Any
) -> tuple[CompressedStrategy, Vector]:
    strategy = make(first_model=first, seed=3, **{**PLAIN, **kwargs})
    grid = InProcessGrid(make_app(first_model=first_model), NUM_CLIENTS)
    result = strategy.start(grid, to_record(INITIAL), rounds)
    return strategy, to_vector(result.arrays)


@pytest.mark.parametrize("name", MAKE)
def test_made_by_the_clients_it_is_the_same_run_for_fewer_bytes(name: str) -> None:
    dense, expected = run(MAKE[name], "dense")
    made, model = run(MAKE[name], "seed", first_model=build)
    assert model.tobytes() == expected.tobytes()
    assert dense.ledger.downlink.snapshot_bytes == DENSE_BYTES
    assert made.ledger.downlink.snapshot_bytes == 0
    saved = dense.ledger.downlink.num_bytes - made.ledger.downlink.num_bytes
    assert DENSE_BYTES - 64 * NUM_CLIENTS < saved < DENSE_BYTES


@pytest.mark.parametrize("name", MAKE)
def test_packed_it_is_what_the_server_goes_on_from(name: str) -> None:
    """Where updates are added up, the server's model begins as the clients'."""
    strategy, _ = run(MAKE[name], 4, rounds=1)
    beginning = strategy._running.beginning
    assert beginning.payload is not None
    assert 0 < np.abs(beginning.vector - INITIAL).max() < 2 / 7  # seven levels
    assert strategy.ledger.downlink.snapshot_bytes == 0
    grid = InProcessGrid(make_app(), NUM_CLIENTS)
    again = MAKE[name](first_model=4, seed=3, **PLAIN)
    seen: list[Vector] = []
    again.start(
        grid,
        to_record(INITIAL),
        0,
        evaluate_fn=lambda _, arrays: seen.append(to_vector(arrays)),
    )
    adds_up = again.downlink_carries == "update"
    assert seen[0].tobytes() == (beginning.vector if adds_up else INITIAL).tobytes()


class Events(Callback):
    def __init__(self) -> None:
        self.told: list[tuple[str, int | None]] = []

    def on_event(self, event: ClientEvent) -> None:
        self.told.append((event.kind, event.identity))


@pytest.mark.parametrize("make", [MCM, RandMCM, lambda **k: compress(FedAvg(), **k)])
def test_another_one_is_noticed_and_comes_dense(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    events, plain = Events(), {"step_size": GAMMA, "fraction_evaluate": 0.0}
    plain = plain if isinstance(make, type) else {}
    strategy = make(first_model="seed", seed=3, callbacks=[events], **plain)
    wrong = make_app("weights", first_model=lambda seed: to_record(INITIAL + 1))
    strategy.start(InProcessGrid(wrong, NUM_CLIENTS), to_record(INITIAL), 4)
    assert strategy.ledger.downlink.snapshot_bytes == DENSE_BYTES
    assert [kind for kind, _ in events.told].count("resynchronised") == NUM_CLIENTS
    assert "expected a first model of digest sha256:" in caplog.text
    assert "client 0 cannot begin with first_model='seed'" in caplog.text
    assert not strategy.refused


def raises(seed: int) -> ArrayRecord:
    raise RuntimeError("no data here")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (raises, "RuntimeError: no data here"),
        (lambda seed: ArrayRecord(), "made no first model: "),
        (lambda seed: None, "must be an ArrayRecord, got None"),
    ],
)
def test_a_function_that_fails_costs_a_round(
    function: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    strategy, _ = run(MCM, "seed", first_model=function)
    assert strategy.ledger.downlink.snapshot_bytes == DENSE_BYTES
    assert reason in caplog.text


def test_clients_without_a_function_are_sent_it_dense_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    strategy, model = run(MCM, "seed")
    _, expected = run(MCM, "dense")
    assert model.tobytes() == expected.tobytes()
    assert strategy.ledger.downlink.snapshot_bytes == DENSE_BYTES
    assert caplog.text.count("clients without CompressionMod(first_model=...)") == 1


@pytest.mark.parametrize("first", ["seed", 8])
@pytest.mark.parametrize("make", [MCM, RandMCM, Artemis])
def test_an_older_client_asks_for_it_dense(
    make: Make, first: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows nothing of such contracts, and must not begin with zeros."""
    monkeypatch.setattr(compression_mod, "_begins", lambda packet, contract: False)
    strategy, _ = run(make, first, first_model=build)
    assert strategy.ledger.downlink.snapshot_bytes == DENSE_BYTES
    assert {c.downlink.held for c in strategy._running.roster} != {None}


@pytest.mark.parametrize("make", [MCM, RandMCM])
def test_a_resumed_run_begins_with_the_same(make: Make, tmp_path: Path) -> None:
    """Clients that were not drawn before the checkpoint are sent it after."""
    some: dict[str, Any] = {"fraction_train": 0.4, "min_train_nodes": 1}
    _, expected = run(make, 4, rounds=6, **some)
    saved = {"checkpoint_dir": tmp_path, "checkpoint_every": 1, **some}
    app = make_app()
    grid = InProcessGrid(app, NUM_CLIENTS)
    first = make(first_model=4, seed=3, **PLAIN, **saved)
    first.start(grid, to_record(INITIAL), 1)
    assert len([c for c in first._running.roster if c.downlink.held]) == 2
    again = make(first_model=4, seed=3, resume=True, **PLAIN, **saved)
    # What it is given then is not what the run began with.
    result = again.start(grid, to_record(INITIAL + 1), 6)
    assert to_vector(result.arrays).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("make", "first"),
    [(MCM, "seeds"), (MCM, 1), (MCM, 17), (MCM, True), (MCM, 8.0), (Diana, 8)],
)
def test_what_cannot_be_is_refused(make: Make, first: Any) -> None:
    with pytest.raises(ConfigurationError, match="first_model|Memory downlink"):
        make(first_model=first)


def test_arrays_that_are_equal_stay_equal() -> None:
    rng = np.random.default_rng(1)
    first, other = (rng.standard_normal((40, 30), dtype=np.float32) for _ in range(2))
    arrays = {"embed": first, "hidden": other, "head": first}
    layout = Layout.of(ArrayRecord({k: Array(v) for k, v in arrays.items()}))
    model = np.concatenate([each.ravel() for each in arrays.values()])
    for bits in (2, 8):
        link = Memory(RotatedQuantizer(step=1.5, per="tensor"))
        beginning = Beginning.of(bits, link, layout, model, 3)
        made, _ = unpack(beginning.before(b""), 3, layout)
        assert made.tobytes() == beginning.vector.tobytes()
        embed, hidden, head = np.split(made, 3)
        assert np.array_equal(embed, head) and not np.array_equal(embed, first.ravel())
        assert not np.array_equal(hidden, embed)


def test_a_contract_says_nothing_of_it_by_default() -> None:
    messages: list[Message] = []
    app = InProcessGrid(
        make_app(), NUM_CLIENTS, on_message=lambda sent, _: messages.append(sent)
    )
    MCM(**PLAIN).start(app, to_record(INITIAL), 1)
    packet = Packet.parse(find_packet(messages[-1].content)[1])
    assert packet.contract is not None and packet.snapshot is not None
    terms = json.loads(packet.contract)
    assert "first_model" not in terms
    for wrong in (1, "sha256:0", ["packed"]):
        with pytest.raises(CorruptPacket, match="first model"):
            Contract.from_bytes(json.dumps({**terms, "first_model": wrong}).encode())
    layout = Contract.from_bytes(packet.contract).layout
    for damaged in (b"", b"\x08\0\0\0\x02", b"\x02\0\0\0\xff\xff"):
        with pytest.raises(CorruptPacket):
            unpack(damaged, 0, layout)
