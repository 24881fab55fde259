"""Every topology satisfies assumption 1; what does not is refused by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from math import cos, pi

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flower_compress.errors import (
    ConfigurationError,
    MissingExtraError,
    UnknownNameError,
)
from flower_compress.strategies.topology import (
    TOPOLOGIES,
    Schedule,
    Topology,
    complete,
    erdos_renyi,
    exponential,
    from_graph,
    from_matrix,
    get_topology,
    metropolis_hastings,
    one_peer_exponential,
    ring,
    ring_like,
    star,
    torus,
)
from tests.cases import in_one_test

Matrix = NDArray[np.float64]
UNDIRECTED = sorted(set(TOPOLOGIES) - {"one-peer-exponential"})
# Sizes that every topology has, a torus among them.
SIZES = (4, 6, 8, 9, 10, 12, 16, 25)

sizes = st.integers(1, 24)


@st.composite
def graphs(draw: st.DrawFn) -> NDArray[np.bool_]:
    """Adjacencies of connected graphs: a random tree and random edges on top."""
    n = draw(sizes)
    edges = np.zeros((n, n), dtype=bool)
    for i in range(1, n):
        edges[i, draw(st.integers(0, i - 1))] = True
    generator = np.random.default_rng(draw(st.integers(0, 999)))
    edges |= generator.random((n, n)) < draw(st.floats(0, 1))
    edges |= edges.T
    return edges


def named(name: str, n: int) -> Topology:
    made = get_topology(name, n)
    assert isinstance(made, Topology)
    return made


def neighbours(topology: Topology) -> list[list[int]]:
    nodes = range(topology.num_nodes)
    return [[j for j, _ in topology.neighbours(i)] for i in nodes]


def check_assumption_1(topology: Topology) -> None:
    W, n = topology.mixing, topology.num_nodes
    assert W.shape == (n, n) and W.dtype == np.float64
    assert W.min() >= 0
    np.testing.assert_array_equal(W, W.T)
    np.testing.assert_allclose(W.sum(axis=0), 1, rtol=0, atol=1e-12)
    assert nx.is_connected(nx.from_numpy_array(W))


def cycle(n: int) -> Matrix:
    """Return the mixing matrix in which every node takes half from the next."""
    return (np.eye(n) + np.roll(np.eye(n), 1, axis=1)) / 2


def changed(matrix: Matrix, *entries: tuple[int, int, float]) -> Matrix:
    matrix = matrix.copy()
    for i, j, value in entries:
        matrix[i, j] = value
    return matrix


# ---------------------------------------------------------------- the constructors


@in_one_test("name", UNDIRECTED)
@in_one_test("n", SIZES)
def test_every_topology_satisfies_assumption_1(name: str, n: int) -> None:
    topology = named(name, n)
    check_assumption_1(topology)
    assert topology.name == name and topology.num_nodes == n
    assert 0 <= topology.spectral_gap <= 1


@given(n=sizes)
@settings(deadline=None)
def test_every_size_satisfies_assumption_1(n: int) -> None:
    for name in set(UNDIRECTED) - {"torus"}:
        check_assumption_1(named(name, n))


@given(rows=st.integers(1, 6), columns=st.integers(1, 6))
@settings(deadline=None)
def test_a_torus_is_the_periodic_grid(rows: int, columns: int) -> None:
    topology = torus(rows, columns)
    check_assumption_1(topology)
    grid = nx.grid_2d_graph(rows, columns, periodic=True)
    other = from_graph(grid, "torus")
    np.testing.assert_array_equal(topology.mixing, other.mixing)


@pytest.mark.parametrize("name", sorted(TOPOLOGIES))
def test_one_node_or_two(name: str) -> None:
    if name == "torus":
        assert (torus(1, 1).mixing == 1).all() and (torus(2, 1).mixing == 0.5).all()
        return
    for n in (1, 2):
        made = get_topology(name, n)
        W = made.mixing if isinstance(made, Topology) else made.matrices[0]
        np.testing.assert_array_equal(W, np.full((n, n), 1 / n))
        assert made.spectral_gap == pytest.approx(1)


def test_the_weights_of_a_ring_are_thirds() -> None:
    W = ring(5).mixing
    np.testing.assert_allclose(W[W > 0], 1 / 3, rtol=1e-15)
    assert neighbours(ring(5)) == [[1, 4], [0, 2], [1, 3], [2, 4], [0, 3]]


def test_ring_like_joins_opposite_nodes() -> None:
    topology = ring_like()
    assert topology.num_nodes == 10 and topology.num_edges == 15
    for i in range(10):
        expected = sorted({(i + 1) % 10, (i - 1) % 10, (i + 5) % 10})
        assert neighbours(topology)[i] == expected
    np.testing.assert_allclose(topology.mixing[topology.mixing > 0], 1 / 4)
    assert neighbours(ring_like(5)) == [
        [1, 2, 4],
        [0, 2, 3],
        [0, 1, 3, 4],
        [1, 2, 4],
        [0, 2, 3],
    ]


def test_a_star_has_one_centre() -> None:
    assert neighbours(star(4)) == [[1, 2, 3], [0], [0], [0]]
    assert [star(4).degree(i) for i in range(4)] == [3, 1, 1, 1]


def test_complete_averages_exactly() -> None:
    for n in (1, 3, 7, 49):
        np.testing.assert_array_equal(complete(n).mixing, np.full((n, n), 1 / n))
        assert complete(n).spectral_gap == pytest.approx(1, abs=1e-12)


def test_exponential_joins_powers_of_two() -> None:
    for i, joined in enumerate(neighbours(exponential(12))):
        hops = (1, 2, 4, 8)
        expected = {(i + hop) % 12 for hop in hops} | {(i - hop) % 12 for hop in hops}
        assert joined == sorted(expected)


@given(n=st.integers(2, 15), seed=st.integers(0, 99))
@settings(deadline=None)
def test_erdos_renyi_is_a_function_of_its_seed(n: int, seed: int) -> None:
    first, second = erdos_renyi(n, 0.5, seed), erdos_renyi(n, 0.5, seed)
    np.testing.assert_array_equal(first.mixing, second.mixing)


def test_erdos_renyi_takes_the_first_connected_graph() -> None:
    for seed in range(20):
        draws = (nx.gnp_random_graph(12, 0.15, seed=seed + k) for k in range(1000))
        graph = next(graph for graph in draws if nx.is_connected(graph))
        expected = from_graph(graph).mixing
        np.testing.assert_array_equal(erdos_renyi(12, 0.15, seed).mixing, expected)
    mixings = {erdos_renyi(12, 0.5, seed).mixing.tobytes() for seed in range(20)}
    assert len(mixings) == 20
    np.testing.assert_allclose(erdos_renyi(6, 1).mixing, 1 / 6)


def test_a_named_torus_is_as_square_as_can_be() -> None:
    for n, sides in {4: (2, 2), 10: (2, 5), 12: (3, 4), 16: (4, 4), 24: (4, 6)}.items():
        np.testing.assert_array_equal(named("torus", n).mixing, torus(*sides).mixing)


# --------------------------------------------------------------------- the weights


@given(edges=graphs())
@settings(deadline=None)
def test_metropolis_hastings_is_the_formula(edges: NDArray[np.bool_]) -> None:
    n = len(edges)
    joined = [[j for j in range(n) if edges[i, j] and j != i] for i in range(n)]
    expected = np.zeros((n, n))
    for i in range(n):
        for j in joined[i]:
            expected[i, j] = 1 / (1 + max(len(joined[i]), len(joined[j])))
        expected[i, i] = 1 - sum(expected[i, j] for j in joined[i])
    for adjacency in (edges, edges.astype(int), edges.tolist()):
        W = metropolis_hastings(adjacency)
        np.testing.assert_allclose(W, expected, rtol=0, atol=1e-14)
    topology = from_matrix(W)
    check_assumption_1(topology)
    assert neighbours(topology) == joined
    assert [topology.degree(i) for i in range(n)] == [len(js) for js in joined]
    assert topology.num_edges == sum(len(js) for js in joined) // 2
    for i in range(n):
        assert all(w == topology.mixing[i, j] for j, w in topology.neighbours(i))


@given(edges=graphs())
@settings(deadline=None)
def test_a_graph_and_its_adjacency_agree(edges: NDArray[np.bool_]) -> None:
    graph = nx.from_numpy_array(edges)
    nx.set_edge_attributes(graph, 7.5, "weight")
    expected = metropolis_hastings(nx.to_numpy_array(graph, weight=None))
    np.testing.assert_array_equal(from_graph(graph).mixing, expected)


def test_the_nodes_of_a_graph_are_sorted_where_they_can_be() -> None:
    path = nx.Graph([(2, 0), (0, 1)])
    assert neighbours(from_graph(path)) == [[1, 2], [0], [0]]
    mixed = nx.Graph([("b", 0), (0, "a")])
    assert neighbours(from_graph(mixed)) == [[1], [0, 2], [1]]
    parallel = nx.MultiGraph([(0, 1), (0, 1), (1, 1), (1, 2)])
    assert neighbours(from_graph(parallel)) == [[1], [0, 2], [1]]


def test_the_name_of_a_graph() -> None:
    assert from_graph(nx.path_graph(3)).name == "graph"
    assert from_graph(nx.petersen_graph()).name == "Petersen Graph"
    assert from_graph(nx.petersen_graph(), "mine").name == "mine"


# ----------------------------------------------------------------- the spectral gap


@given(n=st.integers(3, 40))
def test_the_gap_of_a_ring_has_a_closed_form(n: int) -> None:
    # The eigenvalues are (1 + 2 cos(2 pi k / n)) / 3, none below -1/3.
    second = max(abs(1 + 2 * cos(2 * pi * k / n)) / 3 for k in range(1, n))
    assert ring(n).spectral_gap == pytest.approx(1 - second, abs=1e-12)
    if n >= 4:
        assert second == pytest.approx((1 + 2 * cos(2 * pi / n)) / 3)


def test_the_gap_counts_negative_eigenvalues() -> None:
    # On two nodes w_ii = 1/5 gives the eigenvalue -3/5, and w_ii = 0 gives -1.
    assert from_matrix([[0.2, 0.8], [0.8, 0.2]]).spectral_gap == pytest.approx(0.4)
    assert from_matrix([[0, 1], [1, 0]]).spectral_gap == pytest.approx(0, abs=1e-12)


@given(edges=graphs(), seed=st.integers(0, 99))
@settings(deadline=None)
def test_consensus_comes_at_the_rate_of_the_gap(
    edges: NDArray[np.bool_], seed: int
) -> None:
    topology = from_matrix(metropolis_hastings(edges))
    x = np.random.default_rng(seed).normal(size=(topology.num_nodes, 3))
    mean, start = x.mean(axis=0), np.linalg.norm(x - x.mean(axis=0))
    for t in range(1, 30):
        x = topology.mixing @ x
        np.testing.assert_allclose(x.mean(axis=0), mean, atol=1e-12)
        bound = (1 - topology.spectral_gap) ** t * start
        assert np.linalg.norm(x - mean) <= bound + 1e-12


def test_the_rate_of_the_gap_is_reached() -> None:
    for topology in (ring(8), ring_like(), star(6), torus(3, 4)):
        values, vectors = np.linalg.eigh(topology.mixing)
        x = vectors[:, np.argsort(np.abs(values))[-2]]
        length = np.linalg.norm(topology.mixing @ x)
        assert length == pytest.approx(1 - topology.spectral_gap)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), r"expected a square matrix, got shape \(2, 3\)"),
        (np.ones(4), r"expected a square matrix, got shape \(4,\)"),
        (np.ones((0, 0)), r"square matrix, got shape \(0, 0\).*at least one"),
        ([[1.0], [0.5, 0.5]], "rows of different lengths"),
        (np.eye(2) * 1j, "real numbers, got dtype complex128"),
        ([["a"]], "real numbers, got dtype <U1"),
        (changed(ring(4).mixing, (1, 2, np.nan)), r"^w\[1, 2\] = nan is not finite"),
        (changed(ring(4).mixing, (3, 0, -np.inf)), r"^w\[3, 0\] = -inf is not finite"),
        (
            changed(ring(5).mixing, (1, 4, -0.1), (4, 1, -0.1)),
            r"^w\[1, 4\] = -0\.1 is negative",
        ),
        (
            changed(complete(6).mixing, (2, 5, 0.3), (5, 2, 0.25)),
            r"^w\[2, 5\] = 0\.3 and w\[5, 2\] = 0\.25: .*must be symmetric",
        ),
        (
            changed(complete(5).mixing, (3, 3, 0.1)),
            r"^row 3 sums to 0\.9: .*must sum to 1",
        ),
        (np.full((2, 2), 1e308), "row 0 sums to inf"),
        (np.eye(3), "node 1 cannot be reached from node 0.*add an edge"),
        (
            np.kron(np.diag([0, 1]), complete(4).mixing)
            + np.kron(np.diag([1, 0]), complete(4).mixing),
            "^node 4 cannot be reached from node 0",
        ),
    ],
)
def test_what_breaks_assumption_1_is_named(matrix: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        from_matrix(matrix)  # type: ignore[arg-type]


def test_the_tolerance_is_for_rounding_alone() -> None:
    W = complete(4).mixing
    for deviation, refused in ((5e-10, False), (2e-9, True)):
        for entries in (
            ((0, 1, W[0, 1] + deviation),),
            ((0, 0, W[0, 0] + deviation),),
        ):
            matrix = changed(W, *entries)
            if refused:
                with pytest.raises(ConfigurationError, match="symmetric|row 0"):
                    from_matrix(matrix)
            else:
                kept = from_matrix(matrix).mixing
                np.testing.assert_array_equal(kept, kept.T)
    noisy = ring(5).mixing + np.where(ring(5).mixing == 0, 1e-17, 0)
    assert neighbours(from_matrix(noisy)) == neighbours(ring(5))
    noisy = ring(5).mixing - np.where(ring(5).mixing == 0, 1e-17, 0)
    assert from_matrix(noisy).mixing.min() == 0


@pytest.mark.parametrize(
    ("adjacency", "message"),
    [
        (np.ones((2, 3)), r"square matrix, got shape \(2, 3\)"),
        ([[0, 1, 0], [1, 0, 1], [0, 0, 0]], r"\[1, 2\] = 1 and adjacency\[2, 1\] = 0"),
        ([[0, 0.5], [0.5, 0]], r"adjacency\[0, 1\] = 0\.5: expected 0 or 1; from_mat"),
        ([[0, np.nan], [np.nan, 0]], r"adjacency\[0, 1\] = nan: expected 0 or 1"),
    ],
)
def test_what_is_no_undirected_adjacency_is_named(
    adjacency: object, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        metropolis_hastings(adjacency)  # type: ignore[arg-type]


@in_one_test("name", sorted(TOPOLOGIES))
@in_one_test("n", [0, -3, 2.5, "4"])
def test_a_number_of_nodes_is_a_positive_integer(name: str, n: int) -> None:
    with pytest.raises(ConfigurationError, match=f"positive integer, got {n!r}"):
        get_topology(name, n)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 13])
def test_a_named_torus_needs_a_product(n: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{n} is no such product: take"):
        get_topology("torus", n)


def test_a_graph_that_is_none_is_refused() -> None:
    for graph, message in (
        (
            nx.DiGraph([(0, 1)]),
            r"got DiGraph with 2 nodes.*: use graph\.to_undirected\(\)",
        ),
        (nx.Graph(), "at least one node, got Graph with 0 nodes"),
        (np.eye(3), "got ndarray.*from_matrix"),
        (nx.Graph([(0, 1), (2, 3)]), "node 2 cannot be reached"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            from_graph(graph)


@pytest.mark.parametrize("probability", [-0.1, 1.5, float("nan")])
def test_a_probability_is_one(probability: float) -> None:
    with pytest.raises(ConfigurationError, match=f"0 to 1, got {probability}"):
        erdos_renyi(5, probability)


def test_a_graph_that_is_never_connected_is_given_up() -> None:
    with pytest.raises(ConfigurationError, match=r"1000 .* raise the probability"):
        erdos_renyi(5, 0)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="unknown topology 'rung'.*ring-like"):
        get_topology("rung", 10)


def test_a_node_that_there_is_not() -> None:
    schedule = one_peer_exponential(4)
    for i in (-1, 4):
        for ask in (
            ring(4).neighbours,
            ring(4).degree,
            lambda i: schedule.receives_from(0, i),
            lambda i: schedule.sends_to(0, i),
            schedule.peers_in,
            schedule.peers_out,
        ):
            with pytest.raises(ConfigurationError, match=f"node from 0 to 3, got {i}"):
                ask(i)


# -------------------------------------------------------------------- the schedule


@given(n=sizes)
@settings(deadline=None)
def test_one_peer_exponential_has_one_peer(n: int) -> None:
    schedule = one_peer_exponential(n)
    tau = int(np.ceil(np.log2(n)))
    assert schedule.num_nodes == n and schedule.period == max(1, tau)
    for t in range(2 * schedule.period if n > 1 else 0):
        for i in range(n):
            hop = 2 ** (t % tau)
            assert schedule.receives_from(t, i) == (((i + hop) % n, 0.5),)
            assert schedule.sends_to(t, i) == (((i - hop) % n, 0.5),)
    for i in range(n):
        hops = [2**k for k in range(tau)]
        assert schedule.peers_in(i) == tuple(sorted({(i + hop) % n for hop in hops}))
        assert schedule.peers_out(i) == tuple(sorted({(i - hop) % n for hop in hops}))


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16, 32])
def test_a_period_averages_exactly_for_powers_of_two(n: int) -> None:
    schedule = one_peer_exponential(n)
    product = np.linalg.multi_dot([np.eye(n), np.eye(n), *schedule.matrices])
    np.testing.assert_array_equal(product, np.full((n, n), 1 / n))
    assert schedule.spectral_gap == 1


@given(
    n=st.integers(2, 12),
    orders=st.lists(st.integers(0, 999), max_size=4),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_a_schedule_of_permutations(n: int, orders: list[int], seed: int) -> None:
    matrices = [cycle(n)]
    for order in orders:
        generator = np.random.default_rng(order)
        moves = [np.eye(n)[generator.permutation(n)] for _ in range(3)]
        matrices.append(np.asarray(np.mean(moves, axis=0)))
    schedule = Schedule("random", tuple(matrices))
    peers_in: dict[int, set[int]] = {i: set() for i in range(n)}
    peers_out: dict[int, set[int]] = {i: set() for i in range(n)}
    for t in range(2 * schedule.period):
        received = np.zeros((n, n))
        sent = np.zeros((n, n))
        for i in range(n):
            for j, weight in schedule.receives_from(t, i):
                received[i, j] = weight
                peers_in[i].add(j)
            for j, weight in schedule.sends_to(t, i):
                sent[i, j] = weight
                peers_out[i].add(j)
        W = schedule.matrices[t % schedule.period]
        np.testing.assert_array_equal(received, W - np.diag(np.diag(W)))
        np.testing.assert_array_equal(sent, received.T)
    for i in range(n):
        assert schedule.peers_in(i) == tuple(sorted(peers_in[i]))
        assert schedule.peers_out(i) == tuple(sorted(peers_out[i]))

    x = np.random.default_rng(seed).normal(size=n)
    start = np.linalg.norm(x - x.mean())
    mean = x.mean()
    for t in range(1, 5):
        for W in schedule.matrices:
            x = W @ x
        assert x.mean() == pytest.approx(mean, abs=1e-12)
        rate = (1 - schedule.spectral_gap) ** (t * schedule.period)
        assert np.linalg.norm(x - mean) <= rate * start + 1e-12


@given(edges=graphs())
@settings(deadline=None)
def test_a_constant_schedule_has_the_topologys_gap(edges: NDArray[np.bool_]) -> None:
    topology = from_matrix(metropolis_hastings(edges))
    for period in (1, 3):
        schedule = Schedule("constant", (topology.mixing,) * period)
        gap = topology.spectral_gap
        # The root of what rounding leaves shows only where the gap is all but 1.
        assert schedule.spectral_gap == pytest.approx(gap, abs=1e-4)
        for i in range(topology.num_nodes):
            assert schedule.receives_from(2, i) == topology.neighbours(i)


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        ((), "at least one mixing matrix, got none"),
        ((cycle(3), np.ones((2, 3))), r"^matrices\[1\]: .*got shape \(2, 3\)"),
        (
            (cycle(3), cycle(4)),
            r"^matrices\[1\]: expected the shape of matrices\[0\], \(3, 3\), got \(4",
        ),
        (
            (cycle(3), changed(cycle(3), (2, 0, np.nan))),
            r"^matrices\[1\]: w\[2, 0\] = nan is not finite",
        ),
        (
            (changed(cycle(3), (0, 2, -0.25)),),
            r"^matrices\[0\]: w\[0, 2\] = -0\.25 is negative",
        ),
        (
            (cycle(3), cycle(3), changed(cycle(3), (1, 1, 0.25))),
            r"^matrices\[2\]: row 1 sums to 0\.75",
        ),
        (
            (cycle(3), np.array([[0, 1, 0], [1, 0, 0], [0.5, 0.5, 0]])),
            r"^matrices\[1\]: column 0 sums to 1\.5",
        ),
        ((np.eye(4), np.eye(4)), "node 1 cannot be reached from node 0"),
        # So little flows that the sums allow for it to flow one way.
        (
            (np.array([[1 - 0.75e-9, 0], [1.5e-9, 1 - 0.75e-9]]),),
            "node 0 cannot be reached from node 1",
        ),
    ],
)
def test_what_is_no_schedule_is_named(
    matrices: tuple[Matrix, ...], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Schedule("bad", matrices)


def test_a_schedule_need_be_connected_only_as_a_whole() -> None:
    even, odd = np.eye(4), np.eye(4)
    for W, i, j in ((even, 0, 1), (even, 2, 3), (odd, 1, 2), (odd, 3, 0)):
        W[np.ix_([i, j], [i, j])] = 1 / 2
    schedule = Schedule("matching", (even, odd))
    assert schedule.spectral_gap == 1
    for matrix in (even, odd):
        with pytest.raises(ConfigurationError, match="cannot be reached"):
            from_matrix(matrix)


def test_half_way_round_and_never_closer() -> None:
    shift = Schedule("shift", (np.roll(np.eye(5), 1, axis=1),))
    assert shift.spectral_gap == pytest.approx(0, abs=1e-12)
    # ||P - 11^T/3|| of the cycle of 3 is |1 + e^{2 pi i / 3}| / 2 = 1/2.
    assert Schedule("cycle", (cycle(3),)).spectral_gap == pytest.approx(0.5)


# -------------------------------------------------------------------- both of them


def test_matrices_are_copies_that_cannot_be_written() -> None:
    matrix = np.array(complete(3).mixing)
    topology, schedule = Topology("mine", matrix), Schedule("mine", (matrix,))
    matrix[0, 0] = 5
    for W in (topology.mixing, schedule.matrices[0]):
        assert W[0, 0] == 1 / 3
        with pytest.raises(ValueError, match="read-only"):
            W[0, 0] = 5


@pytest.mark.parametrize(
    ("make", "summary"),
    [
        (lambda: ring(10), "ring: nodes 10, edges 10, degree 2 to 2, spectral gap 0.1"),
        (lambda: star(5), "star: nodes 5, edges 4, degree 1 to 4, spectral gap 0.2"),
        (
            lambda: one_peer_exponential(8),
            "one-peer-exponential: nodes 8, period 3, receives from 1 to 1 a round, "
            "spectral gap 1 a round",
        ),
    ],
)
def test_a_summary_is_a_line(
    make: Callable[[], Topology | Schedule], summary: str
) -> None:
    assert make().summary().startswith(summary)
    assert "\n" not in make().summary()


def test_networkx_is_needed_only_where_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = nx.path_graph(3)
    monkeypatch.setitem(sys.modules, "networkx", None)
    for name in set(TOPOLOGIES) - {"erdos-renyi"}:
        get_topology(name, 6)
    with pytest.raises(MissingExtraError, match=r"networkx .*compress\[simulation\]"):
        erdos_renyi(6, 0.5)
    with pytest.raises(MissingExtraError, match=r"networkx .*compress\[simulation\]"):
        from_graph(graph)


def test_the_module_does_not_import_networkx() -> None:
    code = (
        "import sys, flower_compress.strategies.topology; "
        "sys.exit('networkx' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
