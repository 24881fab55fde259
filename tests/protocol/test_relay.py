"""Neighbours' estimates are equal, whatever happens to the messages on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flower_compress.clients.gossip import mod as gossip
from flower_compress.clients.gossip import settle as gossip_settle
from flower_compress.strategies import Relay
from flower_compress.strategies.relay import post_office
from flower_compress.strategies.relay.post_office import PostOffice
from flower_compress.testing import Fault, RandomFaults
from flower_compress.wire.mail import Delivery, Letter
from tests.protocol.faulty import (
    DELAYS,
    DUPLICATES,
    NO_FAULTS,
    DrawnSchedule,
    PlannedSchedule,
    random_faults,
    swarms,
)
from tests.protocol.relay_wire import (
    ALGORITHMS,
    OPERATORS,
    TOPOLOGIES,
    NodesGrid,
    check,
    check_folds,
    make_relay,
    on_graphs,
    run,
    run_with_deaths,
)
from tests.strategies.problem import CURVATURES, NUM_CLIENTS, TARGETS

SHORT = 15
every_topology = pytest.mark.parametrize("topology", TOPOLOGIES)
CASES = [
    *(("malcom", operator) for operator in OPERATORS),
    ("choco", "unbiased"),
    ("cdprox-sgt", "dithered"),
    ("cdprox-sgt", "rand-k"),
]
"""CHOCO-SGD differs in its step only."""


def lossy(seed: int) -> RandomFaults:
    """A fifth of all messages is lost each way, and much else happens."""
    return RandomFaults(
        seed=seed,
        lose_messages=0.2,
        lose_replies=0.2,
        duplicate=0.1,
        delay=0.1,
        raise_before=0.05,
        raise_after=0.05,
        raise_outside=0.05,
    )


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes of models as small as these are broken too when they grow too long."""
    monkeypatch.setattr(post_office, "_LEAST_ROOM", 0)


def num_snapshots(grid: NodesGrid) -> int:
    return sum(
        letter.snapshot
        for deliveries in grid.sent.values()
        for delivery in deliveries
        for letter in delivery.letters
    )


# -- the invariant ---------------------------------------------------------------------


@on_graphs("algorithm operator", CASES)
def test_estimates_are_the_fold_of_what_was_taken_in(
    algorithm: str, topology: str, operator: str
) -> None:
    """Byte for byte, at the node and at all its neighbours, however late it came."""
    relay, grid = make_relay(algorithm, topology, operator), NodesGrid(lossy(1))
    run(relay, grid, SHORT, calm_rounds=3)
    assert check_folds(grid, relay) > 3 * SHORT
    assert num_snapshots(grid) == 0
    assert {Fault.LOSE_MESSAGE, Fault.LOSE_REPLY, *DELAYS, *DUPLICATES} < set(
        grid.happened
    )
    check(grid, relay)


@every_topology
def test_vectors_that_travel_as_they_are_count_once(topology: str) -> None:
    for seed in range(3):
        relay, grid = make_relay("dpsgd", topology), NodesGrid(lossy(seed))
        run(relay, grid, SHORT, calm_rounds=2)
        check(grid, relay)


@on_graphs("algorithm", ALGORITHMS)
def test_neighbours_agree_after_restarts(
    algorithm: str, topology: str, no_room: None
) -> None:
    """Nodes lose their state, boxes overflow, and everybody is told anew."""
    for seed, operator in enumerate(("dithered", "unbiased")):
        relay = make_relay(algorithm, topology, operator)
        grid = NodesGrid(random_faults(seed, 0.15))
        run(relay, grid, SHORT)
        check(grid, relay)
        assert set(grid.happened) == set(Fault)
        assert num_snapshots(grid) > 0 or algorithm == "dpsgd"


@pytest.mark.parametrize("returns", ["gradient", "weights"])
def test_a_node_keeps_its_place_if_its_file_does(returns: Any, tmp_path: Path) -> None:
    """Contexts are emptied, files are not: nobody needs a snapshot."""
    grid = NodesGrid(random_faults(2, 0.15), returns, state_dir=tmp_path)
    relay = make_relay()
    run(relay, grid, SHORT)
    assert check_folds(grid, relay) > 2 * SHORT
    assert grid.restarted
    assert num_snapshots(grid) == 0
    assert not any(context.state for context in grid.contexts.values())


def away(grid: NodesGrid, num_nodes: int) -> None:
    """Let up to so many nodes be away for some exchanges, by turns."""
    grid.is_away = lambda exchange, node: (
        grid.faults is not NO_FAULTS and (5 * (exchange // 4) + node) % 11 < num_nodes
    )


def attempt(
    data: st.DataObject, faults: RandomFaults | None, tmp_path: Path | None
) -> None:
    draw = data.draw
    algorithm = draw(st.sampled_from(list(ALGORITHMS)), label="algorithm")
    topology = draw(st.sampled_from(list(TOPOLOGIES)), label="topology")
    operator = draw(st.sampled_from(list(OPERATORS)), label="operator")
    keywords = {
        "evaluate_at_nodes": draw(st.booleans(), label="evaluate"),
        "collect_every": draw(st.sampled_from([0, 2]), label="collect"),
    }
    grid = NodesGrid(DrawnSchedule(data) if faults is None else faults)
    away(grid, draw(st.integers(0, 3), label="nodes away"))

    def relay(**more: Any) -> Relay:
        return make_relay(algorithm, topology, operator, **keywords, **more)

    if tmp_path is None:
        last = relay()
        run(last, grid, draw(st.integers(1, 10), label="rounds"))
    else:
        deaths = draw(st.lists(st.integers(1, 4), max_size=3), label="deaths")
        folder = tmp_path / str(sum(1 for _ in tmp_path.iterdir()))
        last = run_with_deaths(relay, grid, 8, deaths, folder, 2)
    check(grid, last)


quick = settings(
    max_examples=20,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@quick
@given(data=st.data(), faults=swarms())
def test_swarms_of_faults(data: st.DataObject, faults: RandomFaults) -> None:
    attempt(data, faults, None)


@quick
@given(data=st.data(), faults=swarms())
def test_swarms_of_faults_in_small_boxes(
    data: st.DataObject, faults: RandomFaults
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(post_office, "_LEAST_ROOM", 0)
        attempt(data, faults, None)


@settings(quick, max_examples=500, derandomize=False)
@given(data=st.data(), faults=swarms(), small=st.booleans())
@pytest.mark.slow
def test_a_thousand_swarms(
    data: st.DataObject,
    faults: RandomFaults,
    small: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        if small:
            monkeypatch.setattr(post_office, "_LEAST_ROOM", 0)
        attempt(data, faults, tmp_path_factory.mktemp("relay"))


@settings(quick, max_examples=300, derandomize=False)
@given(data=st.data())
@pytest.mark.slow
def test_schedules_that_shrink(data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(post_office, "_LEAST_ROOM", 0)
        attempt(data, None, None)


# -- learning --------------------------------------------------------------------------


def test_two_hundred_lossy_rounds_get_where_others_get() -> None:
    """A fifth of the messages is lost each way; the models end as near the optimum."""

    def distances(faults: RandomFaults) -> tuple[float, float]:
        relay = make_relay("malcom", step_size=0.02, l1=0.0)
        grid = NodesGrid(faults)
        grid.compares = False  # the folds are in the end
        models = run(relay, grid, 250, calm_rounds=3)
        assert check_folds(grid, relay) > 500
        mean = np.mean(list(models.values()), axis=0)
        consensus = sum(relay.distances.values()) / NUM_CLIENTS
        return float(np.linalg.norm(mean - optimum)), consensus

    optimum = (CURVATURES * TARGETS).sum(axis=0) / CURVATURES.sum(axis=0)
    calm = distances(RandomFaults(reorder=False))
    lost = distances(RandomFaults(seed=4, lose_messages=0.2, lose_replies=0.2))
    begin = float(np.linalg.norm(np.linspace(-1, 1, len(optimum)) - optimum))
    assert calm[0] < 0.1 * begin
    assert lost[0] < 0.1 * begin
    assert lost[1] < 4 * calm[1]


@on_graphs("algorithm operator", [*CASES, ("dpsgd", "dithered")])
def test_gossip_preserves_the_average(
    algorithm: str, topology: str, operator: str
) -> None:
    """Eq. (8): sum_i x_i = sum_i z_i, to the rounding of the x_i to float32."""
    relay = make_relay(algorithm, topology, operator, collect_every=1)
    grid = NodesGrid()
    before: list[Mapping[str, Any]] = []
    num_compared = 0

    def note(_: Any) -> None:
        before[:] = [grid.state(node).vectors for node in grid.sent]

    def compare(name: str) -> None:
        nonlocal num_compared
        z = np.array([v[name] for v in before], dtype=np.float64)
        x = np.array([grid.state(i).vectors[name] for i in grid.sent], np.float64)
        scale = float(np.abs(z).max() + np.abs(x).max())
        atol = NUM_CLIENTS * 2**-23 * scale
        np.testing.assert_allclose(x.sum(0), z.sum(0), rtol=0, atol=atol)
        assert not np.array_equal(x, z)
        num_compared += 1

    def after_exchange(delivery: Delivery) -> None:
        if delivery.collect:
            compare("model")
        elif delivery.phase == 1:
            compare("tracker")

    grid.before_exchange = lambda delivery: delivery.number > 1 and note(delivery)
    grid.after_exchange = after_exchange
    run(relay, grid, 5, calm_rounds=0)
    assert num_compared == 5 * relay.num_phases


# -- the rules matter ------------------------------------------------------------------

_deliver, _take_in, _break = PostOffice.deliver, PostOffice.take_in, PostOffice._break
_acknowledge, _read_letters = gossip_settle._acknowledge, gossip_settle._read_letters


def skip_what_is_lost(self: PostOffice, node: int, *rest: Any) -> Delivery:
    """What was sent once is not sent again."""
    delivery = _deliver(self, node, *rest)
    box = self.boxes[node]
    box.first += len(box.letters)
    box.letters.clear()
    return delivery


def fold_at_once(state: Any, delivery: Delivery, contract: Any) -> Any:
    """The node takes for granted that its payload has arrived."""
    if state.pending:
        acked = state.pending[0].version, state.pending_crc
        delivery = replace(delivery, acked=acked[0], crc=acked[1])
    return _acknowledge(state, delivery, contract)


def fold_never(state: Any, delivery: Delivery, contract: Any) -> Any:
    """The node does not hear that its payload has arrived."""
    return _acknowledge(state, replace(delivery, crc=0, forget=True), contract)


def ignore_the_crc(state: Any, delivery: Delivery, contract: Any) -> Any:
    """The version alone says which payload counted."""
    return _acknowledge(state, replace(delivery, crc=state.pending_crc), contract)


def read_all(state: Any, delivery: Delivery, contract: Any) -> Any:
    """Letters that were read before are read again."""
    return _read_letters(replace(state, received=delivery.first), delivery, contract)


def accept_answers_twice(self: PostOffice, node: int, posting: Any) -> None:
    """A second answer to a delivery counts as well."""
    sent = self.boxes[node].sent
    _take_in(self, node, posting)
    self.boxes[node].sent = sent


def confirm_what_came_after(self: PostOffice, node: int) -> None:
    """An answer to an earlier request to forget counts for this one."""
    box = self.boxes[node]
    sent, box.sent = box.sent, None
    _break(self, node)
    box.sent = sent


def never_forget(self: PostOffice, node: int) -> None:
    """A node is told anew on top of what it holds."""
    _break(self, node)
    self.boxes[node].rebuild = False


def lose_nobody(self: PostOffice, node: int) -> None:
    """Neighbours of a node that lost its state go on as if it had not."""
    box = self.boxes[node]
    box.contract, box.model, box.acked, box.crc = True, False, 0, 0


def begin_with_all(state: Any, delivery: Delivery, *rest: Any) -> Any:
    """A node that begins late takes its neighbours to begin as well."""
    if delivery.model is not None and delivery.rebuild:
        state = replace(state, received=delivery.first)
        delivery = replace(delivery, rebuild=False)
    return _settle(state, delivery, *rest)


_settle = gossip_settle.settle


def shuffle(self: PostOffice, reader: int, letters: list[Letter]) -> None:
    """Letters stand in the box in another order."""
    _put(self, reader, letters)
    self.boxes[reader].letters.rotate(1)


_put = PostOffice._put


def gentle() -> None:
    """Messages are lost, and nobody needs a snapshot."""
    for seed in range(3):
        algorithm = ("malcom", "cdprox-sgt")[seed % 2]
        relay = make_relay(algorithm, "complete")
        grid = NodesGrid(lossy(seed))
        run(relay, grid, 10, calm_rounds=3)
        check_folds(grid, relay)
        assert num_snapshots(grid) == 0


def rough() -> None:
    """Everything happens."""
    num_compared = 0
    for seed in range(8):
        algorithm = ("malcom", "cdprox-sgt")[seed % 2]
        relay = make_relay(algorithm, "complete", evaluate_at_nodes=seed % 4 < 2)
        grid = NodesGrid(random_faults(seed, 0.3))
        away(grid, seed % 3)
        run(relay, grid, 10)
        check(grid, relay)
        num_compared += grid.num_compared
    assert num_compared > 500


def answered_twice() -> None:
    """An answer comes again when its node is away, and nothing is expected of it."""
    grid = NodesGrid(PlannedSchedule({(3, 2): [Fault.DUPLICATE_REPLY]}))
    grid.is_away = lambda exchange, node: node == 2 and exchange == 4
    relay = make_relay("malcom", "complete")
    run(relay, grid, 6, calm_rounds=2)
    assert grid.happened[Fault.DUPLICATE_REPLY] == 1
    check_folds(grid, relay)


def stepped_twice() -> None:
    """A node that lost its state answers a message once more, and otherwise."""
    plan = {
        (1, 0): [Fault.RESTART_AFTER, Fault.DUPLICATE_MESSAGE],
        (2, 0): [Fault.LOSE_MESSAGE],
    }
    grid = NodesGrid(PlannedSchedule(plan))
    relay = make_relay("malcom", "complete")
    run(relay, grid, 4)
    versions = [version for node, version, _ in grid.answers if node == 0]
    assert versions.count(1) == 2
    check(grid, relay)


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("scenario", [gentle, rough, answered_twice, stepped_twice])
def test_a_scenario_is_right(scenario: Callable[[], None]) -> None:
    scenario()


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize(
    ("scenario", "target", "name", "broken"),
    [
        (gentle, PostOffice, "deliver", skip_what_is_lost),
        (gentle, PostOffice, "_put", shuffle),
        (gentle, gossip_settle, "_acknowledge", fold_at_once),
        (gentle, gossip_settle, "_acknowledge", fold_never),
        (gentle, gossip_settle, "_read_letters", read_all),
        (answered_twice, PostOffice, "take_in", accept_answers_twice),
        (stepped_twice, gossip_settle, "_acknowledge", ignore_the_crc),
        (rough, PostOffice, "_break", confirm_what_came_after),
        (rough, PostOffice, "_break", never_forget),
        (rough, PostOffice, "lose", lose_nobody),
        (rough, PostOffice, "is_lost", False),
        (rough, gossip_settle, "settle", begin_with_all),
    ],
)
def test_a_broken_rule_is_caught(
    monkeypatch: pytest.MonkeyPatch,
    scenario: Callable[[], None],
    target: Any,
    name: str,
    broken: Any,
) -> None:
    monkeypatch.setattr(target, name, broken)
    if target is gossip_settle and name == "settle":
        monkeypatch.setattr(gossip, name, broken)
    with pytest.raises(AssertionError):
        scenario()
