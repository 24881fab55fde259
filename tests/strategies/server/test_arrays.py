"""Which arrays are compressed: small ones dense, and statistics under any name."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flower_compress import (
    ArrayRule,
    CompressionMod,
    Direct,
    Identity,
    Memory,
    PerArray,
    RotatedQuantizer,
    TopK,
)
from flower_compress.compressors import Parts
from flower_compress.errors import ConfigurationError, UnknownNameError
from flower_compress.strategies import (
    DEFAULT_COMPRESSOR,
    MCM,
    SGD,
    Artemis,
    CompressedStrategy,
    Diana,
    Dore,
    DoubleSqueeze,
    MalcomPSGD,
    RandMCM,
    SparsAMS,
)
from flower_compress.strategies.server.arrays import resolve, ties_of
from flower_compress.strategies.topology import ring
from flower_compress.testing import InProcessGrid
from flower_compress.wire.layout import Layout
from simulations.settings import Settings

QUANTIZER = RotatedQuantizer(step=1.5)
NUM_CLIENTS = 6


def layout_of(**shapes: tuple[int, ...]) -> Layout:
    return Layout.from_config(
        [[name, list(shape), "float32", False] for name, shape in shapes.items()]
    )


def dense_names(layout: Layout, compressor: Any = QUANTIZER) -> list[str]:
    link = resolve(Memory(compressor), "dense", layout)
    if not isinstance(link.compressor, Parts):
        return []
    operators = [link.compressor.operators[group] for group in link.compressor.groups]
    names = [name for name, _ in layout.shapes]
    return [n for n, op in zip(names, operators, strict=True) if op == Identity()]


@pytest.fixture
def messages(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[str]]:
    """What Flower's log has said."""
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    caplog.set_level(logging.INFO, logger="flwr")
    return lambda: [record.getMessage() for record in caplog.records]


# --- Which are small ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        # All of one dimension, or none, are 2 % of a large model ...
        ({"w": (1000, 98), "b": (1500,), "s": (500,)}, ["b", "s"]),
        ({"w": (1000, 98), "b": (1501,), "s": (500,)}, ["s"]),
        # ... and of a small one 10 %, at most 1024 entries.
        ({"w": (9, 10), "b": (10,)}, ["b"]),
        ({"w": (9, 10), "b": (11,)}, []),
        ({"w": (200, 90), "b": (1024,)}, ["b"]),
        ({"w": (200, 90), "b": (1025,)}, []),
        # Arrays of one length go together: a norm layer has several.
        ({"w": (9, 10), "b": (6,), "c": (6,), "s": ()}, ["s"]),
        ({"v": (300,)}, []),
        ({"v": (300,), "empty": (0,)}, []),
        ({"w": (9, 10), "row": (1, 3)}, []),
    ],
)
def test_which_arrays_travel_dense(
    shapes: dict[str, tuple[int, ...]], expected: list[str]
) -> None:
    assert dense_names(layout_of(**shapes)) == expected


def test_a_users_rules_come_first() -> None:
    layout = layout_of(w=(100, 10), b=(10,), c=(10,))
    policy = PerArray({"b": TopK(k=2)}, QUANTIZER)
    assert dense_names(layout, policy) == ["c"]
    link = resolve(Memory(policy), "dense", layout)
    assert link.compressor.unbiased is False
    assert resolve(Memory(policy), "compressed", layout).config() == (
        Memory(policy).config()
    )


def test_lossless_links_stay_as_they_are() -> None:
    layout = layout_of(w=(100, 10), b=(10,))
    assert resolve(Direct(Identity()), "dense", layout) == Direct(Identity())
    assert resolve(Memory(QUANTIZER), "compressed", layout) == Memory(QUANTIZER)


def test_the_papers_experiments_compress_all() -> None:
    strategy = Settings.of("mcm", step_size="0.1").strategy()
    assert isinstance(strategy, CompressedStrategy)
    assert strategy.small_arrays == "compressed"
    assert MCM().small_arrays == "dense"
    with pytest.raises(UnknownNameError, match="small_arrays 'sparse'.*compressed"):
        MCM(small_arrays="sparse")


# --- A model whose arrays are "0", "1", ... -------------------------------------------

SHAPES = [(20, 30), (20,), (20,), (20, 40), (20,)]  # weights, norm, mean, weights, var
VARIANCES = 4


def initial() -> ArrayRecord:
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]
    arrays[1][:], arrays[2][:], arrays[VARIANCES][:] = 1.0, 0.0, 1.0
    return ArrayRecord(arrays)


def app() -> ClientApp:
    """Clients that go far, and whose variances fall to those of their data."""
    client_app = ClientApp(mods=[CompressionMod()])

    @client_app.train()
    def train(msg: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        rng = np.random.default_rng(client)
        arrays = [array.numpy() for array in msg.content["arrays"].values()]
        trained = []
        for i, w in enumerate(arrays):
            target = rng.normal(size=w.shape).astype(np.float32)
            if i == VARIANCES:
                assert (w >= 0).all(), "a variance below zero"
                target = np.abs(target) * np.float32(1e-3)
            trained.append(w + np.float32(0.9) * (target - w))
        metrics = MetricRecord({"num-examples": 1 + client})
        content = RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics})
        return Message(content, reply_to=msg)

    return client_app


def run(strategy: CompressedStrategy, rounds: int = 12) -> list[np.ndarray]:
    result = strategy.start(InProcessGrid(app(), NUM_CLIENTS), initial(), rounds)
    return [array.numpy() for array in result.arrays.values()]


@cache
def uncompressed() -> list[np.ndarray]:
    return run(SGD(fraction_evaluate=0.0))


@pytest.mark.parametrize(
    "algorithm", [MCM, RandMCM, Diana, Artemis, Dore, DoubleSqueeze, SparsAMS]
)
def test_statistics_without_a_name_are_averaged(algorithm: Any) -> None:
    options: dict[str, Any] = {"step_size": 1.0, "fraction_evaluate": 0.0}
    if algorithm is SparsAMS:  # AMSGrad's step is another, with what arrives
        options["step_size"] = 1e-3
    found = run(algorithm(**options))
    assert all(np.isfinite(array).all() for array in found)
    assert (found[VARIANCES] >= 0).all()
    if algorithm is SparsAMS:
        return
    reference = uncompressed()
    for i in (1, 2, VARIANCES):
        np.testing.assert_allclose(found[i], reference[i], rtol=1e-5, atol=1e-7)
    assert not np.allclose(found[0], reference[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("algorithm", [MCM, RandMCM, Artemis])
def test_no_memory_makes_a_variance_negative(algorithm: Any) -> None:
    """Where few take part, a memory of old updates would go past zero."""
    strategy = algorithm(fraction_train=0.34, min_train_nodes=2, fraction_evaluate=0.0)
    assert (run(strategy)[VARIANCES] >= 0).all()


def test_compressed_they_are_not() -> None:
    with pytest.raises(Exception, match="a variance below zero"):
        run(MCM(small_arrays="compressed", fraction_evaluate=0.0))


# --- What both ends and the log say ---------------------------------------------------


def test_the_contract_has_the_rules_of_both_links() -> None:
    strategy = MCM(fraction_evaluate=0.0)
    run(strategy, rounds=1)
    contract = json.loads(strategy._running.contract_bytes)
    rule = [{"max_ndim": 1, "max_size": 20}, {"name": "identity"}]
    for link in ("uplink", "downlink"):
        assert contract[link]["compressor"] == {
            "name": "per-array",
            "rules": [rule],
            "default": DEFAULT_COMPRESSOR.config(),
        }
    strategy = Diana(fraction_evaluate=0.0)
    run(strategy, rounds=1)
    assert "downlink" not in json.loads(strategy._running.contract_bytes)


def test_the_log_says_which_arrays_travel_how(
    messages: Callable[[], list[str]],
) -> None:
    run(MCM(exact_pattern="^2$", fraction_evaluate=0.0), rounds=1)
    policy = PerArray({ArrayRule("3"): Identity()}, QUANTIZER)
    run(Diana(policy, fraction_evaluate=0.0), rounds=1)
    lines = [message.partition("├── Arrays")[2] for message in messages()]
    assert [line for line in lines if line] == [
        ": 2 compressed (1,400 entries: 0, 3), 2 dense (40 entries: 1, 4), "
        "1 averaged exactly (20 entries: 2)",
        " on the uplink: 1 compressed (600 entries: 0), 4 dense (860 entries: "
        "1, 2, 3, ...)",
        " on the downlink: 5 dense (1,460 entries: 0, 1, 2, ...)",
    ]


def test_dense_entries_are_billed_as_float32() -> None:
    bits = {}
    for small in ("dense", "compressed"):
        strategy = Diana(small_arrays=small, fraction_evaluate=0.0)
        run(strategy, rounds=1)
        bits[small] = strategy.ledger.uplink.payload_bits
    added = (bits["dense"] - bits["compressed"]) / NUM_CLIENTS
    assert 60 * 20 < added < 60 * 32


def test_nodes_without_a_server_have_one_operator() -> None:
    with pytest.raises(ConfigurationError, match="one operator for all arrays"):
        MalcomPSGD(ring(4), compressor=PerArray({"w": Identity()}, QUANTIZER))


# --- Arrays that are equal at the start -----------------------------------------------


def test_equal_arrays_are_found_but_not_those_equal_by_chance() -> None:
    layout = Layout.from_config(
        [
            ["a", [2, 2], "float32", False],
            ["ones", [2, 2], "float32", False],
            ["mean", [2], "float32", True],
            ["more-ones", [2, 2], "float32", False],
            ["b", [2, 2], "float32", False],
            ["flat", [4], "float32", False],
            ["half", [2, 2], "float16", False],
            ["c", [2, 2], "float32", False],
            ["empty", [0], "float32", False],
        ]
    )
    a, ones = [1, 2, 3, 4], [1, 1, 1, 1]
    model = np.array([*a, *ones, *ones, *a, *a, *a, *a], dtype=np.float32)
    assert ties_of(layout, model) == ((3, 0), (6, 0))


def tied_run(strategy: CompressedStrategy, *, tied: bool) -> dict[str, np.ndarray]:
    """Clients with one parameter under two names, or two that start alike."""
    client_app = ClientApp(mods=[CompressionMod()])

    @client_app.train()
    def train(msg: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        arrays = {k: v.numpy() for k, v in msg.content["arrays"].items()}
        if tied:
            assert arrays["head"].tobytes() == arrays["embed"].tobytes()
        rng, shape = np.random.default_rng(client), arrays["embed"].shape
        targets = {name: rng.normal(size=shape).astype(np.float32) for name in arrays}
        if tied:
            targets["head"] = targets["embed"]
        trained = {
            name: w + np.float32(0.8) * (targets[name] - w)
            for name, w in arrays.items()
        }
        metrics = MetricRecord({"num-examples": 1 + client})
        record = ArrayRecord({k: Array(np.asarray(v)) for k, v in trained.items()})
        content = RecordDict({"arrays": record, "metrics": metrics})
        return Message(content, reply_to=msg)

    w = np.random.default_rng(9).normal(size=(30, 20)).astype(np.float32)
    begin = ArrayRecord({"embed": Array(w), "other": Array(2 * w), "head": Array(w)})
    result = strategy.start(InProcessGrid(client_app, NUM_CLIENTS), begin, 10)
    return {name: array.numpy() for name, array in result.arrays.items()}


@pytest.mark.parametrize("algorithm", [MCM, RandMCM, Artemis, Dore, DoubleSqueeze])
def test_arrays_that_share_their_weights_stay_equal(algorithm: Any) -> None:
    strategy = algorithm(fraction_train=0.5, fraction_evaluate=0.0)
    found = tied_run(strategy, tied=True)
    assert found["head"].tobytes() == found["embed"].tobytes()
    untied = algorithm(fraction_train=0.5, fraction_evaluate=0.0)
    tied_run(untied, tied=False)
    bits = [s.ledger.uplink.payload_bits for s in (strategy, untied)]
    assert bits[0] < 0.75 * bits[1]


@pytest.mark.parametrize("algorithm", [MCM, Dore])
def test_arrays_that_only_start_alike_are_trained_apart(algorithm: Any) -> None:
    found = tied_run(algorithm(fraction_evaluate=0.0), tied=False)
    reference = tied_run(SGD(fraction_evaluate=0.0), tied=False)
    for name, w in reference.items():
        error = np.linalg.norm(found[name] - w) / np.linalg.norm(w)
        assert error < 1.0, name
    assert not np.allclose(found["head"], found["embed"], atol=0.1)


def test_the_log_says_what_is_sent_once(messages: Callable[[], list[str]]) -> None:
    tied_run(MCM(fraction_evaluate=0.0), tied=True)
    assert any("Sent once while they are equal: head = embed" in m for m in messages())


def test_a_rule_that_matches_nothing_is_told(messages: Callable[[], list[str]]) -> None:
    policy = PerArray({"nomatch*": Identity()}, QUANTIZER)
    run(MCM(policy, fraction_evaluate=0.0), rounds=1)
    assert any("nomatch*" in m and "matches no array" in m for m in messages())
