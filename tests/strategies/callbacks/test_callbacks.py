"""Observers are told of each round and each client, and change nothing."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import FedAvg, Result

from flower_compress import StochasticQuantizer
from flower_compress.errors import (
    ConfigurationError,
    MissingExtraError,
    WrongTypeError,
)
from flower_compress.strategies import MCM, MalcomPSGD, compress
from flower_compress.strategies.callbacks import (
    Callback,
    ClientEvent,
    JsonLines,
    MLflow,
    RoundMetrics,
    RunInfo,
    TensorBoard,
    mlflow,
)
from flower_compress.strategies.topology import ring
from flower_compress.testing import Fault, FaultyGrid, InProcessGrid
from tests.protocol.faulty import PlannedSchedule
from tests.strategies.problem import (
    INITIAL,
    NUM_CLIENTS,
    make_app,
    to_record,
    to_vector,
)
from tests.strategies.test_decentralized import make_node_app


class Notes(Callback):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.runs: list[RunInfo] = []
        self.rounds: dict[int, RoundMetrics] = {}
        self.events: list[ClientEvent] = []
        self.ends: list[BaseException | None] = []

    def on_start(self, run: RunInfo) -> None:
        self.runs.append(run)

    def on_round(self, server_round: int, metrics: RoundMetrics) -> None:
        self.rounds[server_round] = metrics

    def on_event(self, event: ClientEvent) -> None:
        self.events.append(event)

    def on_end(self, result: Result, error: BaseException | None) -> None:
        self.ends.append(error)


class Raises(Notes):
    def on_round(self, server_round: int, metrics: RoundMetrics) -> None:
        super().on_round(server_round, metrics)
        raise OSError("no space left")


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    return MetricRecord({"norm": float(np.linalg.norm(to_vector(arrays)))})


MAKE: dict[str, Any] = {
    "mcm": lambda **kwargs: MCM(StochasticQuantizer(2), step_size=0.05, **kwargs),
    "compress": lambda **kwargs: compress(FedAvg(), **kwargs),
    "relay": lambda **kwargs: MalcomPSGD(ring(NUM_CLIENTS), **kwargs),
}


def run(name: str, num_rounds: int = 3, **kwargs: Any) -> tuple[Any, Result]:
    app = make_app("weights") if name == "compress" else make_app()
    if name == "relay":
        app = make_node_app()
    strategy = MAKE[name](**kwargs)
    grid = InProcessGrid(app, NUM_CLIENTS)
    result = strategy.start(grid, to_record(INITIAL), num_rounds, evaluate_fn=evaluate)
    return strategy, result


@pytest.mark.parametrize("name", MAKE)
def test_a_callback_is_told_every_number_and_changes_none(name: str) -> None:
    notes, bad = Notes(), Raises()
    strategy, result = run(name, callbacks=[bad, notes])
    _, alone = run(name)
    assert to_vector(result.arrays).tobytes() == to_vector(alone.arrays).tobytes()
    assert [info.num_rounds for info in notes.runs] == [3]
    assert list(notes.rounds) == [0, 1, 2, 3] and notes.ends == [None]
    for number, metrics in notes.rounds.items():
        assert metrics.evaluate_at_server == result.evaluate_metrics_serverapp[number]
        if number:
            assert metrics.train == dict(result.train_metrics_clientapp[number])
            assert metrics.uplink.num_bytes > 0 and metrics.downlink.num_bytes > 0
    for direction in ("uplink", "downlink"):
        counted = [getattr(m, direction) for m in notes.rounds.values()]
        total = getattr(strategy.ledger, direction)
        assert sum(t.num_bytes for t in counted) == total.num_bytes
        assert sum(t.messages for t in counted) == total.messages
        assert sum(t.payload_bits for t in counted) == total.payload_bits
    assert Counter(e.kind for e in notes.events) == {"joined": NUM_CLIENTS}
    assert {(e.identity, e.node_id) for e in notes.events} == {
        (i, 1001 + i) for i in range(NUM_CLIENTS)
    }
    assert list(bad.rounds) == [0] and not bad.ends, "switched off"


def test_a_callback_that_raises_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    caplog.set_level(logging.INFO, logger="flwr")
    run("mcm", callbacks=[Raises()])
    assert caplog.text.count("callback Raises is switched off, since it raised") == 1
    assert "Aggregated ClientApp-side" not in caplog.text, "no dump of all rounds"
    assert "Sent: " in caplog.text
    with pytest.raises(WrongTypeError, match="not the class"):
        MCM(callbacks=[Raises])
    with pytest.raises(WrongTypeError, match="a list"):
        MCM(callbacks=Raises())
    with pytest.raises(ConfigurationError, match="twice"):
        MCM(callbacks=[notes := Notes(), notes])


def test_what_happens_to_clients_is_told() -> None:
    """Exchange 0 greets; client 0 is silent, 1 raises, 2 restarts, 3 comes twice."""
    plan = {
        (2, 0): [Fault.LOSE_REPLY],
        (2, 1): [Fault.RAISE_BEFORE],
        (3, 2): [Fault.RESTART_BEFORE],
        (2, 3): [Fault.DUPLICATE_REPLY],
    }
    notes = Notes()
    grid = FaultyGrid(InProcessGrid(make_app(), NUM_CLIENTS), PlannedSchedule(plan, 0))
    strategy = MAKE["mcm"](callbacks=[notes], fraction_evaluate=0.0)

    def leave(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round == 4:
            grid.leave(1005)
        if server_round == 5:
            strategy.forget(4)
        return None

    strategy.start(grid, to_record(INITIAL), 5, evaluate_fn=leave)
    told = [
        (e.server_round, e.kind, e.identity, e.node_id)
        for e in notes.events
        if e.kind != "joined"
    ]
    assert sorted(told) == [
        (2, "lost", 0, 1001),
        (2, "lost", 1, 1002),
        (3, "resynchronised", 2, 1003),
        (5, "forgotten", 4, 1005),
        (5, "lost", 4, 1005),
    ]
    assert notes.rounds[2].clients == {"lost": 2}
    reasons = {e.identity: e.reason for e in notes.events if e.server_round == 2}
    assert "no answer" in reasons[0] and "InjectedError" in reasons[1]


def test_the_end_by_an_error_is_told(tmp_path: Path) -> None:
    notes = Notes()

    def stop(server_round: int, result: Result) -> bool:
        raise KeyboardInterrupt

    strategy = MAKE["mcm"](callbacks=[notes, JsonLines(tmp_path / "a" / "run.jsonl")])
    with pytest.raises(KeyboardInterrupt):
        grid = InProcessGrid(make_app(), NUM_CLIENTS)
        strategy.start(grid, to_record(INITIAL), 3, should_stop=stop)
    assert [type(error) for error in notes.ends] == [KeyboardInterrupt]
    last = (tmp_path / "a" / "run.jsonl").read_text().splitlines()[-1]
    assert json.loads(last) == {"kind": "end", "error": "KeyboardInterrupt: "}


def rows(path: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


def test_json_lines_go_on_where_the_run_does(tmp_path: Path) -> None:
    path, options = tmp_path / "run.jsonl", {"checkpoint_dir": tmp_path / "saved"}
    options |= {"checkpoint_every": 2}
    run("mcm", 2, callbacks=[JsonLines(path)])  # an earlier run
    killed = {"callbacks": [JsonLines(path)], **options}
    app, initial = make_app(), to_record(INITIAL)
    grid = InProcessGrid(app, NUM_CLIENTS)

    def die(server_round: int, result: Result) -> bool:
        if server_round == 4:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        MAKE["mcm"](**killed).start(grid, initial, 5, should_stop=die)
    with path.open("a") as file:
        file.write('{"kind": "round", "ro')  # torn
    strategy = MAKE["mcm"](resume=True, **killed)
    result = strategy.start(grid, initial, 5)
    found = rows(path, "round")
    assert [row["round"] for row in found] == [0, 1, 2, 1, 2, 3, 4, 5]
    assert [row["round"] for row in rows(path, "start")] == [0, 0, 2]
    for row in found[3:]:
        train = dict(result.train_metrics_clientapp[row["round"]])
        assert row["train"] == train
        assert row["uplink"]["bytes"] >= train["uplink-bytes"] > 0
    assert sum(row["uplink"]["bytes"] for row in found[3:]) == (
        strategy.ledger.uplink.num_bytes
    )
    assert {row["event"] for row in rows(path, "event")} == {"joined"}


def test_json_lines_leave_other_runs_and_other_lines_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text('of somebody else\n{"a": 1}\nwithout an end')
    lines = JsonLines(path)

    def tell(session: int, *rounds: int, resumed_from: int = 0) -> None:
        lines.on_start(RunInfo("MCM", session, 3, resumed_from))
        for number in rounds:
            lines.on_round(number, RoundMetrics())
        lines.on_end(Result(), None)

    tell(1, 1, 2)
    tell(2, 1, 2, 3)
    tell(1, 2, 3, resumed_from=1)
    first, *rest = path.read_text().split('{"kind"', 1)
    assert first == 'of somebody else\n{"a": 1}\nwithout an end\n'
    found = [json.loads(line) for line in ('{"kind"' + rest[0]).splitlines()]
    told = [row.get("round", "end") for row in found]
    assert told == [0, 1, "end", 0, 1, 2, 3, "end", 1, 2, 3, "end"]


def test_json_lines_keep_off_the_file_of_the_checkpoints(tmp_path: Path) -> None:
    """Each would cut out what the other has written."""
    run("mcm", 2, checkpoint_dir=tmp_path)
    kept = (tmp_path / "metrics.jsonl").read_bytes()
    lines = JsonLines(tmp_path / "." / "metrics.jsonl")
    with pytest.raises(ConfigurationError, match="give it another file"):
        run("mcm", 4, callbacks=[lines], checkpoint_dir=tmp_path, resume=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == kept
    run("mcm", 4, checkpoint_dir=tmp_path, resume=True)  # The folder is free again.


def test_json_lines_read_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal is waited for, and there are devices without an end."""

    def read(path: Path, **kwargs: Any) -> str:
        raise AssertionError("read")

    monkeypatch.setattr(Path, "read_text", read)
    lines = JsonLines(os.devnull)
    lines.on_start(RunInfo("MCM", 1, 3, 1))
    lines.on_end(Result(), None)


def test_json_has_no_nan(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "run.jsonl")
    lines.on_start(RunInfo("MCM", 1, 3))
    lines.on_round(1, RoundMetrics({"loss": float("nan"), "each": [1.0, np.inf]}))
    lines.on_end(Result(), None)
    (row,) = rows(lines.path, "round")
    assert row["train"] == {"loss": None, "each": [1.0, None]}


def test_tensorboard_files_hold_each_round(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="of the extra dev")
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="of dev"
    )
    notes = Notes()
    run("mcm", callbacks=[TensorBoard(tmp_path), notes])
    found = reader.EventAccumulator(str(tmp_path))
    found.Reload()
    for name in ("uplink/bytes", "downlink/bytes", "train/uplink-bytes", "server/norm"):
        wanted = [
            (number, dict(metrics.scalars())[name])
            for number, metrics in notes.rounds.items()
            if name in dict(metrics.scalars())
        ]
        written = [(event.step, event.value) for event in found.Scalars(name)]
        assert written == [(step, pytest.approx(value)) for step, value in wanted]
        assert len(written) >= 3


class Tracking:
    """The calls of MLflow's client that are used, and nothing else."""

    def __init__(self) -> None:
        self.uris: list[str | None] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.entities = SimpleNamespace(
            Metric=lambda key, value, time, step: (key, value, step)
        )

    def MlflowClient(self, uri: str | None) -> Tracking:  # noqa: N802
        self.uris.append(uri)
        return self

    def get_experiment_by_name(self, name: str) -> Any:
        return None

    def create_experiment(self, name: str) -> str:
        return "7"

    def create_run(self, experiment: str, tags: dict[str, str], run_name: str) -> Any:
        assert experiment == "7"
        run_id = f"run-{len(self.runs)}"
        self.runs[run_id] = {"tags": tags, "name": run_name, "metrics": []}
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def search_runs(self, experiments: list[str], wanted: str) -> list[Any]:
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=run_id))
            for run_id, run in self.runs.items()
            if all(f"tags.`{k}` = '{v}'" == wanted for k, v in run["tags"].items())
        ]

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        assert len(metrics) <= 1000, "as MLflow's own limit"
        self.runs[run_id]["metrics"] += metrics

    def set_terminated(self, run_id: str, status: str) -> None:
        self.runs[run_id]["status"] = status


def test_mlflow_is_given_each_round_of_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = Tracking()
    monkeypatch.setattr(mlflow, "import_module", lambda name: tracking)
    options = {"checkpoint_dir": tmp_path, "callbacks": [MLflow(tracking_uri="here")]}
    run("mcm", 2, **options)
    notes = Notes()
    options["callbacks"].append(notes)
    strategy, _ = run("mcm", 4, resume=True, **options)
    (found,) = tracking.runs.values()
    assert found["name"] == "MCM" and found["status"] == "FINISHED"
    assert tracking.uris == ["here", "here"]
    sent = [(v, step) for name, v, step in found["metrics"] if name == "uplink/bytes"]
    assert [step for _, step in sent] == [0, 1, 2, 3, 4]
    assert sum(value for value, _ in sent) == strategy.ledger.uplink.num_bytes
    assert list(notes.rounds) == [3, 4]


def test_mlflow_takes_any_name_and_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = Tracking()
    monkeypatch.setattr(mlflow, "import_module", lambda name: tracking)
    logged = MLflow()
    logged.on_start(RunInfo("MCM", 1, 3))
    logged.on_round(1, RoundMetrics({"acc@1": 0.5, "a/../b": 1.0, "all": [0.1] * 1500}))
    found = {name for name, _, _ in tracking.runs["run-0"]["metrics"]}
    assert {"train/acc_1", "train/a/_/b", "train/all/1499"} <= found
    with pytest.raises(WrongTypeError, match="experiment must be a name, got 3"):
        MLflow(3)  # type: ignore[arg-type]


def test_a_missing_extra_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(mlflow, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"flower-compress\[mlflow\]"):
        MLflow()
