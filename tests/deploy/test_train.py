"""When ``train.py`` says that a run is over."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.deploy.fleet import APP, DEPLOY

GONE = {
    "success": False,
    "error-message": "Connection to the SuperLink is unavailable. Please check it.",
}
LOST = {"success": False, "error-message": "[code: 16] Run ID not found."}
SLOW = {"success": False, "error-message": "503 Service Unavailable"}


def run(status: str, run_id: str = "7") -> dict[str, Any]:
    """Return what ``flwr list`` says of a run."""
    described = {"run-id": run_id, "status": status, "status-details": ""}
    return {"success": True, "runs": [{"fab-name": "fleet-check", **described}]}


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """``train.py``, which does not wait."""
    spec = importlib.util.spec_from_file_location("train", DEPLOY / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LOOKS", 0.0)
    yield module


def answers(*looks: dict[str, Any], before: str = "") -> Callable[..., dict[str, Any]]:
    """Return what answers for ``flwr``, and fails a test that looks once too often."""
    rest = iter(looks)

    def flwr(*words: str) -> dict[str, Any]:
        asked.append(words)
        if words[0] == "run":
            return {"success": True, "run-id": "7"}
        if words[0] == "stop":
            return {"success": True}
        if "--run-id" in words:
            return next(rest)
        return run(before, "6") if before else {"success": True, "runs": []}

    asked: list[tuple[str, ...]] = []
    flwr.asked = asked  # type: ignore[attr-defined]
    return flwr


@pytest.mark.parametrize(
    ("looks", "code"),
    [
        ([run("running"), run("finished:completed")], 0),
        ([run("running"), run("finished:stopped")], 0),
        ([run("running"), run("finished:failed")], 1),
        ([run("running"), SLOW, SLOW, run("running"), run("finished:completed")], 0),
        ([run("running"), GONE, GONE, run("running")], 1),
        ([run("running"), GONE, run("finished:completed")], 0),
        ([run("running"), *2 * [GONE, run("running")], run("finished:completed")], 0),
        ([run("running"), GONE, LOST], 1),
        ([LOST], 1),
    ],
)
def test_how_it_ends(
    train: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    looks: list[dict[str, Any]],
    code: int,
) -> None:
    monkeypatch.setattr(train, "flwr", answers(*looks))
    assert train.main(str(APP), "fleet") == code


def test_a_run_that_still_counts_as_running_is_stopped(
    train: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    flwr = answers(run("finished:completed"), before="running")
    monkeypatch.setattr(train, "flwr", flwr)
    assert train.main(str(APP), "fleet") == 0
    stops = [words for words in flwr.asked if words[0] == "stop"]  # type: ignore[attr-defined]
    assert stops == [("stop", "6", "fleet")]
