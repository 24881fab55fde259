"""Checkpoints: a run that stops and goes on, with its clients and without them."""

from __future__ import annotations

import copy
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    ArrayRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flower_compress import StochasticQuantizer, TopK
from flower_compress.errors import (
    CheckpointError,
    ConfigurationError,
    RoundFailedError,
    UnknownNameError,
)
from flower_compress.links import commit
from flower_compress.mods.client_state import ClientState
from flower_compress.strategies import (
    MCM,
    SGD,
    Artemis,
    ArtemisND,
    CompressedStrategy,
    Diana,
    Dore,
    DoubleSqueeze,
    RandMCM,
)
from flower_compress.strategies.run.checkpoint import Arrays, Checkpoint, Checkpoints
from flower_compress.testing import InProcessGrid
from flower_compress.wire.contract import Contract
from tests.strategies.problem import (
    DIM,
    INITIAL,
    NUM_CLIENTS,
    Vector,
    make_app,
    to_record,
    to_vector,
)
from tests.strategies.test_equations import SEED, options

ROUNDS = 40
STRATEGIES: list[tuple[type[CompressedStrategy], dict[str, Any]]] = [
    (SGD, {}),
    (Diana, {}),
    (Diana, {"uplink_memory": "mean"}),
    (Artemis, {}),
    (ArtemisND, {}),
    (Dore, {}),
    (DoubleSqueeze, {"compressor": TopK(k=3)}),
    (MCM, {}),
    (RandMCM, {}),
    (RandMCM, {"groups": 2}),
    (RandMCM, {"memory": "average", "reset_every": 6}),
    (RandMCM, {"memory_budget": 0}),
]
EVERY = pytest.mark.parametrize(
    ("cls", "extra"), STRATEGIES, ids=lambda value: getattr(value, "__name__", None)
)


class KilledError(Exception):
    """The server is gone."""


def make(
    cls: type[CompressedStrategy], extra: dict[str, Any], **more: Any
) -> CompressedStrategy:
    return cls(
        **options(
            cls,
            {
                "fraction_train": 0.6,
                "fraction_evaluate": 0.5,
                "sampling": "bernoulli",
                "checkpoint_every": 5,
                **extra,
                **more,
            },
        )
    )


def kill_after(last: int) -> Callable[[int, ArrayRecord], MetricRecord | None]:
    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        if server_round > last:
            raise KilledError
        return MetricRecord({"norm": float(np.linalg.norm(to_vector(arrays)))})

    return evaluate


def start(
    strategy: CompressedStrategy,
    last: int = ROUNDS,
    grid: Grid | None = None,
    rounds: int = ROUNDS,
) -> Any:
    return strategy.start(
        grid or InProcessGrid(make_app(), NUM_CLIENTS),
        to_record(INITIAL),
        rounds,
        evaluate_fn=kill_after(last),
    )


def killed_and_resumed(
    cls: type[CompressedStrategy],
    extra: dict[str, Any],
    folder: Path,
    *kills: int,
    rounds: int,
) -> tuple[Any, CompressedStrategy]:
    for last in kills:
        strategy = make(cls, extra, checkpoint_dir=folder, resume=True)
        with pytest.raises(KilledError):
            start(strategy, last, rounds=rounds)
    last_one = make(cls, extra, checkpoint_dir=folder, resume=True)
    return start(last_one, rounds=rounds), last_one


def comparable(result: Any) -> Any:
    return (
        to_vector(result.arrays).tobytes(),
        result.train_metrics_clientapp,
        result.evaluate_metrics_clientapp,
        result.evaluate_metrics_serverapp,
    )


@EVERY
def test_a_resumed_run_is_the_uninterrupted_one(
    cls: type[CompressedStrategy], extra: dict[str, Any], tmp_path: Path
) -> None:
    whole = make(cls, extra)
    expected = start(whole, rounds=18)
    result, resumed = killed_and_resumed(cls, extra, tmp_path, 7, 7, 13, rounds=18)
    assert resumed.resumed_from == 10
    assert comparable(result) == comparable(expected)
    assert resumed.ledger.as_dict() == whole.ledger.as_dict()


def test_memories_are_given_back_after_a_resume_as_before(tmp_path: Path) -> None:
    def run(last: int, **more: Any) -> Any:
        grid = InProcessGrid(make_app(), NUM_CLIENTS)

        def lose(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            if server_round == 6:  # Some have yet to answer since the resume.
                for context in grid.contexts.values():
                    context.state = RecordDict()
            return kill_after(last)(server_round, arrays)

        strategy = make(Diana, {}, **more)
        result = strategy.start(grid, to_record(INITIAL), 12, evaluate_fn=lose)
        return comparable(result), strategy.ledger.as_dict()

    with pytest.raises(KilledError):
        run(7, checkpoint_dir=tmp_path)
    assert run(12, checkpoint_dir=tmp_path, resume=True) == run(12)


def test_a_client_first_drawn_after_a_resume_begins_as_before(tmp_path: Path) -> None:
    """With what the others began with, which is not sent dense."""
    extra = {
        "memory": "average",
        "reset_every": None,
        "first_model": 8,
        "fraction_train": 0.2,
        "fraction_evaluate": 0.0,
    }

    def run(last: int, **more: Any) -> Any:
        strategy = make(RandMCM, extra, min_train_nodes=1, sampling="fixed", **more)
        result = start(strategy, last, rounds=14)
        return comparable(result), strategy.ledger.as_dict()

    with pytest.raises(KilledError):
        run(5, checkpoint_dir=tmp_path)
    assert run(14, checkpoint_dir=tmp_path, resume=True) == run(14)


def test_one_round_of_mistakes_does_not_end_a_run_that_was_resumed(
    tmp_path: Path,
) -> None:
    """All say what would end a new run at once, and this one was answered before."""

    def mistaken(msg: Message, context: Context, call_next: Any) -> Message:
        number = msg.content.config_records["config"]["server-round"]
        if number == 6 and msg.metadata.message_type == MessageType.TRAIN:
            raise ConfigurationError("a mistake")
        reply: Message = call_next(msg, context)
        return reply

    def run(last: int, **more: Any) -> Any:
        grid = InProcessGrid(make_app(inner=[mistaken]), NUM_CLIENTS)
        return start(make(Diana, {}, **more), last, grid, 8)

    with pytest.raises(KilledError):
        run(5, checkpoint_dir=tmp_path)
    resumed = run(8, checkpoint_dir=tmp_path, resume=True)
    assert comparable(resumed) == comparable(run(8))


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first = start(make(MCM, {}, checkpoint_dir=tmp_path))
    again = make(MCM, {}, checkpoint_dir=tmp_path, resume=True)
    result = start(again)
    assert again.resumed_from == ROUNDS
    assert comparable(result) == comparable(first)


# --- Clients that cannot be brought back ----------------------------------------------


class Remote(Grid):
    """Clients elsewhere: nothing but what every Flower grid can do."""

    def __init__(self, clients: InProcessGrid) -> None:
        self.clients = clients

    def set_run(self, run: Run) -> None:
        self.clients.set_run(run)

    @property
    def run(self) -> Run:
        return self.clients.run

    def create_message(self, *arguments: Any, **keywords: Any) -> Message:
        return self.clients.create_message(*arguments, **keywords)

    def get_node_ids(self) -> Iterable[int]:
        return self.clients.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self.clients.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self.clients.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.clients.send_and_receive(messages, timeout=timeout)


def with_state_of(
    before: InProcessGrid, kept: Callable[[int], bool], first_id: int
) -> InProcessGrid:
    """New nodes of other ids, some of which have kept what they remember."""
    grid = InProcessGrid(make_app(), NUM_CLIENTS)
    contexts = list(grid.contexts.values())
    for i, (context, old) in enumerate(
        zip(contexts, before.contexts.values(), strict=True)
    ):
        context.node_id = first_id + i
        if kept(i):
            context.state = old.state
    grid.contexts = {context.node_id: context for context in contexts}
    return grid


# With each strategy that of which the others are parts.
@pytest.mark.parametrize(
    ("cls", "extra", "kept", "first_id"),
    [
        *((cls, extra, "some", 7000) for cls, extra in STRATEGIES),
        *(
            (cls, extra, kept, first_id)
            for cls, extra in [
                (Diana, {"uplink_memory": "mean"}),
                (Dore, {}),
                (MCM, {}),
            ]
            for kept, first_id in [("all", 1001), ("all", 7000), ("none", 1001)]
        ),
    ],
)
def test_clients_that_go_on_or_restart_are_brought_in_line(
    cls: type[CompressedStrategy],
    extra: dict[str, Any],
    kept: str,
    first_id: int,
    tmp_path: Path,
) -> None:
    before, rounds = InProcessGrid(make_app(), NUM_CLIENTS), 18
    with pytest.raises(KilledError):
        start(make(cls, extra, checkpoint_dir=tmp_path), 13, Remote(before), rounds)
    keeps = {
        "all": lambda i: True,
        "some": lambda i: i % 2 == 0,
        "none": lambda i: False,
    }
    grid = with_state_of(before, keeps[kept], first_id)
    strategy = make(cls, extra, checkpoint_dir=tmp_path, resume=True)
    result = start(strategy, grid=Remote(grid), rounds=rounds)
    assert strategy.resumed_from == 10
    assert len(result.evaluate_metrics_serverapp) == rounds + 1
    assert sum(strategy.refused.values()) == 0
    assert assert_in_step(strategy, grid) == NUM_CLIENTS


@pytest.mark.parametrize("cls", [Diana, Dore, MCM, RandMCM])
def test_an_old_copy_of_the_folder_is_told_of(
    cls: type[CompressedStrategy], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the warning says helps: without it clients refuse all that they are sent."""
    extra = {"fraction_train": 1.0, "sampling": "fixed", "fraction_evaluate": 0.0}
    grid, folder = Remote(InProcessGrid(make_app(), NUM_CLIENTS)), tmp_path / "run"

    def go_on(rounds: int) -> CompressedStrategy:
        keywords = {"checkpoint_dir": folder, "checkpoint_every": 1, "resume": True}
        strategy = make(cls, extra, **keywords)
        start(strategy, grid=grid, rounds=rounds)
        return strategy

    go_on(3)
    shutil.copytree(folder, tmp_path / "copy")
    go_on(ROUNDS)
    assert "older copy" not in caplog.text
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "copy", folder)
    with pytest.raises(RoundFailedError, match="StalePacketError"):
        go_on(ROUNDS)
    assert "remove versions.sent from that folder" in caplog.text
    caplog.clear()
    (folder / "versions.sent").unlink()
    strategy = go_on(ROUNDS)
    assert strategy.resumed_from == 5  # of two rounds in which nobody took part
    assert assert_in_step(strategy, grid.clients) == NUM_CLIENTS
    assert "older copy" not in caplog.text


def assert_in_step(strategy: CompressedStrategy, grid: InProcessGrid) -> int:
    """Compare both ends' memories; return the number of clients compared."""
    clients = strategy._running.roster.online(grid.contexts)
    link = strategy.uplink
    for client in clients:
        record = grid.contexts[client.node_id].state.config_records["flower_compress"]
        state = ClientState.from_bytes(record["state"])  # type: ignore[arg-type]
        assert state is not None
        contract = Contract.from_bytes(state.contract)
        state = state.on(
            contract.downlink_channel(client.identity),
            contract.uplink_channel(client.identity),
        )
        assert state.receiver.newest == client.downlink.sent == client.downlink.held
        if link.memory_rate(DIM) is not None and strategy.uplink_memory == "each":
            sender = link.acknowledge(
                state.sender, *strategy._running.uplinks.acked(client.uplink)
            )
            assert_equal(sender.vector, client.uplink.memory.vector)
        if strategy.groups == "client" and strategy.downlink_memory == "each":
            held = commit(state.receiver, contract.downlink_rate).vector
            assert_equal(held, client.downlink.memory.vector)
    return len(clients)


def assert_equal(one: Vector | None, other: Vector | None) -> None:
    assert one is not None
    assert other is not None
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("fraction_evaluate", [0.0, 1.0])
@pytest.mark.parametrize("cls", [Diana, Artemis, Dore, MCM, RandMCM])
def test_clients_one_round_ahead_are_sent_nothing_dense(
    cls: type[CompressedStrategy], fraction_evaluate: float, tmp_path: Path
) -> None:
    """Those that are further ahead are sent the model and their memory."""
    extra = {
        "fraction_train": 1.0,
        "sampling": "fixed",
        "fraction_evaluate": fraction_evaluate,
    }
    dense = 4 * DIM * NUM_CLIENTS
    for last, num_dense in ((10, 0), (11, 2 if cls is not Diana else 1)):
        folder = tmp_path / str(last)
        before = InProcessGrid(make_app(), NUM_CLIENTS)
        with pytest.raises(KilledError):
            start(make(cls, extra, checkpoint_dir=folder), last, Remote(before))
        strategy = make(cls, extra, checkpoint_dir=folder, resume=True)
        start(strategy, grid=Remote(before), rounds=15)
        assert strategy.resumed_from == 10
        first = 0 if cls is Diana else 1
        assert strategy.ledger.downlink.snapshot_bytes == (first + num_dense) * dense
        assert assert_in_step(strategy, before) == NUM_CLIENTS


def test_clients_that_missed_nothing_cost_nothing(tmp_path: Path) -> None:
    """Two of the five take part in the round that the resumed server knows not."""
    extra = {"fraction_train": 0.4, "sampling": "fixed", "fraction_evaluate": 0.0}
    before = InProcessGrid(make_app(), NUM_CLIENTS)
    with pytest.raises(KilledError):
        start(make(RandMCM, extra, checkpoint_dir=tmp_path), 10, Remote(before))
    strategy = make(RandMCM, extra, checkpoint_dir=tmp_path, resume=True)
    start(strategy, grid=Remote(before))
    assert strategy.ledger.downlink.snapshot_bytes == NUM_CLIENTS * 4 * DIM
    assert assert_in_step(strategy, before) == NUM_CLIENTS


def test_a_run_of_many_versions_goes_on(tmp_path: Path) -> None:
    """Beyond 2^20, and wherever the checkpoint was copied to."""
    before = InProcessGrid(make_app(), NUM_CLIENTS)
    with pytest.raises(KilledError):
        start(make(MCM, {}, checkpoint_dir=tmp_path), 13, Remote(before))
    (tmp_path / "versions.sent").unlink()
    for last in (22, ROUNDS):
        strategy = make(MCM, {}, checkpoint_dir=tmp_path, resume=True)
        with pytest.raises(KilledError):
            start(strategy, last - 1, grid=Remote(before))
        assert strategy.resumed_from == (10 if last == 22 else 20)
        assert strategy._running.downlinks.newest > 1 << 20
        assert sum(strategy.refused.values()) == 0
        assert assert_in_step(strategy, before) > 0
    assert int((tmp_path / "versions.sent").read_bytes()) < 1 << 22


def test_a_run_can_be_killed_again_and_again(tmp_path: Path) -> None:
    grid = InProcessGrid(make_app(), NUM_CLIENTS)
    for last in (7, 12, 13, 14, 22, 36):
        with pytest.raises(KilledError):
            start(
                make(RandMCM, {}, checkpoint_dir=tmp_path, resume=True),
                last,
                Remote(grid),
            )
    strategy = make(RandMCM, {}, checkpoint_dir=tmp_path, resume=True)
    start(strategy, grid=Remote(grid))
    assert sum(strategy.refused.values()) == 0
    assert assert_in_step(strategy, grid) == NUM_CLIENTS


# --- What is wrong is said ------------------------------------------------------------


def test_a_new_run_does_not_take_the_folder_of_another(tmp_path: Path) -> None:
    start(make(MCM, {}, checkpoint_dir=tmp_path))
    files = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ConfigurationError, match="resume=True to go on"):
        start(make(MCM, {}, checkpoint_dir=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == files


@pytest.mark.parametrize(
    ("cls", "extra", "match"),
    [
        (MCM, {"seed": SEED + 1}, f"contract.seed was {SEED} and is {SEED + 1}"),
        (
            MCM,
            {"compressor": StochasticQuantizer(levels=3)},
            "downlink.compressor.levels was 2 and is 3",
        ),
        (RandMCM, {}, "it was MCM and is RandMCM; contract.downlink_groups was 1 and"),
        (Diana, {}, "it was MCM and is Diana; "),
        (MCM, {"uplink_memory": "mean"}, 'uplink_memory was "each" and is "mean"'),
    ],
)
def test_a_run_does_not_go_on_as_another(
    cls: type[CompressedStrategy], extra: dict[str, Any], match: str, tmp_path: Path
) -> None:
    start(make(MCM, {}, checkpoint_dir=tmp_path))
    with pytest.raises(ConfigurationError, match=re.escape(match)):
        start(make(cls, extra, checkpoint_dir=tmp_path, resume=True))


def test_other_clients_are_refused_before_anything_changes(tmp_path: Path) -> None:
    start(make(MCM, {}, checkpoint_dir=tmp_path))
    strategy = make(MCM, {}, checkpoint_dir=tmp_path, resume=True)
    with pytest.raises(ConfigurationError, match="as many nodes as before"):
        start(strategy, grid=InProcessGrid(make_app(), NUM_CLIENTS + 1))


def test_a_torn_checkpoint_costs_the_rounds_since_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = start(make(MCM, {}))
    with pytest.raises(KilledError):
        start(make(MCM, {}, checkpoint_dir=tmp_path), 22)
    newest = tmp_path / "round-00000020.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100])
    strategy = make(MCM, {}, checkpoint_dir=tmp_path, resume=True)
    result = start(strategy)
    assert strategy.resumed_from == 15
    assert "round-00000020.ckpt" in caplog.text
    assert comparable(result) == comparable(expected)


def test_no_intact_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        start(make(MCM, {}, checkpoint_dir=tmp_path), 7)
    for path in tmp_path.iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        start(make(MCM, {}, checkpoint_dir=tmp_path, resume=True))


def test_a_folder_is_one_runs_until_that_ends(tmp_path: Path) -> None:
    def start_another(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        other = make(MCM, {}, checkpoint_dir=tmp_path, resume=True)
        with pytest.raises(CheckpointError, match=r"in use by process \d+ on "):
            start(other)
        raise KilledError

    strategy = make(MCM, {}, checkpoint_dir=tmp_path)
    grid = InProcessGrid(make_app(), NUM_CLIENTS)
    with pytest.raises(KilledError):
        strategy.start(grid, to_record(INITIAL), 1, evaluate_fn=start_another)
    start(make(MCM, {}, checkpoint_dir=tmp_path, resume=True))


# --- A disk that fills up, files of others --------------------------------------------


@pytest.mark.parametrize("fails", ["os.fsync", "os.replace"])
def test_a_full_disk_ends_no_run(
    fails: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is said at round 5, 10 and 20, and round 25 is saved."""
    expected = start(make(MCM, {}))

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:

        def stop_at(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            if server_round == 1:
                patch.setattr(fails, fail)
            if server_round == 24:
                patch.undo()
            return kill_after(28)(server_round, arrays)

        with pytest.raises(KilledError):
            make(MCM, {}, checkpoint_dir=tmp_path).start(
                InProcessGrid(make_app(), NUM_CLIENTS),
                to_record(INITIAL),
                ROUNDS,
                evaluate_fn=stop_at,
            )
    said = [r.getMessage() for r in caplog.records if "is not saved" in r.getMessage()]
    assert [text.split(" is not")[0] for text in said] == [
        "round 5",
        "round 10",
        "round 20",
    ]
    assert "No space left" in said[0] and "tries again every 5 rounds" in said[0]
    assert "round 25 is saved, after 4 in vain" in caplog.text
    assert [p.name for p in tmp_path.glob("*.ckpt*")] == ["round-00000025.ckpt"]
    resumed = make(MCM, {}, checkpoint_dir=tmp_path, resume=True)
    assert comparable(start(resumed)) == comparable(expected)


def test_auto_goes_on_with_what_has_not_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def command() -> CompressedStrategy:
        return make(MCM, {}, checkpoint_dir=tmp_path, resume="auto")

    expected = start(make(MCM, {}))
    with pytest.raises(KilledError):
        start(command(), 3)  # before its first checkpoint
    with pytest.raises(KilledError):
        start(command(), 12)
    again = command()
    assert comparable(start(again)) == comparable(expected)
    assert again.resumed_from == 10
    another = command()
    with pytest.raises(KilledError):
        start(another, 7)
    assert another.resumed_from == 0
    assert "run-0001 has ended: a new one begins" in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run-0001", "run-0002"]
    # What does not fit is an error, and no new run.
    other = make(Diana, {}, checkpoint_dir=tmp_path, resume="auto")
    with pytest.raises(ConfigurationError, match="it was MCM and is Diana"):
        start(other)
    for path in (tmp_path / "run-0002").glob("*.ckpt"):
        path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        start(command())
    with pytest.raises(UnknownNameError, match="did you mean 'auto'"):
        make(MCM, {}, checkpoint_dir=tmp_path, resume="aut")


PATHS = st.lists(st.integers(0, 9), min_size=1, max_size=5)
GARBAGE = st.sampled_from([None, -1, 0.5, "x", [], {}, [None], True, 1 << 40])


@pytest.fixture(scope="module")
def saved_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    found = []
    for cls in (MCM, RandMCM, Artemis):
        folder = tmp_path_factory.mktemp("saved")
        strategy = make(cls, {}, checkpoint_dir=folder, resume=True)
        strategy.start(
            Remote(InProcessGrid(make_app(), NUM_CLIENTS)), to_record(INITIAL), 5
        )
        saved = Checkpoints(folder).latest()
        assert saved is not None
        found.append(saved)
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), run=st.integers(0, 2), path=PATHS, removes=st.booleans())
def test_other_fields_are_a_checkpoint_error(
    data: st.DataObject,
    run: int,
    path: list[int],
    removes: bool,
    saved_runs: list[Checkpoint],
) -> None:
    """Whatever one field is, the run goes on or says so at its start."""
    saved = saved_runs[run]
    meta = copy.deepcopy(saved.meta)
    arrays: Arrays = {name: saved.array(name) for name in saved.names()}
    place: Any = meta
    for number in path:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = keys[number % len(keys)]
        if number == path[-1] or not isinstance(place[key], (dict, list)):
            break
        if not place[key]:
            break
        place = place[key]
    if removes:
        del place[key]
    else:
        place[key] = data.draw(GARBAGE)
    cls = (MCM, RandMCM, Artemis)[run]
    with tempfile.TemporaryDirectory() as folder:
        Checkpoints(Path(folder)).save(5, meta, arrays)
        strategy = make(cls, {}, checkpoint_dir=folder, resume=True)
        grid = Remote(InProcessGrid(make_app(), NUM_CLIENTS))
        try:
            strategy.start(grid, to_record(INITIAL), 7)
        except (CheckpointError, ConfigurationError) as error:
            assert folder in str(error)
            assert not strategy.resumed_from
