"""Metrics are appended, and belong to a checkpoint whatever was written after it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import Result

from flower_compress.errors import CheckpointError
from flower_compress.strategies.run.metrics_log import MetricsLog


def result_of(rounds: int) -> Result:
    result = Result(arrays=ArrayRecord())
    for number in range(rounds + 1):
        result.evaluate_metrics_serverapp[number] = MetricRecord({"loss": 1 / 3})
        if number:
            row = MetricRecord({"norm": float("nan"), "bits": [number, 2]})
            result.train_metrics_clientapp[number] = row
    return result


def tables(result: Result) -> str:
    return repr(
        (
            result.train_metrics_clientapp,
            result.evaluate_metrics_clientapp,
            result.evaluate_metrics_serverapp,
        )
    )


def test_each_row_is_written_once_and_comes_back(tmp_path: Path) -> None:
    log, path = MetricsLog(tmp_path), tmp_path / "metrics.jsonl"
    marks = {}
    for number in (2, 3, 7):
        before = path.read_bytes() if path.exists() else b""
        marks[number] = log.append(result_of(number), number)
        assert path.read_bytes().startswith(before)
    assert len(path.read_bytes().splitlines()) == 8 + 7
    for number, mark in marks.items():
        result = Result(arrays=ArrayRecord())
        MetricsLog(tmp_path).restore(mark, number, result)
        assert tables(result) == tables(result_of(number))


def test_what_was_written_after_the_checkpoint_is_cut_off(tmp_path: Path) -> None:
    """The run was killed between the two writes, or goes back to an older one."""
    log, path = MetricsLog(tmp_path), tmp_path / "metrics.jsonl"
    mark = log.append(result_of(2), 2)
    whole = path.read_bytes()
    for torn in (b"", b'{"kind', b"more than what follows" * 99):
        path.write_bytes(whole + torn)
        again, result = MetricsLog(tmp_path), Result(arrays=ArrayRecord())
        again.restore(mark, 2, result)
        again.append(result_of(3), 3)
        assert path.read_bytes().startswith(whole + b'{"kind": "train", "round": 3')
        assert len(path.read_bytes().splitlines()) == 4 + 3


def test_a_failed_write_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = MetricsLog(tmp_path)
    log.append(result_of(1), 1)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(CheckpointError, match="No space left .* make room"):
            log.append(result_of(2), 2)
    mark = log.append(result_of(3), 3)
    result = Result(arrays=ArrayRecord())
    MetricsLog(tmp_path).restore(mark, 3, result)
    assert tables(result) == tables(result_of(3))


@pytest.mark.parametrize("damage", ["removed", "altered", "cut"])
def test_lost_metrics_are_said_and_end_no_run(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, path = MetricsLog(tmp_path), tmp_path / "metrics.jsonl"
    mark = log.append(result_of(2), 2)
    if damage == "removed":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data[:-1] if damage == "cut" else data.replace(b"3", b"4"))
    with pytest.raises(CheckpointError, match="copy it together with the checkpoints"):
        MetricsLog(tmp_path).read(mark)
    again, result = MetricsLog(tmp_path), Result(arrays=ArrayRecord())
    again.restore(mark, 2, result)
    assert "earlier rounds are lost" in caplog.text
    assert not result.train_metrics_clientapp
    mark = again.append(result_of(3), 3)
    assert [number for kind, number, _ in again.read(mark) if kind == "train"][-1] == 3
