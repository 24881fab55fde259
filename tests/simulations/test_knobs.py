"""Operators from words, schedules, rates, momentum and averages, as a run has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flower_compress import RandomSparsifier, StochasticQuantizer, TopK
from flower_compress.errors import (
    CheckpointError,
    ConfigurationError,
    UnknownNameError,
)
from flower_compress.links import (
    Broadcast,
    Channel,
    ErrorFeedback,
    Memory,
    Payload,
    SenderState,
)
from flower_compress.streams import Purpose, Stream
from simulations.averaging import AveragedIterates
from simulations.experiment import Experiment
from simulations.records import read_rounds
from simulations.settings import Settings
from simulations.settings.links import Ghost
from tests.command import Command


def test_each_direction_has_its_own_operator() -> None:
    words = "stochastic-quantizer:levels=4,norm=inf,bucket-size=16"
    settings = Settings.of("mcm", uplink="random-sparsifier:p=0.1", downlink=words)
    strategy = settings.strategy()
    assert strategy.uplink.compressor == RandomSparsifier(0.1)
    assert strategy.downlink.compressor == StochasticQuantizer(
        4, norm="inf", bucket_size=16
    )
    both = Settings.of("rand-mcm", uplink="top-k:k=3", uplink_rate="0").strategy()
    assert both.uplink == Memory(TopK(3), rate=0.0)
    assert both.downlink == Memory(TopK(3))
    assert Settings.of("topk", k=7).strategy().uplink.compressor == TopK(7)


@pytest.mark.parametrize(
    ("words", "error", "match"),
    [
        ("top-kk", UnknownNameError, "unknown operator 'top-kk'.*did you mean 'top-k'"),
        ("top-k:n=3", UnknownNameError, "unknown parameter of top-k 'n': .*fraction"),
        ("top-k:k", ConfigurationError, "expected top-k:k=VALUE, got 'top-k:k'"),
        ("random-sparsifier:p=2", ConfigurationError, r"p must lie in \(0, 1\]"),
        ("random-sparsifier:p=a", ConfigurationError, "p must lie in"),
    ],
)
def test_words_that_are_no_operator(
    words: str, error: type[Exception], match: str
) -> None:
    for direction in ("uplink", "downlink"):
        with pytest.raises(error, match=match):
            Settings.of("mcm", **{direction: words})


def test_rates_and_momentum_out_of_range() -> None:
    for rate in ("-0.1", "1.1", "nan", "one"):
        with pytest.raises(
            ConfigurationError, match=r"downlink-rate must be .*\[0, 1\]"
        ):
            Settings.of("mcm", downlink_rate=rate)
    with pytest.raises(ConfigurationError, match=r"momentum must lie in \[0, 1\)"):
        Settings.of("mcm", momentum=1.0)


def test_double_squeeze_feeds_the_whole_error_back() -> None:
    strategy = Settings.of("double-squeeze", step_size="0.1").strategy()
    for link in (strategy.uplink, strategy.downlink):
        assert isinstance(link, ErrorFeedback) and not link.compressor.unbiased
        assert link.feedback_at(65) == 1.0


def test_schedules_are_those_of_the_paper() -> None:
    gamma, mu = 0.25, 1 / 1797
    root = Settings.of("mcm", step_size=str(gamma), schedule="inverse-sqrt").steps()
    assert [root(k) for k in (1, 4, 100)] == [gamma, gamma / 2, gamma / 10]
    convex = Settings.of("mcm", step_size=str(gamma), schedule="strongly-convex")
    steps = convex.steps()
    assert steps(1) == gamma == steps(int(1 / (gamma * mu)) - 1)
    assert steps(10**6) == pytest.approx(2 / (mu * 10**6 + 4), rel=1e-12)
    with pytest.raises(ConfigurationError, match="not known to be strongly convex"):
        Settings.of("mcm", task="digits", schedule="strongly-convex").steps()


def test_the_ghost_starts_from_the_model_before() -> None:
    """Eq. (S10), with the same draws."""
    strategy = Settings.of("mcm", step_size="0.1", ghost=True, levels=2).strategy()
    link = strategy.downlink
    assert isinstance(link, Ghost) and link.operator == StochasticQuantizer(2)
    channel = Channel(Stream(0, Purpose.DOWNLINK))
    models = np.random.Generator(np.random.Philox(0)).normal(size=(3, 8))
    ends = Broadcast.begin(link, "model", np.float32(models[0]))
    before = None
    for version, model in enumerate(np.float32(models), start=2):
        ends = ends.publish(model, channel)
        expected = model
        if before is not None:
            operator, draws = link.operator, channel.at(version)
            update = Payload.encode(model - before, operator, "auto", draws)
            expected = before + update.vector
        np.testing.assert_array_equal(ends.value, expected)
        before = model


def test_each_client_has_levels_of_its_own(tmp_path: Path) -> None:
    shared = {"step_size": "0.1", "clients": 4, "rounds": 3, "batch_size": 0}
    settings = Settings.of("rand-mcm", downlink_levels="1,8", **shared)
    link = settings.strategy().downlink
    assert link.memory_rate(65) == Memory(StochasticQuantizer(1)).memory_rate(65)
    x = np.random.Generator(np.random.Philox(0)).normal(size=65).astype(np.float32)
    for index, levels in ((0, 1), (1, 8), (2, 1)):
        channel = Channel(Stream(0, Purpose.DOWNLINK, index, 2))
        _, payload = link.send(SenderState(), x, 2, channel)
        assert payload.compressor == StochasticQuantizer(levels)
    with pytest.raises(ConfigurationError, match="downlink-levels must be positive"):
        Settings.of("rand-mcm", downlink_levels="1,0")
    experiment = Experiment([settings], tmp_path)
    experiment.run("inprocess", workers=1)
    plain = Experiment([Settings.of("rand-mcm", **shared)], tmp_path / "plain")
    plain.run("inprocess", workers=1)
    bits = [
        read_rounds(folder / "rounds.csv")[-1].downlink_bits
        for folder in (tmp_path, tmp_path / "plain")
    ]
    assert bits[0] > bits[1]


def test_heavy_ball() -> None:
    settings = Settings.of("sgd", step_size="0.5", momentum=0.5)
    optimizer = settings.strategy().optimizer
    state, gradient = optimizer.init(2), np.float32([1, -2])
    updates = []
    for server_round in (1, 2, 3):
        state, update = optimizer.step(state, gradient, server_round)
        updates.append(update)
    expected = np.outer([1.0, 1.5, 1.75], [-0.5, 1.0])
    np.testing.assert_array_equal(updates, expected.astype(np.float32))


def test_the_average_goes_on_where_it_was_kept(tmp_path: Path) -> None:
    models = [{"w": np.float32([k, k * k])} for k in range(8)]

    def gamma(k: int) -> float:
        return 1.0 / k

    whole = AveragedIterates(gamma, tmp_path, 2)
    found = [whole.take(k, model)["w"] for k, model in enumerate(models)]
    for count in range(1, 8):
        weights = np.arange(1, count + 1)  # lambda_k = 1 / gamma_k goes with w_{k-1}
        expected = [weights @ np.arange(count), weights @ np.arange(count) ** 2]
        expected = np.float32(expected / weights.sum())
        np.testing.assert_array_equal(found[count], expected)
    np.testing.assert_array_equal(found[0], models[0]["w"])
    resumed = AveragedIterates(gamma, tmp_path, 2)
    for k in (5, 6, 7):
        np.testing.assert_array_equal(resumed.take(k, models[k])["w"], found[k])
    with pytest.raises(CheckpointError, match="average up to round 4 in"):
        AveragedIterates(gamma, tmp_path / "none", 2).take(5, models[5])


def test_a_run_with_an_average_resumes(tmp_path: Path, simulate: Command) -> None:
    words = ["--algorithm", "mcm", "--average", "--batch-size", "0", "--clients", "4"]
    words += ["--schedule", "inverse-sqrt", "--momentum", "0.5", "--rounds", "6"]
    out = [*words, "--checkpoint-every", "2", "--out", str(tmp_path / "a")]
    assert simulate("run", *out).returncode == 0
    rounds = (tmp_path / "a" / "rounds.csv").read_bytes()
    folder = tmp_path / "a" / "checkpoints" / "mcm-seed0"
    (last,) = folder.glob("*6.ckpt")
    last.unlink()
    resumed = simulate("run", *out, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "a" / "rounds.csv").read_bytes() == rounds
    assert last.exists()
    plain = simulate("run", *words, "--out", str(tmp_path / "b"))
    assert plain.returncode == 0, plain.stderr
    assert (tmp_path / "b" / "rounds.csv").read_bytes() == rounds
