"""What docs/composing.md says: faults, privacy, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
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
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp.typing import Mod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedXgbBagging,
    FedXgbCyclic,
    Result,
    Strategy,
)

from flower_compress import (
    CompressionMod,
    Direct,
    ErrorFeedback,
    Identity,
    Memory,
    RotatedQuantizer,
    TopK,
)
from flower_compress.errors import (
    ConfigurationError,
    MissingModError,
    UnknownNameError,
)
from flower_compress.links import Channel, SenderState
from flower_compress.strategies import MCM, MalcomPSGD, compress
from flower_compress.strategies.server.uplink import Uplinks
from flower_compress.strategies.server.vector_store import VectorStore
from flower_compress.strategies.topology import ring
from flower_compress.streams import Purpose, Stream
from flower_compress.testing import FaultyGrid, InProcessGrid, RandomFaults
from flower_compress.wire.packet import Packet
from tests.strategies.pulls import (
    CLIENTS,
    INITIAL,
    LOSSLESS,
    ROUNDS,
    TARGETS,
    Spy,
    make_app,
    make_grid,
    run,
    to_record,
    to_vector,
)

# --- Clients that fail ----------------------------------------------------------------


def test_under_faults_every_plain_reply_is_what_the_client_returned() -> None:
    inside = Spy(fraction_train=0.75, fraction_evaluate=0.0)
    errors: list[float] = []

    def compare(replies: list[Message], model: ArrayRecord) -> None:
        w = model["a"].numpy()
        for msg in replies:
            client = int(str(msg.content["more"]["about"]).split()[1])
            expected = w + 0.5 * (TARGETS[client][:10] - w)
            errors.append(np.abs(msg.content["trained"]["a"].numpy() - expected).max())

    inside.compare = compare
    uplink = Memory(RotatedQuantizer(step=0.02))
    strategy = compress(inside, uplink=uplink, downlink=Direct(Identity()))
    faults = RandomFaults(
        seed=3,
        lose_messages=0.1,
        lose_replies=0.15,
        error_replies=0.05,
        duplicate=0.1,
        delay=0.1,
        restart_every=10,
    )
    run(strategy, grid=FaultyGrid(make_grid(strategy), faults), rounds=40)
    assert len(errors) > 40 * 5 / 3
    assert max(errors) < 0.05


def test_error_feedback_gives_the_mean_of_what_a_payload_brings() -> None:
    link = ErrorFeedback(Identity())
    uplinks = Uplinks(link, 4, "sampled", VectorStore(4, None), None)
    end, sender = uplinks.begin(0), SenderState()
    channel = Channel(Stream(1, Purpose.UPLINK, 0, 1))
    for version in (1, 2):  # The first payload is lost.
        x = np.full(4, version, np.float32)
        sender = link.acknowledge(sender, *uplinks.acked(end))
        sender, payload = link.send(sender, x, version, channel.at(version))
        end.asked += 1
    packet = Packet(
        1, 0, 2, dim=4, payloads=(payload,), detail=max(1, sender.num_inputs)
    )
    part = uplinks.check(end, packet, 1.0)
    assert uplinks.value(part).tolist() == [1.5] * 4
    uplinks.take_in([part])
    assert uplinks.acked(end) == (2, payload.crc)


def test_a_client_that_diverges_is_an_error_to_the_strategy() -> None:
    def spoil(msg: Message, context: Context, call_next: Any) -> Message:
        reply = call_next(msg, context)
        if context.node_config["partition-id"] == 2:
            reply.content["trained"]["a"] = Array(np.full(10, np.nan, np.float32))
        return reply

    inside = Spy(fraction_evaluate=0.0)
    strategy = compress(inside)
    result = run(strategy, spoil)
    assert "client 2" not in inside.seen and len(inside.seen) == 6 * ROUNDS
    assert strategy.refused == {2: ROUNDS}
    assert result.train_metrics_clientapp[ROUNDS]["refused-updates"] == 1


def test_weights_that_do_not_fit_their_dtype_are_refused() -> None:
    app = ClientApp(mods=[CompressionMod()])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        w = msg.content["arrays"]["w"].numpy()
        client = int(context.node_config["partition-id"])
        far = np.full_like(w, 65000 if client == 1 else 1)
        metrics = MetricRecord({"num-examples": 3})
        arrays = ArrayRecord({"w": Array(far)})
        content = RecordDict({"arrays": arrays, "metrics": metrics})
        return Message(content, reply_to=msg)

    strategy = compress(FedAvg(fraction_evaluate=0.0))
    initial = ArrayRecord({"w": Array(np.zeros(400, np.float16))})
    result = strategy.start(InProcessGrid(app, 3), initial, 3)
    assert strategy.refused == {1: 3}
    assert 0.5 < result.arrays["w"].numpy().mean() < 1.5


# --- Differential privacy; docs/composing.md ------------------------------------------

NORM = 0.5


def clip_at_clients(inside: Strategy) -> Strategy:
    return DifferentialPrivacyClientSideFixedClipping(inside, 0.0, NORM, CLIENTS)


def clip_at_server(inside: Strategy) -> Strategy:
    return DifferentialPrivacyServerSideFixedClipping(inside, 0.0, NORM, CLIENTS)


def test_a_clipped_update_is_longer_once_it_is_compressed() -> None:
    inside = Spy(fraction_evaluate=0.0)
    told = ConfigRecord({"clipping_norm": NORM})
    run(compress(inside), fixedclipping_mod, train_config=told)
    assert max(inside.distances) > 1.05 * NORM


@pytest.mark.parametrize(
    ("wrap", "mods"),
    [(clip_at_clients, [fixedclipping_mod]), (clip_at_server, [])],
    ids=["clients", "server"],
)
def test_inside_compress_every_contribution_is_within_the_bound(
    wrap: Callable[[Strategy], Strategy], mods: list[Mod]
) -> None:
    inside = Spy(fraction_evaluate=0.0)
    run(compress(wrap(inside)), *mods)
    assert len(inside.distances) == CLIENTS * ROUNDS
    assert max(inside.distances) <= NORM * (1 + 1e-5)
    assert max(inside.distances) > 0.99 * NORM


def test_adaptive_clipping_at_clients_is_within_its_own_bound() -> None:
    inside = Spy(fraction_evaluate=0.0)
    wrapper = DifferentialPrivacyClientSideAdaptiveClipping(
        inside, 0.0, CLIENTS, initial_clipping_norm=NORM
    )
    bounds = []

    def note(number: int, _: Any) -> None:
        bounds.append(wrapper.clipping_norm)

    run(compress(wrapper), adaptiveclipping_mod, evaluate_fn=note)
    assert len(set(bounds)) > 1
    for number, bound in enumerate(bounds[:-1]):
        of_round = inside.distances[number * CLIENTS : (number + 1) * CLIENTS]
        assert max(of_round) <= bound * (1 + 1e-5)


@pytest.mark.parametrize("wrap", [clip_at_clients, clip_at_server])
def test_around_compress_it_is_refused(wrap: Callable[[Strategy], Strategy]) -> None:
    strategy = wrap(compress(FedAvg()))
    grid = InProcessGrid(make_app(fixedclipping_mod), CLIENTS)
    with pytest.raises(ConfigurationError, match="compress is the outermost wrapper"):
        strategy.start(grid, to_record(INITIAL), 1)


def test_around_a_strategy_of_ours_the_clients_bound_would_not_hold() -> None:
    strategy = clip_at_clients(MCM(fraction_evaluate=0.0))
    grid = InProcessGrid(make_app(fixedclipping_mod), CLIENTS)
    with pytest.raises(ConfigurationError, match="longer than the bound.*compress"):
        strategy.start(grid, to_record(INITIAL), 1)


def test_around_a_strategy_of_ours_the_server_cannot_clip() -> None:
    with pytest.raises(TypeError, match="flower_compress/1"):
        clip_at_server(MCM()).start(
            InProcessGrid(make_app(), CLIENTS), to_record(INITIAL), 1
        )


def test_a_clipping_mod_before_ours_is_told_at_the_greeting() -> None:
    app = make_app(outer=[fixedclipping_mod])
    strategy = compress(clip_at_clients(FedAvg()))
    with pytest.raises(MissingModError, match="through CompressionMod"):
        strategy.start(InProcessGrid(app, CLIENTS), to_record(INITIAL), 1)


def test_local_privacy_stands_before_compression() -> None:
    noise = LocalDpMod(clipping_norm=5.0, sensitivity=0.1, epsilon=1.0, delta=1e-5)
    bare = to_vector(run(FedAvg(), noise))
    ours = to_vector(run(compress(FedAvg(), **LOSSLESS), noise))
    np.testing.assert_allclose(ours, bare, rtol=0, atol=2e-5)
    run(compress(FedAvg()), noise)


# --- What cannot work -----------------------------------------------------------------


class OwnStart(FedAvg):
    def start(self, *args: Any, **kwargs: Any) -> Result:
        return super().start(*args, **kwargs)


class Workflow:
    """Stands for flwr.server.workflow.SecAggPlusWorkflow."""


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        (FedAdam, r"got the class FedAdam: make one of it, compress\(FedAdam"),
        (None, "expected a strategy of flwr.serverapp.strategy, got NoneType"),
        (Workflow(), "secure aggregation adds masked integers"),
        (MCM(), "MCM is compressed already"),
        (compress(FedAvg()), "Compressed is compressed already"),
        (clip_at_server(MCM()), "MCM is compressed already"),
        (MalcomPSGD(ring(4)), "MalcomPSGD is compressed already"),
        (FedXgbBagging(), "FedXgbBagging sends trees"),
        (clip_at_server(FedXgbCyclic()), "FedXgbCyclic sends trees"),
        (OwnStart(), "OwnStart has a start of its own.*derived from MCM"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_strategies_that_cannot_be_compressed(strategy: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        compress(strategy)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"uplink": TopK(k=3)}, r"expected uplink to be a link.*Memory\(C\)"),
        ({"downlink": "mcm"}, "expected downlink to be a link, got 'mcm'"),
        ({"downlink": ErrorFeedback(TopK(k=3))}, "expected Memory or Direct"),
        ({"uplink_memory": "mean"}, "takes no uplink_memory: each reply is rebuilt"),
        ({"optimizer": None}, "takes no optimizer: the strategy inside"),
        ({"fraction_train": 0.5}, r"compress\(FedAvg\(fraction_train=...\)\)"),
        ({"proximal_mu": 0.1}, r"takes it: compress\(FedProx\(proximal_mu=...\)\)"),
        (
            {"compressor": TopK(k=3)},
            r"takes no compressor: compress takes links: up",
        ),
        ({"uplnk": None}, "unknown argument of compress 'uplnk'.*mean 'uplink'"),
        ({"evaluate_on": "here"}, "unknown evaluate_on 'here'"),
        ({"groups": 0}, "groups must be a positive number"),
        ({"max_update_norm": 0.0}, "max_update_norm must be positive"),
        ({"resume": True}, "give checkpoint_dir"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_arguments_that_cannot_work(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        compress(FedAvg(), **arguments)
    assert issubclass(UnknownNameError, ConfigurationError)
