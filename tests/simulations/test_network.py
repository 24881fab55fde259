"""The network that a report estimates time on."""

from __future__ import annotations

import doctest
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_compress.errors import ConfigurationError
from simulations import network
from simulations.network import (
    Network,
    NetworkFormatError,
    parse_network,
    round_seconds,
)
from tests.cases import in_one_test


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10/50mbit,40ms", Network(1e7, 5e7, 0.04)),
        (" 10 / 50 Mbit , 0.04 S ", Network(1e7, 5e7, 0.04)),
        ("512kbit/1.5gbit,250us", Network(512e3, 1.5e9, 250e-6)),
        ("100mbit", Network(1e8, 1e8, 0.0)),
        (".5mbit,1s", Network(5e5, 5e5, 1.0)),
        ("9600bit", Network(9600.0, 9600.0, 0.0)),
    ],
)
def test_network_is_read(text: str, expected: Network) -> None:
    read = parse_network(text)
    assert read.uplink_rate == pytest.approx(expected.uplink_rate)
    assert read.downlink_rate == pytest.approx(expected.downlink_rate)
    assert read.latency == pytest.approx(expected.latency)


@in_one_test(
    "text",
    ["", "fast", "10/50", "10mbit/50", "10", "0mbit", "10/0mbit", "-1mbit", "1e3mbit",
     "10mbit,40", "10mbit,", "10mbit 40ms", "10MB", "nanmbit", "infmbit", "١mbit",
     "9" * 400 + "mbit", "1mbit," + "9" * 400 + "s"],
)  # fmt: skip
def test_other_texts_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(NetworkFormatError, match="10/50mbit,40ms"):
        parse_network(text)


@given(
    up=st.floats(1.0, 1e12), down=st.floats(1.0, 1e12), latency=st.floats(0.001, 10.0)
)
def test_network_text_reads_back(up: float, down: float, latency: float) -> None:
    original = Network(up, down, latency)
    read = parse_network(str(original))
    assert read.uplink_rate == pytest.approx(up)
    assert read.downlink_rate == pytest.approx(down)
    assert read.latency == pytest.approx(latency)


def test_round_is_two_latencies_and_two_transfers() -> None:
    link = Network(1e6, 8e6, 0.05)
    seconds = round_seconds(link, uplink_bytes=125_000, downlink_bytes=500_000)
    assert seconds == pytest.approx(0.1 + 1.0 + 0.5)
    assert round_seconds(link, uplink_bytes=0, downlink_bytes=0) == pytest.approx(0.1)


def test_impossible_networks_are_refused() -> None:
    for wrong in ((0.0, 1.0, 0.0), (1.0, math.inf, 0.0), (1.0, 1.0, -1.0)):
        with pytest.raises(ConfigurationError):
            Network(*wrong)
    with pytest.raises(ConfigurationError, match="bytes"):
        round_seconds(Network(1.0, 1.0), uplink_bytes=-1, downlink_bytes=0)


def test_the_example_of_the_network_runs() -> None:
    assert doctest.testmod(network).failed == 0
