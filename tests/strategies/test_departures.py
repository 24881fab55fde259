"""Clients that leave for good, or come back as others: the model is of those there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, Result

from flower_compress import CompressionMod
from flower_compress.errors import ConfigurationError
from flower_compress.strategies import (
    MCM,
    Artemis,
    CompressedStrategy,
    Diana,
    Dore,
    RandMCM,
    compress,
)
from flower_compress.strategies.server.saved_session import save_session
from flower_compress.testing import InProcessGrid
from tests.strategies.problem import INITIAL, NUM_CLIENTS, make_app, to_record
from tests.strategies.test_resume import KilledError, comparable, kill_after, make

DIM = 6
SPREAD = np.linspace(0.5, 1.5, DIM, dtype=np.float32)


class Fleet(InProcessGrid):
    """Clients that pull towards targets of their own, and may be away, or mute.

    Client i has the target i * SPREAD. An absent node is not listed; a mute one is, and
    its answers are lost.
    """

    def __init__(self, num_clients: int, returns: str = "gradient") -> None:
        app = ClientApp(mods=[CompressionMod(returns)])  # type: ignore[arg-type]
        app.train()(partial(_train, returns))
        super().__init__(app, num_clients)
        self.away: set[int] = set()
        self.mute: set[int] = set()

    def get_node_ids(self) -> Iterable[int]:
        return [n for n in self.contexts if n not in self.away]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        there = [m for m in messages if m.metadata.dst_node_id not in self.away]
        return [
            reply
            for reply in super().send_and_receive(there, timeout=timeout)
            if reply.metadata.src_node_id not in self.mute
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        there = [m for m in messages if m.metadata.dst_node_id not in self.away]
        return super().push_messages(there)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [
            reply
            for reply in super().pull_messages(message_ids)
            if reply.metadata.src_node_id not in self.mute
        ]

    def restart_under(self, old_id: int, new_id: int) -> None:
        """Let a device come back with nothing, under another node id."""
        before = self.contexts.pop(old_id)
        self.contexts[new_id] = Context(
            before.run_id,
            new_id,
            before.node_config,
            RecordDict(),
            before.run_config,
        )


def _train(returns: str, msg: Message, context: Context) -> Message:
    config = context.node_config
    target = int(config.get("target", config.get("partition-id", 0))) * SPREAD
    w = msg.content["arrays"]["w"].numpy()
    result = w - target if returns == "gradient" else w + 0.3 * (target - w)
    arrays = ArrayRecord({"w": Array(result.astype(np.float32))})
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)


Hook = Callable[[int], None]


def run(strategy: Any, fleet: Fleet, rounds: int, hook: Hook) -> Result:
    def evaluate(server_round: int, _: ArrayRecord) -> None:
        hook(server_round)

    initial = ArrayRecord({"w": Array(np.zeros(DIM, dtype=np.float32))})
    return strategy.start(fleet, initial, rounds, evaluate_fn=evaluate)


def model_of(result: Result) -> Any:
    """Return the model, as multiples of SPREAD: the mean of the numbers that pull."""
    return result.arrays["w"].numpy() / SPREAD


PLAIN: dict[str, Any] = {"fraction_evaluate": 0.0}
WITH_MEMORY: dict[str, Callable[..., CompressedStrategy]] = {
    "diana": Diana,
    "diana-mean": partial(Diana, uplink_memory="mean"),
    "mcm": MCM,
    "mcm-mean": partial(MCM, uplink_memory="mean"),
    "rand-mcm": RandMCM,
    "rand-mcm-g": partial(RandMCM, groups=3),
    "rand-mcm-average": partial(RandMCM, memory="average"),
    "artemis": Artemis,
    "dore": Dore,
}


def test_who_is_there_and_silent_counts_in_the_share(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A client that is always slower than the timeout, of two."""
    fleet = Fleet(2)

    def evaluate(server_round: int, _: ArrayRecord) -> None:
        # Client 1 gives no answer in rounds 4 to 8, and one late in 10.
        fleet.mute = {1002} if 3 <= server_round < 8 or server_round == 9 else set()

    strategy = MCM(step_size=0.3, fraction_evaluate=0.0)
    initial = ArrayRecord({"w": Array(np.zeros(DIM, dtype=np.float32))})
    result = strategy.start(fleet, initial, 12, evaluate_fn=evaluate)
    rows = result.train_metrics_clientapp
    shares = [rows[k]["absent-memory-share"] for k in sorted(rows)]
    # Asked twice in a row, in 4 and 5; heard again in 9. Once is not yet silence.
    assert shares == [0.0] * 5 + [0.5] * 4 + [0.0] * 3
    told = [text for text in caplog.messages if "50 % of the mean" in text]
    assert len(told) == 3, "in the 1st, 2nd and 4th round in a row"
    assert "longer timeout" in told[0]


@pytest.mark.parametrize("make", WITH_MEMORY.values(), ids=WITH_MEMORY)
def test_half_of_them_leave(make: Callable[..., CompressedStrategy]) -> None:
    """One is not there any more, and two say nothing any more."""
    fleet, leave_after, forget_after = Fleet(6), 3, 2

    def hook(server_round: int) -> None:
        if server_round == leave_after:
            fleet.away, fleet.mute = {1004}, {1005, 1006}

    strategy = make(step_size=0.5, forget_after=forget_after, **PLAIN)
    result = run(strategy, fleet, leave_after + forget_after + 25, hook)
    np.testing.assert_allclose(model_of(result), 1.0, rtol=0.01)
    known = {client.identity for client in strategy._running.roster}
    assert known == set(range(3))


@pytest.mark.parametrize("uplink_memory", ["each", "mean"])
def test_with_the_defaults_six_of_eight_leave(
    uplink_memory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fleet, caplog_at = Fleet(8), caplog.at_level(logging.INFO, "flwr")

    def hook(server_round: int) -> None:
        if server_round == 20:
            fleet.away = set(range(1003, 1009))

    strategy = Diana(step_size=0.4, uplink_memory=uplink_memory, **PLAIN)
    with caplog_at:
        result = run(strategy, fleet, 100, hook)
    np.testing.assert_allclose(model_of(result), 0.5, rtol=0.01)
    shares = [
        row["absent-memory-share"] for row in result.train_metrics_clientapp.values()
    ]
    assert shares[19] == 0 and shares[-1] == 0
    assert set(shares[20:69]) == {0.75}
    told = [r.message for r in caplog.records if "that are not connected" in r.message]
    assert len(told) == 6, "in the 1st, 2nd, 4th, ... of 49 rounds"
    assert told[0].startswith("75 % of the mean") and "after 50" not in told[0]
    assert "missed 50 rounds" in told[0] and "strategy.forget(" in told[0]
    forgotten = [r.message for r in caplog.records if "client forgotten" in r.message]
    assert [line.split()[2:5] for line in forgotten] == [
        [f"identity={i}", f"node={1001 + i}", "round=70"] for i in range(2, 8)
    ]


@pytest.mark.parametrize("uplink_memory", ["each", "mean"])
def test_a_device_that_restarts_under_new_ids_counts_once(
    uplink_memory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = Fleet(5)
    for node_id, context in fleet.contexts.items():
        context.node_config = {"target": node_id - 1001}
    most_known = 0
    tail: list[Any] = []

    def evaluate(server_round: int, arrays: ArrayRecord) -> None:
        nonlocal most_known
        most_known = max(most_known, len(strategy._running.roster))
        if server_round % 10 == 5:
            newest = max(fleet.contexts)
            fleet.restart_under(newest, newest + 1)
        if server_round > 25:
            tail.append(arrays["w"].numpy() / SPREAD)

    strategy = MCM(step_size=0.4, uplink_memory=uplink_memory, **PLAIN)
    initial = ArrayRecord({"w": Array(np.zeros(DIM, dtype=np.float32))})
    strategy.start(fleet, initial, 65, evaluate_fn=evaluate)
    assert most_known == 5
    # It is greeted for one round of ten, in which the others pull the model alone.
    np.testing.assert_allclose(np.mean(tail), 2.0, rtol=0.04)
    told = [r.message for r in caplog.records if "partition-id" in r.message]
    assert len(told) == 1 and told[0].startswith("5 of 5 clients have no partition-id")


def test_who_is_only_not_drawn_is_not_gone() -> None:
    """One client of a hundred takes part in a round."""
    fleet = Fleet(100)
    strategy = Diana(
        fraction_train=0.01, min_train_nodes=1, forget_after=2, step_size=0.05, **PLAIN
    )
    run(strategy, fleet, 30, lambda _: None)
    assert len(strategy._running.roster) == 100
    assert {client.missed for client in strategy._running.roster} == {0}


def test_nobody_is_forgotten_while_nobody_answers() -> None:
    fleet = Fleet(4)

    def hook(server_round: int) -> None:
        fleet.mute = set(fleet.contexts) if 3 <= server_round < 12 else set()

    strategy = MCM(step_size=0.2, forget_after=3, **PLAIN)
    run(strategy, fleet, 11, hook)
    before = {client.identity: client for client in strategy._running.roster}
    assert [client.missed for client in before.values()] == [8] * 4
    fleet = Fleet(4)
    strategy = MCM(step_size=0.2, forget_after=3, **PLAIN)
    run(strategy, fleet, 13, hook)
    assert {client.missed for client in strategy._running.roster} == {0}
    assert all(client.uplink.version > 10 for client in strategy._running.roster)


def test_forget_none_keeps_everyone() -> None:
    fleet = Fleet(3)
    for context in fleet.contexts.values():
        context.node_config = {}

    def hook(server_round: int) -> None:
        fleet.away = {1001} if server_round >= 2 else set()

    strategy = Diana(step_size=0.2, forget_after=None, **PLAIN)
    run(strategy, fleet, 60, hook)
    assert len(strategy._running.roster) == 3


@pytest.mark.parametrize("value", [0, -1, "50", float("nan")])
def test_forget_after_is_a_number_of_rounds(value: Any) -> None:
    for wrong in (lambda: MCM(forget_after=value), lambda: compress_with(value)):
        with pytest.raises(ConfigurationError, match="forget_after must be a whole"):
            wrong()


def compress_with(forget_after: Any) -> Any:
    inside = FedAvg(fraction_evaluate=0.0)
    return compress(inside, forget_after=forget_after)


# --- forget, and what is freed --------------------------------------------------------


@pytest.mark.parametrize("budget", [None, 0])
def test_forget_frees_all_that_is_kept(budget: int | None) -> None:
    fleet = Fleet(5)
    strategy = RandMCM(step_size=0.4, memory_budget=budget, **PLAIN)

    def size() -> tuple[int, int, int]:
        session = strategy._running
        store, arrays = session.uplinks._store, {}
        save_session(session, arrays)
        return (
            store.num_bytes_in_ram + store.num_bytes_on_disk,
            sum("/3" in name for name in arrays),
            len(arrays["roster/identity"]) + len(arrays["roster/known"]),
        )

    def hook(server_round: int) -> None:
        if server_round != 6:
            return
        assert size() == (5 * 2 * 4 * DIM, 2, 10)
        strategy.refused[3] = 7
        fleet.away = {1004}
        strategy.forget(3)
        assert size() == (4 * 2 * 4 * DIM, 0, 8)
        assert 3 not in strategy.refused
        with pytest.raises(ConfigurationError, match="no client 3 to forget.*of the 4"):
            strategy.forget(3)
        with pytest.raises(ConfigurationError, match="no client 87023.* to forget"):
            strategy.forget("hospital-a")
        with pytest.raises(ConfigurationError, match="a whole number or a name, got"):
            strategy.forget([1])
        held = [client.uplink.memory.vector for client in strategy._running.roster]
        total = np.sum(np.array(held, dtype=np.float64), axis=0)
        np.testing.assert_allclose(
            strategy._running.uplinks.memories.sum, total, rtol=1e-13, atol=1e-13
        )

    with pytest.raises(ConfigurationError, match="no run has begun"):
        strategy.forget(0)
    result = run(strategy, fleet, 40, hook)
    np.testing.assert_allclose(model_of(result), 7 / 4, rtol=0.01)


def test_around_another_strategy_who_is_gone_is_forgotten_too() -> None:
    fleet = Fleet(6, "weights")

    def hook(server_round: int) -> None:
        if server_round == 4:
            fleet.away, fleet.mute = {1005}, {1006}
        if server_round == 12:
            assert len(strategy._running.roster) == 4
            fleet.away, fleet.mute = set(), set()
            strategy.forget(0)

    strategy = compress_with(4)
    result = run(strategy, fleet, 40, hook)
    assert sorted(client.identity for client in strategy._running.roster) == [*range(6)]
    np.testing.assert_allclose(model_of(result), 2.5, rtol=0.02)
    assert "absent-memory-share" not in result.train_metrics_clientapp[40]


@pytest.mark.parametrize("reset_every", ["auto", None])
def test_an_average_is_of_who_is_left(reset_every: Any) -> None:
    """What one of eight had its part in would hold the model off by percents."""
    fleet = Fleet(8)

    def hook(server_round: int) -> None:
        if server_round == 5:
            fleet.away = {1008}

    strategy = RandMCM(
        memory="average",
        reset_every=reset_every,
        step_size=0.5,
        forget_after=3,
        **PLAIN,
    )
    result = run(strategy, fleet, 40, hook)
    np.testing.assert_allclose(model_of(result), 3.0, rtol=1e-3)


# --- Resumed --------------------------------------------------------------------------


class Leaving(InProcessGrid):
    """Client 0 is away in rounds 4 to 9, client 1 from round 9 on."""

    def __init__(self) -> None:
        super().__init__(make_app(), NUM_CLIENTS)
        self.now = 0

    def get_node_ids(self) -> Iterable[int]:
        away = {1001} if 4 <= self.now + 1 < 10 else set()
        away |= {1002} if self.now + 1 > 8 else set()
        return [n for n in self.contexts if n not in away]

    def save_clients(self) -> bytes:
        return bytes([self.now]) + super().save_clients()

    def load_clients(self, data: bytes) -> None:
        self.now = data[0]
        super().load_clients(data[1:])


@pytest.mark.parametrize(
    ("cls", "extra"),
    [
        (MCM, {}),
        (RandMCM, {"memory_budget": 0}),
        (RandMCM, {"memory": "average", "reset_every": 6}),
        (Dore, {}),
        (Diana, {"uplink_memory": "mean"}),
    ],
)
def test_a_resumed_run_has_forgotten_the_same(
    cls: type[CompressedStrategy], extra: dict[str, Any], tmp_path: Path
) -> None:
    def outcome(*kills: int, **more: Any) -> tuple[Any, Any, list[Any]]:
        for last in (*kills, 16):
            strategy, grid = make(cls, extra, forget_after=3, **more), Leaving()
            judge = kill_after(last)

            def evaluate(
                server_round: int,
                arrays: ArrayRecord,
                grid: Leaving = grid,
                judge: Any = judge,
            ) -> MetricRecord | None:
                grid.now = server_round
                return judge(server_round, arrays)

            try:
                result = strategy.start(
                    grid, to_record(INITIAL), 16, evaluate_fn=evaluate
                )
            except KilledError:
                continue
        known = [client.identity for client in strategy._running.roster]
        return comparable(result), strategy.ledger.as_dict(), known

    whole = outcome()
    assert sorted(whole[2]) == [0, 2, 3, 4]
    # Killed while client 0 is away, when it has been forgotten, and later.
    kills = outcome(5, 9, 11, checkpoint_dir=tmp_path, resume=True, checkpoint_every=2)
    assert kills == whole
