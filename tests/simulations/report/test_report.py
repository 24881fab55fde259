"""A report: a picture, a page without a reference to the outside, and tables."""

from __future__ import annotations

import math
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from flower_compress.errors import ConfigurationError
from simulations.network import parse_network
from simulations.records import Claim, Nodes, cut_off, judge, summarise
from simulations.report import claim_lines, summary_tables, write_report
from tests.simulations.rows import ALGORITHMS, SETTINGS, comparison, record


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


def test_claims_are_told_with_their_numbers(tmp_path: Path) -> None:
    rows = [*comparison()]
    summary = summarise(rows, {}, SETTINGS)
    claims = [
        Claim("<b>less</b>", "mcm", "bits", "sgd", at_most=0.2, paper=0.125),
        Claim("lower", "mcm", "level", "sgd", at_most=-1.0),
        Claim("not told", "mcm", "consensus", at_least=1.0),
    ]
    summary["claims"] = judge(claims, rows, ["other data"])
    summary["paper"] = {"mcm": -2.5}
    lines = claim_lines(summary)
    assert lines[0] == "Claims of the source: 1 of 3 hold here"
    assert [line.split("  ")[1] for line in lines[1:4]] == [
        "holds",
        "does not hold",
        "not known",
    ]
    assert lines[1].endswith(
        "bits of mcm against sgd is 0.1667 ± 0, at most 0.2 needed, the paper's 0.125"
    )
    assert lines[4] == "Not as in the source: other data."
    table = summary_tables(summary)[0]
    (paper,) = (c for c in table.columns if c.header == "the paper's")
    assert [*paper.cells] == ["–"] * 5 + ["-2.5", "–", "–"]
    page = write_report(tmp_path, rows, summary).read_text()
    assert "&lt;b&gt;less" in page and "does not hold" in page and "other data" in page
    assert claim_lines(summarise(rows, {}, SETTINGS)) == []


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
    alone = [row for row in rows if row.algorithm == "malcom"]
    for paper, more in (({}, []), ({"malcom": 5.0}, ["the paper's GB"])):
        *_, table = summary_tables({**summary, "cutoff": cut_off(alone, 0.1, paper)})
        headers = [column.header for column in table.columns]
        assert headers == ["algorithm", "rounds", "Gbit", *more]
    page = write_report(tmp_path, rows, summary).read_text()
    assert page.count("<img ") == 3
    for text in ("Edges of malcom", "the paper&#39;s GB", "to 1", "the nodes of"):
        assert text in page
    cells = re.findall(r"<tr><td>from 0</td><td>(.*?)</td><td>(.*?)</td></tr>", page)
    assert cells == [("", "1"), ("", "1")]
    assert "10 %" in page  # of the paper's error-free number
