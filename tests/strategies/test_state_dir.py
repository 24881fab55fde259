"""Clients that keep their state in a file, and restart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from flower_compress import CompressionMod, TopK
from flower_compress.errors import ConfigurationError, RoundFailedError
from flower_compress.mods import state_store
from flower_compress.mods.state_file import StateFile
from flower_compress.mods.state_store import StateStore
from flower_compress.strategies import (
    MCM,
    QSGD,
    Artemis,
    CompressedStrategy,
    Diana,
    DoubleSqueeze,
    RandMCM,
    SparsAMS,
)
from flower_compress.testing import InProcessGrid
from tests.strategies.problem import (
    DIM,
    INITIAL,
    NUM_CLIENTS,
    Vector,
    make_app,
    to_record,
    to_vector,
)
from tests.strategies.test_equations import options

ROUNDS = 20
STRATEGIES: list[tuple[type[CompressedStrategy], dict[str, Any]]] = [
    (Diana, {}),
    (Artemis, {}),
    (MCM, {}),
    (RandMCM, {}),
    (DoubleSqueeze, {"compressor": TopK(k=3)}),
]
EVERY = pytest.mark.parametrize(("cls", "extra"), STRATEGIES)


def run(
    strategy: CompressedStrategy, app: ClientApp, *, restarts: bool
) -> tuple[Vector, InProcessGrid]:
    """Run; with `restarts`, every client loses its context after every third round."""
    grid = InProcessGrid(app, NUM_CLIENTS)

    def evaluate(server_round: int, _: ArrayRecord) -> MetricRecord | None:
        if restarts and server_round % 3 == 0:
            for context in grid.contexts.values():
                context.state = RecordDict()
        return None

    result = strategy.start(grid, to_record(INITIAL), ROUNDS, evaluate_fn=evaluate)
    return to_vector(result.arrays), grid


@EVERY
def test_a_client_with_a_file_never_left(
    cls: type[CompressedStrategy], extra: dict[str, Any], tmp_path: Path
) -> None:
    expected, _ = run(cls(**options(cls, extra)), make_app(), restarts=False)
    restarting = cls(**options(cls, extra))
    kept, grid = run(restarting, make_app(state_dir=tmp_path), restarts=True)
    assert kept.tobytes() == expected.tobytes()
    assert all(not context.state for context in grid.contexts.values())
    assert len(list(tmp_path.iterdir())) == NUM_CLIENTS
    forgetting = cls(**options(cls, extra))
    lost, _ = run(forgetting, make_app(), restarts=True)
    assert lost.tobytes() != expected.tobytes(), "the test can fail"
    ours, theirs = restarting.ledger.downlink, forgetting.ledger.downlink
    assert ours.num_bytes < theirs.num_bytes


def test_a_damaged_file_costs_a_dense_model_and_the_memory(tmp_path: Path) -> None:
    strategy = MCM(**options(MCM, {}))
    grid = InProcessGrid(make_app(state_dir=tmp_path), NUM_CLIENTS)

    def evaluate(server_round: int, _: ArrayRecord) -> MetricRecord | None:
        if server_round == 5:
            (path,) = tmp_path.glob("client-2-*.state")
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        return None

    strategy.start(grid, to_record(INITIAL), ROUNDS, evaluate_fn=evaluate)
    assert strategy.ledger.downlink.snapshot_bytes == (NUM_CLIENTS + 2) * 4 * DIM


def test_a_folder_that_cannot_be_written_leaves_the_state_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "file"
    folder.write_text("not a folder")
    expected, _ = run(MCM(**options(MCM, {})), make_app(), restarts=False)
    app = make_app(state_dir=folder)
    model, grid = run(MCM(**options(MCM, {})), app, restarts=False)
    assert model.tobytes() == expected.tobytes()
    assert all(context.state for context in grid.contexts.values())
    assert "kept in memory only, since" in caplog.text


def test_another_run_does_not_use_the_file(tmp_path: Path) -> None:
    expected, _ = run(MCM(**options(MCM, {})), make_app(), restarts=False)
    app = make_app(state_dir=tmp_path)
    for _ in range(2):
        model, _ = run(MCM(**options(MCM, {})), app, restarts=False)
        assert model.tobytes() == expected.tobytes()


def test_an_interrupted_write_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = StateFile(tmp_path, 7, 0xABC)
    assert file.read() is None
    file.write(b"old")

    def fail(*_: object) -> None:
        raise OSError("the power is gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="power"):
        file.write(b"new")
    monkeypatch.undo()
    assert file.read() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["client-7-00000abc.state"]


def test_every_damaged_byte_is_found(tmp_path: Path) -> None:
    file = StateFile(tmp_path, 7, 0xABC)
    file.write(b"some state")
    data = file.path.read_bytes()
    for at in range(len(data)):
        file.path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        assert file.read() is None
        file.path.write_bytes(data[:at])
        assert file.read() is None


def test_runs_at_once_on_one_device_cost_no_snapshots(tmp_path: Path) -> None:
    """Each has files of its own; one file a client made them evict each other."""
    app = make_app(state_dir=tmp_path)
    runs = [MCM(**options(MCM, {})) for _ in range(2)]

    def evaluate(server_round: int, _: ArrayRecord) -> MetricRecord | None:
        if server_round == 2:
            runs[1].start(InProcessGrid(app, NUM_CLIENTS), to_record(INITIAL), 2)
        return None

    grid = InProcessGrid(app, NUM_CLIENTS)
    runs[0].start(grid, to_record(INITIAL), 4, evaluate_fn=evaluate)
    for each in runs:
        assert each.ledger.downlink.snapshot_bytes == NUM_CLIENTS * 4 * DIM
    assert len(list(tmp_path.iterdir())) == 2 * NUM_CLIENTS


@EVERY
def test_nodes_of_one_partition_share_a_folder(
    cls: type[CompressedStrategy], extra: dict[str, Any], tmp_path: Path
) -> None:
    """With ``identities="node"`` the number does not say who a client is."""

    def model(app: ClientApp) -> bytes:
        grid = InProcessGrid(app, NUM_CLIENTS)
        for context in grid.contexts.values():
            context.node_config = {"partition-id": 0}
        strategy = cls(**options(cls, extra), identities="node")
        result = strategy.start(grid, to_record(INITIAL), ROUNDS)
        return to_vector(result.arrays).tobytes()

    assert model(make_app(state_dir=tmp_path)) == model(make_app())
    names = {path.name.split("-")[1] for path in tmp_path.iterdir()}
    assert names == {f"{1001 + i}" for i in range(NUM_CLIENTS)}


def test_a_file_of_a_release_that_named_it_otherwise_is_found(tmp_path: Path) -> None:
    strategy = MCM(**options(MCM, {}), identities="node")

    def evaluate(server_round: int, _: ArrayRecord) -> MetricRecord | None:
        if server_round == 5:
            for path in list(tmp_path.iterdir()):
                _, node, session = path.name.split("-")
                path.rename(tmp_path / f"client-{int(node) - 1001}-{session}")
        return None

    grid = InProcessGrid(make_app(state_dir=tmp_path), NUM_CLIENTS)
    strategy.start(grid, to_record(INITIAL), ROUNDS, evaluate_fn=evaluate)
    assert strategy.ledger.downlink.snapshot_bytes == NUM_CLIENTS * 4 * DIM
    assert len(list(tmp_path.iterdir())) == 2 * NUM_CLIENTS


@pytest.mark.parametrize(
    ("cls", "evaluate_on", "vectors"),
    [
        (MCM, "received", 2),
        (RandMCM, "received", 2),
        (Artemis, "received", 2),
        (Diana, "received", 1),
        (Diana, "held", 2),
        (SparsAMS, "received", 1),
        (QSGD, "received", 0),
    ],
)
def test_nothing_is_kept_that_no_message_needs(
    cls: type[CompressedStrategy],
    evaluate_on: Literal["received", "held"],
    vectors: int,
) -> None:
    """One vector for each memory of the two links; the payloads are small beside it."""
    dim, app = 4000, ClientApp(mods=[CompressionMod("gradient")])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        return Message(RecordDict({"arrays": msg.content["arrays"]}), reply_to=msg)

    grid, x = InProcessGrid(app, 2), np.linspace(-1, 1, dim, dtype=np.float32)
    cls(evaluate_on=evaluate_on, weighted_by_key=None, fraction_evaluate=0.0).start(
        grid, ArrayRecord({"w": Array(x)}), 3
    )
    for context in grid.contexts.values():
        size = len(context.state["flower_compress"]["state"])
        assert 4 * vectors * dim <= size < 4 * (vectors + 0.25) * dim


def test_more_than_a_context_holds_needs_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of MCM a client keeps two vectors: refused before it trains, not after."""
    trained: list[int] = []

    def note(msg: Message, context: Context, call_next: ClientAppCallable) -> Message:
        trained.append(context.node_id)
        return call_next(msg, context)

    for room, folder, fits in (
        (8 * DIM - 1, None, False),
        (8 * DIM - 1, tmp_path, True),
        (1 << 20, None, True),
    ):
        monkeypatch.setattr(state_store, "_MOST_BYTES", room)
        trained.clear()
        app = make_app(inner=[note], state_dir=folder)
        strategy = MCM(**options(MCM, {}))
        if fits:
            run(strategy, app, restarts=False)
            assert len(trained) >= ROUNDS * NUM_CLIENTS
            continue
        with pytest.raises(RoundFailedError, match="state_dir=") as caught:
            run(strategy, app, restarts=False)
        needed = f"is {8 * DIM} bytes, and Context.state holds at most"
        assert needed in str(caught.value)
        assert not trained
    with pytest.raises(ConfigurationError, match="holds at most"):
        monkeypatch.setattr(state_store, "_MOST_BYTES", 5)
        (tmp_path / "file").write_bytes(b"")
        store = StateStore("key", tmp_path / "file")
        store.save(next(iter(InProcessGrid(app, 1).contexts.values())), 1, 1, b"123456")
