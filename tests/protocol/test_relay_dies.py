"""The relay dies, and another one goes on from its checkpoint.

With a grid that brings the nodes back to where they were, nothing has happened. On any
other one they are further on, and have forgotten nothing of it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flower_compress.errors import ConfigurationError
from flower_compress.strategies import MCM, Relay
from flower_compress.strategies.relay import post_office
from flower_compress.strategies.relay.post_office import PostOffice
from flower_compress.testing import Fault, InProcessGrid
from flower_compress.wire.mail import Delivery
from tests.protocol.faulty import DELAYS, DUPLICATES, PlannedSchedule, random_faults
from tests.protocol.relay_wire import (
    ALGORITHMS,
    KilledError,
    NodesGrid,
    check,
    make_relay,
    run,
    run_with_deaths,
)
from tests.strategies.problem import CURVATURES, INITIAL, TARGETS, to_record, to_vector

ROUNDS = 12
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def in_process() -> InProcessGrid:
    """Nodes that a checkpoint keeps."""
    grid = NodesGrid()
    grid.compares = grid.draws_anew = False
    assert isinstance(grid._grid, InProcessGrid)
    return grid._grid


def start(relay: Relay, grid: Any, dies_after: int | None = None) -> Any:
    def evaluate(server_round: int, _: Any) -> None:
        if server_round == dies_after:
            raise KilledError

    with contextlib.suppress(KilledError):
        return relay.start(grid, to_record(INITIAL), ROUNDS, evaluate_fn=evaluate)


def same(one: Relay, other: Relay) -> None:
    assert sorted(one.node_models) == sorted(other.node_models)
    for node, model in one.node_models.items():
        np.testing.assert_array_equal(
            to_vector(model), to_vector(other.node_models[node])
        )


# -- nodes come back with it -----------------------------------------------------------


@every_algorithm
@pytest.mark.parametrize("topology", ["ring", "one-peer-exponential"])
@pytest.mark.parametrize("on_the_same_grid", [True, False])
def test_a_resumed_run_is_the_run(
    algorithm: str, topology: str, on_the_same_grid: bool, tmp_path: Path
) -> None:
    """Byte for byte: models, and every byte on every edge."""
    keywords: dict[str, Any] = {"evaluate_at_nodes": topology == "ring"}
    whole = make_relay(algorithm, topology, **keywords)
    result = start(whole, in_process())
    keywords |= {"checkpoint_dir": tmp_path, "checkpoint_every": 3, "resume": True}
    grid = in_process()
    start(make_relay(algorithm, topology, **keywords), grid, dies_after=8)
    second = make_relay(algorithm, topology, **keywords)
    resumed = start(second, grid if on_the_same_grid else in_process())
    assert second.resumed_from == 6
    same(whole, second)
    assert second.edges == whole.edges
    assert second.distances == whole.distances
    assert second.ledger.uplink.num_bytes == whole.ledger.uplink.num_bytes
    for name in ("train", "evaluate"):
        rows = f"{name}_metrics_clientapp"
        assert dict(getattr(resumed, rows)) == dict(getattr(result, rows))


def test_a_node_that_has_yet_to_begin_does_so_after_a_resume(tmp_path: Path) -> None:
    """From the first run's model, whatever the second is given."""
    office: list[PostOffice] = []

    def relay() -> Relay:
        return make_relay(
            "malcom",
            "complete",
            checkpoint_dir=tmp_path,
            checkpoint_every=1,
            resume=True,
        )

    class NoThirdNode(InProcessGrid):
        deaf = True

        def send_and_receive(self, messages: Any, **kwargs: Any) -> Any:
            replies = super().send_and_receive(messages, **kwargs)
            is_greeting = not office or office[-1].boxes[2].sent is None
            if self.deaf and not is_greeting:
                return [m for m in replies if m.metadata.src_node_id != 1003]
            return replies

    nodes = in_process()
    grid = NoThirdNode(nodes.client_app, 5)
    first = relay()

    def evaluate(server_round: int, _: Any) -> None:
        office.append(first._running.office)
        if server_round == 4:
            raise KilledError

    with contextlib.suppress(KilledError):
        first.start(grid, to_record(INITIAL), ROUNDS, evaluate_fn=evaluate)
    assert first._running.office.boxes[2].model
    grid.deaf = False
    second = relay()
    second.start(grid, to_record(INITIAL + 1), ROUNDS)
    assert second.resumed_from == 3
    np.testing.assert_array_equal(second._running._initial, INITIAL)
    assert not any(box.model or box.broken for box in second._running.office.boxes)
    assert len(second.node_models) == 5


# -- nodes are further on --------------------------------------------------------------


@every_algorithm
@pytest.mark.parametrize("topology", ["star", "one-peer-exponential"])
def test_relays_that_die_leave_neighbours_in_agreement(
    algorithm: str, topology: str, tmp_path: Path
) -> None:
    grid = NodesGrid()

    def relay(**keywords: Any) -> Relay:
        return make_relay(algorithm, topology, **keywords)

    last = run_with_deaths(relay, grid, 9, [4, 3, 5], tmp_path, 2)
    assert last.resumed_from > 0
    check(grid, last)


@every_algorithm
def test_what_the_dead_relay_has_sent_does_no_harm(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It arrives late, and so do the answers to it; nodes restart."""
    monkeypatch.setattr(post_office, "_LEAST_ROOM", 0)
    for seed in range(2):
        faults = (*DELAYS, *DUPLICATES) if seed % 2 else None
        schedule = (
            random_faults(seed, 0.15)
            if faults is None
            else random_faults(seed, 0.3, faults)
        )
        grid = NodesGrid(schedule)

        def relay(**keywords: Any) -> Relay:
            return make_relay(algorithm, "complete", **keywords)

        folder = tmp_path / str(seed)
        last = run_with_deaths(relay, grid, 8, [2, 3, 3], folder, 2)
        check(grid, last)


def test_a_late_answer_is_no_answer_to_a_greeting(tmp_path: Path) -> None:
    """What the dead relay had asked for comes when the next one greets."""

    def relay(**keywords: Any) -> Relay:
        return make_relay("cdprox-sgt", **keywords)

    plan = {(6, node): [Fault.DELAY_REPLY] for node in range(5)}
    grid = NodesGrid(PlannedSchedule(plan))
    grid.greets_calmly = False
    last = run_with_deaths(relay, grid, 6, [3], tmp_path, 2)
    assert last.resumed_from == 2
    assert grid.happened[Fault.DELAY_REPLY] == 5
    assert len(grid.acknowledged(0)) > 5
    check(grid, last)


def test_a_run_with_deaths_gets_where_it_should(tmp_path: Path) -> None:
    """With a relay that dies every fifth round the models get to the optimum."""

    def relay(**keywords: Any) -> Relay:
        return make_relay("malcom", step_size=0.05, l1=0.0, **keywords)

    grid = NodesGrid()
    grid.compares = False
    last = run_with_deaths(relay, grid, 60, [5] * 20, tmp_path, 3)
    check(grid, last)
    optimum = (CURVATURES * TARGETS).sum(axis=0) / CURVATURES.sum(axis=0)
    mean = np.mean([to_vector(m) for m in last.node_models.values()], axis=0)
    begin = float(np.linalg.norm(INITIAL - optimum))
    assert float(np.linalg.norm(mean - optimum)) < 0.15 * begin


@every_algorithm
def test_nodes_that_forget_everything_begin_with_the_last_mean(
    algorithm: str, tmp_path: Path
) -> None:
    """A simulation that is started again: new nodes, and an old relay."""

    def relay(**keywords: Any) -> Relay:
        return make_relay(algorithm, collect_every=2, **keywords)

    saved = {"checkpoint_dir": tmp_path, "checkpoint_every": 4, "resume": True}

    def die(server_round: int) -> None:
        if server_round == 7:
            raise KilledError

    first = relay(**saved)
    with contextlib.suppress(KilledError):
        run(first, NodesGrid(), 7, after_round=die)
    grid, second = NodesGrid(), relay(**saved)
    run(second, grid, 6)
    assert second.resumed_from == 4
    check(grid, second)
    begun = [d.model for d in grid.sent[0] if d.model is not None]
    np.testing.assert_array_equal(begun[0], begun[-1])
    assert not np.array_equal(begun[0], INITIAL)


def test_nodes_say_that_they_have_no_model(tmp_path: Path) -> None:
    """The checkpoint is of a time when they had one."""
    grid = NodesGrid()

    def forget(delivery: Delivery) -> None:
        if delivery.round == 6 and not delivery.forget:
            for context in grid.contexts.values():
                context.state.clear()

    grid.before_exchange = forget
    # The last one that has a model, as far as the relay knows, does not come back.
    grid.is_away = lambda exchange, node: node == 4 and 6 <= exchange <= 8
    last = run_with_deaths(make_relay, grid, 9, [8], tmp_path, 4)
    assert last.resumed_from == 4
    first = [d for d in grid.sent[0] if d.forget][0]
    assert first.acked == 4
    assert grid.answers[0, first.number, 0].empty
    assert [d.round for d in grid.sent[0] if d.model is not None] == [1, 6]
    check(grid, last)


@pytest.mark.parametrize("with_file", [True, False])
def test_the_relay_and_a_node_restart_at_once(with_file: bool, tmp_path: Path) -> None:
    grid = NodesGrid(state_dir=tmp_path / "nodes" if with_file else None)

    def relay(**keywords: Any) -> Relay:
        if keywords["resume"] and (tmp_path / "relay").exists():
            grid.contexts[1003].state.clear()
        return make_relay("cdprox-sgt", "ring", **keywords)

    last = run_with_deaths(relay, grid, 9, [5], tmp_path / "relay", 2)
    assert last.resumed_from == 4
    check(grid, last)


# -- the rules matter ------------------------------------------------------------------


def keep_track(self: PostOffice) -> None:
    """The resumed relay takes its nodes to be where it is."""


def begin_where_it_was(self: PostOffice) -> None:
    """A node that has yet to begin, for all the checkpoint knows, may do so."""
    for node, box in enumerate(self.boxes):
        box.forget, box.sent = not box.contract, None
        if not box.model:
            self._break(node)


def test_a_relay_that_does_not_lose_track_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attempt(name: str) -> None:
        grid = NodesGrid()
        last = run_with_deaths(make_relay, grid, 9, [5], tmp_path / name, 3)
        assert last.resumed_from == 3
        # Every node goes on with its own model: nobody has lost anything.
        assert all(d.contract is None for d in grid.sent[0][1:])
        check(grid, last)

    attempt("right")
    monkeypatch.setattr(PostOffice, "lose_track", keep_track)
    with pytest.raises(AssertionError):
        attempt("wrong")


def test_a_node_that_began_after_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbours have moved on, and the relay has forgotten that."""

    def attempt(name: str) -> None:
        grid = NodesGrid()
        lost = grid._grid.client_app

        def deaf(message: Any, context: Any) -> Any:
            config = message.content.get("config", {})
            if context.node_id == 1003 and 0 < config.get("server-round", 0) < 7:
                state = grid.sent[2]
                if state:
                    raise RuntimeError("not yet")
            return lost(message, context)

        grid._grid.client_app = deaf
        last = run_with_deaths(make_relay, grid, 9, [6], tmp_path / name, 3)
        assert last.resumed_from == 3
        check(grid, last)

    attempt("right")
    monkeypatch.setattr(PostOffice, "lose_track", begin_where_it_was)
    with pytest.raises(AssertionError):
        attempt("wrong")


# -- settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "topology", "keywords"),
    [
        ("choco", "ring", {}),
        ("malcom", "complete", {}),
        ("malcom", "one-peer-exponential", {}),
        ("malcom", "ring", {"consensus_step": 0.3}),
        ("malcom", "ring", {"l1": 0.5}),
        ("malcom", "ring", {"seed": 4}),
        ("malcom", "ring", {"rate": 0.5}),
        ("malcom", "ring", {"code": "entropy"}),
        ("malcom", "ring", {"operator": "top-k"}),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    algorithm: str, topology: str, keywords: dict[str, Any], tmp_path: Path
) -> None:
    saved: dict[str, Any] = {"checkpoint_dir": tmp_path, "checkpoint_every": 2}
    start(make_relay(**saved), in_process(), dies_after=5)
    with pytest.raises(ConfigurationError, match="of another run"):
        start(
            make_relay(algorithm, topology, **keywords, **saved, resume=True),
            in_process(),
        )
    with pytest.raises(ConfigurationError, match="expected an empty folder"):
        start(make_relay(**saved), in_process())


def test_a_checkpoint_of_another_strategy_is_refused(tmp_path: Path) -> None:
    saved: dict[str, Any] = {"checkpoint_dir": tmp_path, "checkpoint_every": 2}
    start(make_relay(**saved), in_process(), dies_after=5)
    with pytest.raises(ConfigurationError, match="of another run"):
        MCM(**saved, resume=True).start(in_process(), to_record(INITIAL), 3)
