"""Every strategy against its equations, written out as a plain NumPy loop.

The loops know nothing of links, packets or states: only of the compressor C, of the
streams that C draws from, and of float32 arithmetic. Equality is bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flower_compress import Identity, RandomSparsifier, StochasticQuantizer, TopK
from flower_compress.compressors import Compressor
from flower_compress.strategies import (
    ECQSGD,
    MCM,
    QSGD,
    SGD,
    Artemis,
    ArtemisND,
    CompressedStrategy,
    Diana,
    DistEFSGD,
    Dore,
    DoubleSqueeze,
    RandMCM,
)
from flower_compress.streams import Purpose, Stream
from flower_compress.testing import InProcessGrid
from tests.strategies.problem import (
    DIM,
    GAMMA,
    INITIAL,
    NUM_CLIENTS,
    NUM_EXAMPLES,
    Vector,
    gradient,
    local_weights,
    make_app,
    to_record,
    to_vector,
)

ROUNDS = 30
SEED = 11
QUANTIZER = StochasticQuantizer(levels=2)
OMEGA = min(DIM / 4, np.sqrt(DIM) / 2)
ALPHA = np.float32(1 / (2 * (OMEGA + 1)))
CLIENTS = range(NUM_CLIENTS)
STEP = np.float32(-GAMMA)


def up(c: Compressor, x: Vector, client: int, version: int) -> Vector:
    """C_up(x) of a client, in the round whose downlink had that version."""
    stream = Stream(SEED, Purpose.UPLINK, client, version)
    return c.decompress(c.compress(x, stream))


def down(c: Compressor, x: Vector, group: int, version: int) -> Vector:
    """C_down(x) to a group."""
    stream = Stream(SEED, Purpose.DOWNLINK, group, version)
    return c.decompress(c.compress(x, stream))


def mean(vectors: list[Vector]) -> np.ndarray:
    """Mean in float64."""
    return np.sum(np.asarray(vectors, dtype=np.float64), axis=0) / len(vectors)


def zeros() -> list[Vector]:
    return [np.zeros(DIM, dtype=np.float32) for _ in CLIENTS]


# Version 1 is the initial model. A model is sent as version k + 1 in round k; an update
# made in round k is version k + 1 too, but it is sent in round k + 1.


def sgd(c: Compressor) -> Vector:
    w = INITIAL
    for k in range(1, ROUNDS + 1):
        g = mean([gradient(i, w, k) for i in CLIENTS]).astype(np.float32)
        w = w + STEP * g
    return w


def qsgd(c: Compressor) -> Vector:
    w = INITIAL
    for k in range(1, ROUNDS + 1):
        g = mean([up(c, gradient(i, w, k), i, k + 1) for i in CLIENTS])
        w = w + STEP * g.astype(np.float32)
    return w


def ecq_sgd(c: Compressor, alpha: float = 1 / (OMEGA + 1), beta: float = 1.0) -> Vector:
    w, h = INITIAL, zeros()
    for k in range(1, ROUNDS + 1):
        g = [gradient(i, w, k) for i in CLIENTS]
        q = [up(c, g[i] + np.float32(alpha) * h[i], i, k + 1) for i in CLIENTS]
        h = [(g[i] + np.float32(beta) * h[i]) - q[i] for i in CLIENTS]
        w = w + STEP * mean(q).astype(np.float32)
    return w


def ecq_sgd_forgetful(c: Compressor) -> Vector:
    return ecq_sgd(c, 0.3, 0.8)


def diana(c: Compressor) -> Vector:
    w, h = INITIAL, zeros()
    for k in range(1, ROUNDS + 1):
        q = [up(c, gradient(i, w, k) - h[i], i, k + 1) for i in CLIENTS]
        g = mean(q) + mean(h)
        h = [h[i] + ALPHA * q[i] for i in CLIENTS]
        w = w + STEP * g.astype(np.float32)
    return w


def diana_first(c: Compressor) -> Vector:
    w = INITIAL
    h = [gradient(i, w, 1) for i in CLIENTS]
    w = w + STEP * mean(h).astype(np.float32)
    for k in range(2, ROUNDS + 1):
        q = [up(c, gradient(i, w, k) - h[i], i, k + 1) for i in CLIENTS]
        g = mean(q) + mean(h)
        h = [h[i] + ALPHA * q[i] for i in CLIENTS]
        w = w + STEP * g.astype(np.float32)
    return w


def artemis(c: Compressor) -> Vector:
    w, h = INITIAL, zeros()
    for k in range(1, ROUNDS + 1):
        q = [up(c, gradient(i, w, k) - h[i], i, k) for i in CLIENTS]
        g = mean(q) + mean(h)
        h = [h[i] + ALPHA * q[i] for i in CLIENTS]
        w = w + down(c, STEP * g.astype(np.float32), 0, k + 1)
    return w


def artemis_nd(c: Compressor) -> Vector:
    w, w_hat, h = INITIAL, INITIAL, zeros()
    for k in range(1, ROUNDS + 1):
        q = [up(c, gradient(i, w_hat, k) - h[i], i, k) for i in CLIENTS]
        g = mean(q) + mean(h)
        h = [h[i] + ALPHA * q[i] for i in CLIENTS]
        u = STEP * g.astype(np.float32)
        w = w + u
        w_hat = w_hat + down(c, u, 0, k + 1)
    return w


def dore(c: Compressor) -> Vector:
    w, h, e = INITIAL, zeros(), np.zeros(DIM, dtype=np.float32)
    eta = np.float32(1 / (OMEGA + 1))
    for k in range(1, ROUNDS + 1):
        q = [up(c, gradient(i, w, k) - h[i], i, k) for i in CLIENTS]
        g = mean(q) + mean(h)
        h = [h[i] + ALPHA * q[i] for i in CLIENTS]
        v = STEP * g.astype(np.float32) + e
        sent = down(c, v, 0, k + 1)
        w, e = w + sent, eta * (v - sent)
    return w


def double_squeeze(c: Compressor) -> Vector:
    w, error, e = INITIAL, zeros(), np.zeros(DIM, dtype=np.float32)
    for k in range(1, ROUNDS + 1):
        v = [gradient(i, w, k) + error[i] for i in CLIENTS]
        q = [up(c, v[i], i, k) for i in CLIENTS]
        error = [v[i] - q[i] for i in CLIENTS]
        total = STEP * mean(q).astype(np.float32) + e
        sent = down(c, total, 0, k + 1)
        w, e = w + sent, total - sent
    return w


def mcm(c: Compressor) -> Vector:
    w, memory, h = INITIAL, INITIAL, zeros()
    for k in range(1, ROUNDS + 1):
        omega = down(c, w - memory, 0, k + 1)
        w_hat, memory = memory + omega, memory + ALPHA * omega
        q = [up(c, gradient(i, w_hat, k) - h[i], i, k + 1) for i in CLIENTS]
        g = mean(q) + mean(h)
        h = [h[i] + ALPHA * q[i] for i in CLIENTS]
        w = w + STEP * g.astype(np.float32)
    return w


def rand_mcm(c: Compressor, group_of: Callable[[int], int] = lambda i: i) -> Vector:
    w, h = INITIAL, zeros()
    memory = {group_of(i): INITIAL for i in CLIENTS}
    for k in range(1, ROUNDS + 1):
        w_hat = {}
        for group in memory:
            omega = down(c, w - memory[group], group, k + 1)
            w_hat[group] = memory[group] + omega
            memory[group] = memory[group] + ALPHA * omega
        q = [
            up(c, gradient(i, w_hat[group_of(i)], k) - h[i], i, k + 1) for i in CLIENTS
        ]
        g = mean(q) + mean(h)
        h = [h[i] + ALPHA * q[i] for i in CLIENTS]
        w = w + STEP * g.astype(np.float32)
    return w


def rand_mcm_groups(c: Compressor) -> Vector:
    return rand_mcm(c, lambda i: i % 2)


CASES: list[tuple[type[CompressedStrategy], dict[str, Any], Any]] = [
    (SGD, {}, sgd),
    (QSGD, {}, qsgd),
    (Diana, {}, diana),
    (Diana, {"initial_memory": "first"}, diana_first),
    (Artemis, {}, artemis),
    (ArtemisND, {}, artemis_nd),
    (Dore, {}, dore),
    (DoubleSqueeze, {"compressor": TopK(k=3)}, double_squeeze),
    (DistEFSGD, {"compressor": TopK(k=3)}, double_squeeze),  # without its clients
    (ECQSGD, {}, ecq_sgd),
    (ECQSGD, {"compensation": 0.3, "feedback": 0.8}, ecq_sgd_forgetful),
    (MCM, {}, mcm),
    (RandMCM, {}, rand_mcm),
    (RandMCM, {"groups": 2}, rand_mcm_groups),
]


def run(strategy: CompressedStrategy, returns: str = "gradient") -> Vector:
    grid = InProcessGrid(make_app(returns), NUM_CLIENTS)
    return to_vector(strategy.start(grid, to_record(INITIAL), ROUNDS).arrays)


def options(cls: type[CompressedStrategy], extra: dict[str, Any]) -> dict[str, Any]:
    defaults = {
        "step_size": GAMMA,
        "seed": SEED,
        "weighted_by_key": None,
        "fraction_evaluate": 0.0,
    }
    if cls is not SGD:
        defaults["compressor"] = QUANTIZER
    return {**defaults, **extra}


@pytest.mark.parametrize(("cls", "extra", "loop"), CASES)
def test_equals_its_equations_bit_for_bit(
    cls: type[CompressedStrategy], extra: dict[str, Any], loop: Any
) -> None:
    arguments = options(cls, extra)
    expected = loop(arguments.get("compressor", Identity()))
    actual = run(cls(**arguments))
    assert actual.tobytes() == expected.tobytes()
    assert np.linalg.norm(expected - INITIAL) > 0.1  # it went somewhere


def test_equations_hold_for_another_operator() -> None:
    c = RandomSparsifier(p=0.3)
    alpha = np.float32(1 / (2 * (0.7 / 0.3 + 1)))
    actual = run(MCM(**options(MCM, {"compressor": c})))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "ALPHA", alpha)
        expected = mcm(c)
    assert actual.tobytes() == expected.tobytes()


@pytest.mark.parametrize("cls", [QSGD, Diana, Artemis, ArtemisND, Dore, MCM, RandMCM])
def test_identity_compressor_gives_sgd_bit_for_bit(
    cls: type[CompressedStrategy],
) -> None:
    actual = run(cls(**options(cls, {"compressor": Identity()})))
    assert actual.tobytes() == run(SGD(**options(SGD, {}))).tobytes()


def test_identity_error_feedback_gives_sgd_bit_for_bit() -> None:
    actual = run(DoubleSqueeze(**options(DoubleSqueeze, {"compressor": Identity()})))
    assert actual.tobytes() == run(SGD(**options(SGD, {}))).tobytes()


def test_another_seed_gives_another_model() -> None:
    first = run(MCM(**options(MCM, {})))
    second = run(MCM(**options(MCM, {"seed": SEED + 1})))
    assert first.tobytes() != second.tobytes()


def test_weights_are_sent_as_differences() -> None:
    """Diana over local updates: with step size 1, w = w_hat - mean(w_hat - w_i)."""
    w, h = INITIAL, zeros()
    for k in range(1, ROUNDS + 1):
        delta = [w - local_weights(i, w, k) for i in CLIENTS]
        q = [up(QUANTIZER, delta[i] - h[i], i, k + 1) for i in CLIENTS]
        g = mean(q) + mean(h)
        h = [h[i] + ALPHA * q[i] for i in CLIENTS]
        w = w - g.astype(np.float32)
    actual = run(Diana(**options(Diana, {"step_size": 1.0})), "weights")
    assert actual.tobytes() == w.tobytes()


def test_uncompressed_weights_give_federated_averaging() -> None:
    w = INITIAL
    weights = np.array(NUM_EXAMPLES, dtype=np.float64) / sum(NUM_EXAMPLES)
    for k in range(1, ROUNDS + 1):
        results = np.array([local_weights(i, w, k) for i in CLIENTS])
        w = (weights @ results).astype(np.float32)
    extra = {"step_size": 1.0, "weighted_by_key": "num-examples"}
    actual = run(SGD(**options(SGD, extra)), "weights")
    np.testing.assert_allclose(actual, w, rtol=0, atol=1e-5)


@pytest.mark.parametrize("key", [None, "num-examples"])
def test_partial_participation_keeps_the_mean_of_all_memories(key: str | None) -> None:
    """g = hbar + sum_S w_i q_i / sum_S w_i with hbar the mean over all N clients."""
    w, h = INITIAL, zeros()
    weight = np.ones(NUM_CLIENTS) if key is None else np.array(NUM_EXAMPLES, float)
    known: dict[int, float] = {}
    for k in range(1, ROUNDS + 1):
        draw = Stream(SEED, Purpose.SAMPLING, 0, k).generator()
        sampled = sorted(draw.choice(NUM_CLIENTS, 2, replace=False))
        q = {}
        for i in sampled:
            q[i] = up(QUANTIZER, gradient(i, w, k) - h[i], i, k + 1)
            known[i] = weight[i]
        g = sum(weight[i] * q[i].astype(np.float64) for i in sampled)
        g = g / sum(weight[i] for i in sampled)
        total = np.mean(list(known.values())) * NUM_CLIENTS
        g = g + sum(weight[i] * h[i].astype(np.float64) for i in CLIENTS) / total
        for i in sampled:
            h[i] = h[i] + ALPHA * q[i]
        w = w + STEP * g.astype(np.float32)
    extra = {"weighted_by_key": key, "fraction_train": 0.4}
    actual = run(Diana(**options(Diana, extra)))
    if key is None:
        assert actual.tobytes() == w.tobytes()
    np.testing.assert_allclose(actual, w, rtol=0, atol=1e-6)
