"""rounds.csv: what is written is read back, of interrupted runs too."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_compress.errors import ConfigurationError
from simulations.records import RecordsError, RoundRecord, RoundsCsv, read_rounds
from tests.simulations.rows import record

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
    uplink_entropy_bits=st.none() | counts,
    downlink_formula_bits=st.none() | counts,
)


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
        "uplink_bytes,downlink_bytes,uplink_bits,downlink_bits,"
        "uplink_entropy_bits,downlink_entropy_bits,"
        "uplink_formula_bits,downlink_formula_bits",
        "sgd,0,0,0.1,,0.5,100,100,0,0,,,,",
        "sgd,0,0,nan,0.5,0.5,100,100,0,0,,,,",
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


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rounds.csv"
    header = "algorithm,seed,round,loss,excess_loss,accuracy,uplink_bytes"
    header += ",downlink_bytes,uplink_bits,downlink_bits"
    path.write_text(f"{header}\nsgd,0,1,1.0,0.5,0.5,100,100,0,0\n")
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
