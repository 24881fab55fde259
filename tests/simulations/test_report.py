"""Records, summaries, reports and the network that a report estimates time on."""

from __future__ import annotations

import doctest
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flower_compress.errors import ConfigurationError
from simulations import network
from simulations.network import (
    Network,
    NetworkFormatError,
    parse_network,
    round_seconds,
)
from simulations.records import (
    Nodes,
    RecordsError,
    RoundRecord,
    RoundsCsv,
    cut_off,
    read_rounds,
    summarise,
    write_json,
)
from simulations.report import summary_tables, write_report

# What is drawn once is drawn by one worker.
pytestmark = pytest.mark.xdist_group("report")

ALGORITHMS = (
    "sgd",
    "qsgd",
    "diana",
    "artemis",
    "dore",
    "mcm",
    "rand-mcm",
    "<i>&co</i>",
)
SETTINGS = {
    "task": "parity",
    "num_clients": 20,
    "step_size": 0.1,
    "note": "<b>bold</b>",
}

counts = st.integers(0, 2**62)
records_strategy = st.builds(
    RoundRecord,
    algorithm=st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1
    ),
    seed=counts,
    round=counts,
    loss=st.floats(allow_nan=False),
    excess_loss=st.none() | st.floats(allow_nan=False),
    accuracy=st.floats(0, 1) | st.floats(0, 1).map(np.float64),
    uplink_bytes=counts,
    downlink_bytes=counts,
    uplink_bits=counts,
    downlink_bits=counts,
)


def record(
    algorithm: str = "sgd",
    seed: int = 0,
    round_: int = 0,
    *,
    loss: float = 1.0,
    excess: float | None = 0.5,
    bits: int = 0,
) -> RoundRecord:
    size = bits // 8 + 100
    return RoundRecord(
        algorithm, seed, round_, loss, excess, 0.5, size, size, bits, bits
    )


def comparison(*, known: bool = True) -> Iterator[RoundRecord]:
    for i, algorithm in enumerate(ALGORITHMS):
        for seed in range(2):
            for round_ in range(0, 21, 2):
                excess = (1 + 0.1 * i + 0.05 * seed) * 0.8**round_
                yield record(
                    algorithm,
                    seed,
                    round_,
                    loss=0.2 + excess,
                    excess=excess if known else None,
                    bits=round_ * 10_000 // (i + 1),
                )


# --- rounds.csv -----------------------------------------------------------------------


@given(rows=st.lists(records_strategy, max_size=5))
def test_rounds_csv_round_trip(
    rows: list[RoundRecord], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("csv") / "runs" / "rounds.csv"
    with RoundsCsv(path) as rounds:
        for row in rows:
            rounds.write(row)
    assert read_rounds(path) == rows


def test_rounds_csv_has_the_agreed_header_and_empty_unknowns(tmp_path: Path) -> None:
    path = tmp_path / "rounds.csv"
    with RoundsCsv(path) as rounds:
        rounds.write(record(excess=None, loss=float(np.float64(0.1))))
        rounds.write(record(loss=math.nan))
    assert path.read_text().splitlines() == [
        "algorithm,seed,round,loss,excess_loss,accuracy,"
        "uplink_bytes,downlink_bytes,uplink_bits,downlink_bits",
        "sgd,0,0,0.1,,0.5,100,100,0,0",
        "sgd,0,0,nan,0.5,0.5,100,100,0,0",
    ]


def test_rounds_csv_keeps_the_rows_of_an_interrupted_run(tmp_path: Path) -> None:
    path = tmp_path / "rounds.csv"
    with pytest.raises(KeyboardInterrupt), RoundsCsv(path) as rounds:
        rounds.write(record(round_=1))
        assert read_rounds(path) == [record(round_=1)], "not flushed"
        raise KeyboardInterrupt
    with path.open("a") as file:
        file.write("sgd,0,2,0.")
    assert read_rounds(path) == [record(round_=1)]


def test_rounds_csv_is_written_inside_with(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not open"):
        RoundsCsv(tmp_path / "rounds.csv").write(record())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the header"),
        ("a,b\n1,2\n", "expected the header"),
        ("HEADER\nsgd,0,zero,1.0,,0.5,1,1,1,1\n", "line 2"),
        ("HEADER\nsgd,0\n", "line 2"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rounds.csv"
    with RoundsCsv(path):
        pass
    header = path.read_text().strip()
    path.write_text(text.replace("HEADER", header))
    with pytest.raises(RecordsError, match=message):
        read_rounds(path)


# --- summary.json ---------------------------------------------------------------------


def test_summary_is_over_seeds_of_the_last_round() -> None:
    rows = [
        record("SGD", seed, round_, loss=1.0 + seed, bits=round_ * 100)
        for seed in (3, 1)
        for round_ in (10, 0)
    ] + [record("mcm", 0, 10, loss=5.0, bits=250)]
    summary = summarise(rows, {("mcm", 0): "ff", ("SGD", 3): "aa"}, SETTINGS)
    sgd, mcm = (summary["algorithms"][name] for name in ("SGD", "mcm"))
    assert sgd["seeds"] == [1, 3]
    assert sgd["rounds"] == 10
    assert sgd["final_loss"] == {"mean": 3.0, "std": pytest.approx(math.sqrt(2.0))}
    assert sgd["uplink_bits"] == {"mean": 1000.0, "std": 0.0}
    assert sgd["uplink_bytes"]["mean"] == 225.0
    assert sgd["bits_fraction_of_sgd"] == 1.0
    assert mcm["bits_fraction_of_sgd"] == 0.25
    assert mcm["final_loss"] == {"mean": 5.0, "std": None}
    assert (sgd["model_sha256"], mcm["model_sha256"]) == ({"3": "aa"}, {"0": "ff"})
    assert summary["settings"] == SETTINGS


def test_log10_excess_loss_is_the_mean_over_the_last_tenth() -> None:
    rows = [record(round_=r, excess=10.0 ** (-r / 10)) for r in range(0, 101, 5)]
    entry = summarise(rows, {}, {})["algorithms"]["sgd"]
    assert entry["log10_excess_loss"]["mean"] == pytest.approx((-9.5 - 10.0) / 2)
    only = summarise([record(excess=1e-3)], {}, {})["algorithms"]["sgd"]
    assert only["log10_excess_loss"]["mean"] == pytest.approx(-3.0)


def test_log10_excess_loss_ends_where_float64_does() -> None:
    rows = [record(round_=r, excess=e) for r, e in ((10, 1e-20), (20, -1e-17))]
    entry = summarise(rows, {}, {})["algorithms"]["sgd"]
    floor = math.log10(np.finfo(np.float64).eps)
    assert entry["log10_excess_loss"]["mean"] == pytest.approx(floor)


def test_unknown_and_diverged_are_null(tmp_path: Path) -> None:
    rows = [record(seed=s, loss=v, excess=None) for s, v in enumerate([1.0, math.inf])]
    settings = {"rate": math.nan, "path": tmp_path, "seeds": (np.int64(1), True)}
    summary = summarise(rows, {}, settings)
    entry = summary["algorithms"]["sgd"]
    assert entry["final_loss"] == {"mean": None, "std": None}
    assert entry["log10_excess_loss"] == {"mean": None, "std": None}
    # No payload bits at all: no fraction of them.
    assert entry["bits_fraction_of_sgd"] is None
    assert (
        summarise([record("mcm", bits=8)], {}, {})["algorithms"]["mcm"][
            "bits_fraction_of_sgd"
        ]
        is None
    )
    path = tmp_path / "deep" / "summary.json"
    write_json(path, summary)
    text = path.read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text) == summary
    assert summary["settings"] == {
        "rate": None,
        "path": str(tmp_path),
        "seeds": [1, True],
    }


def test_summary_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.json"
    write_json(path, summarise([record()], {}, {"run": 1}))
    before = path.read_text()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(path, summarise([record()], {}, {"run": 2}))
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


# --- report ---------------------------------------------------------------------------


class References(HTMLParser):
    """Every address a page refers to, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.alternatives: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in {"src", "href", "srcset", "data", "action", "poster"}:
                self.addresses.append(value or "")
            if name == "alt":
                self.alternatives.append(value or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = list(comparison())
    digests = {(algorithm, 0): "ab" * 32 for algorithm in ALGORITHMS}
    return write_report(
        tmp_path_factory.mktemp("report") / "new",
        rows,
        summarise(rows, digests, SETTINGS),
        link=parse_network("10/50mbit,40ms"),
    )


def test_report_is_a_picture_and_a_page(page: Path) -> None:
    assert page.name == "report.html"
    picture = page.with_name("report.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(picture[i : i + 4], "big") for i in (16, 20))
    assert width > 1500 and height > 700


def test_page_has_no_external_reference(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    references = References()
    references.feed(text)
    # Rounds, bits up, down, both, and time.
    assert len(references.addresses) == 5
    assert all(a.startswith("data:image/png;base64,") for a in references.addresses)
    assert not references.tags & {"script", "link", "iframe", "object", "embed"}
    without_images = re.sub(r"base64,[^\"]*", "", text)
    assert "://" not in without_images
    assert "url(" not in without_images and "@import" not in without_images


def test_page_names_all_algorithms_and_settings_escaped(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    references = References()
    references.feed(text)
    words = " ".join(references.words)
    for name in ALGORITHMS:
        assert name in words
        assert all(name in alternative for alternative in references.alternatives)
    for key, value in SETTINGS.items():
        assert key in words and str(value) in words
    assert not references.tags & {"b", "i"}, "not escaped"
    assert "ab" * 32 in words
    assert "10mbit/50mbit,40ms" in words


def test_report_without_minimum_link_or_second_seed(tmp_path: Path) -> None:
    rows = [r for r in comparison(known=False) if r.seed == 0][:22]
    diverged = record("dore", 0, 22, loss=1e30, excess=None, bits=10)
    lost = record("dore", 0, 24, loss=math.nan, excess=None, bits=20)
    rows += [diverged, lost]
    text = write_report(tmp_path, rows, summarise(rows, {}, {})).read_text()
    assert text.count("data:image/png") == 4
    assert "Final models" not in text
    assert "standard deviation" not in text


def test_report_says_what_it_lacks(tmp_path: Path) -> None:
    rows = [record(round_=1, bits=8)]
    summary = summarise(rows, {}, {})
    with pytest.raises(ConfigurationError, match="num_clients"):
        write_report(tmp_path, rows, summary, link=parse_network("1mbit"))
    with pytest.raises(ConfigurationError, match="at least one round"):
        write_report(tmp_path, [], summary)


def test_summary_table_has_a_row_per_algorithm() -> None:
    rows = list(comparison())
    table = summary_tables(summarise(rows, {}, SETTINGS))[0]
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table)
    console.file.close()
    text = console.export_text()
    assert table.row_count == len(ALGORITHMS)
    for name in ALGORITHMS:
        assert name in text


# --- network --------------------------------------------------------------------------


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


@pytest.mark.parametrize(
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


def test_decentralized_runs_show_nodes_edges_and_the_cut_off(tmp_path: Path) -> None:
    rows = []
    for name, bits in (("malcom", 10**9), ("dpsgd", 4 * 10**9)):
        for round_ in (0, 5, 10):
            nodes = Nodes(
                node=(0, 1),
                accuracy=(0.5, 0.75),
                distance=(1.0, 3.0),
                zeros=(0.25, 0.25),
                sent_bytes=(round_, 2 * round_),
                sent_bits=(8 * round_, 16 * round_),
                edges=(0, 1, 10**6, 80, 1, 0, 2 * 10**6, 160) if round_ == 10 else (),
            )
            row = record(name, 0, round_, bits=bits * round_ // 10)
            rows.append(replace(row, downlink_bits=0, nodes=nodes if round_ else None))
    summary = summarise(rows, {}, SETTINGS)
    summary["cutoff"] = cut_off(rows, 0.1, {"malcom": 5.0, "dpsgd": 50.0})
    assert summary["algorithms"]["malcom"]["nodes"] == {
        "accuracy": {"mean": 0.625, "std": None},
        "least_accuracy": {"mean": 0.5, "std": None},
        "consensus_distance": {"mean": 2.0, "std": None},
        "zeros": {"mean": 0.25, "std": None},
        "bits_a_node": {"mean": 120.0, "std": None},
        "bits_an_edge": {"mean": 120.0, "std": None},
    }
    tables = summary_tables(summary)
    assert len(tables) == 3
    assert "down" not in [column.header for column in tables[0].columns]
    assert "bits of DPSGD's" in [column.header for column in tables[0].columns]
    page = write_report(tmp_path, rows, summary).read_text()
    assert page.count("<img ") == 3
    for text in ("Edges of malcom", "the paper&#39;s GB", "to 1", "the nodes of"):
        assert text in page
    cells = re.findall(r"<tr><td>from 0</td><td>(.*?)</td><td>(.*?)</td></tr>", page)
    assert cells == [("", "1"), ("", "1")]
    assert "10 %" in page  # of the paper's error-free number
