"""Least squares and tables: gradients, minima, files, and what stands in for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn import datasets

from flower_compress.errors import ConfigurationError
from simulations.tasks import make_task
from simulations.tasks.openml import fetch_table
from simulations.tasks.squares import SquaresObjective
from simulations.tasks.tables import TABLES, load_table

SHIPPED = {"breast-cancer": 31, "wine": 14, "diabetes": 11, "toy": 20}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_minimum_and_the_smoothness_are_those_of_the_clients(name: str) -> None:
    task = make_task(name, partition="label", num_clients=5)
    best = task.minimizer()
    assert best.shape == (SHIPPED[name],)

    def gradient(w: np.ndarray) -> np.ndarray:
        arrays = {"weights": w.astype(np.float32)}
        parts = [task.objective(i).gradient(arrays, None)[1] for i in range(5)]
        return np.mean([part["weights"] for part in parts], axis=0)

    assert np.linalg.norm(gradient(best)) < 1e-5
    arrays = {"weights": best.astype(np.float32)}
    assert task.evaluate(arrays).loss == pytest.approx(task.optimum(), abs=1e-9)
    losses = [task.objective(i).evaluate(arrays)["loss"] for i in range(5)]
    assert np.mean(losses) == pytest.approx(task.evaluate(arrays).loss, rel=1e-12)
    assert task.evaluate(arrays).accuracy > 0.45

    generator = np.random.Generator(np.random.Philox(0))
    one, two = generator.normal(size=(2, SHIPPED[name]))
    change = np.linalg.norm(gradient(one) - gradient(two)) / np.linalg.norm(one - two)
    mu, least, most = (
        task.strong_convexity(),
        task.global_smoothness(),
        task.smoothness(),
    )
    assert mu <= change * 1.01 and change <= least * 1.01 <= most * 1.02
    assert mu == pytest.approx(
        1 / sum(task.objective(i).num_examples for i in range(5))
    )


def test_the_smoothness_of_parity_is_known() -> None:
    task = make_task("parity", partition="label", num_clients=20)
    assert task.smoothness() == pytest.approx(3.656, abs=1e-3)
    assert task.global_smoothness() == pytest.approx(2.862, abs=1e-3)


def test_least_squares_by_hand() -> None:
    client = SquaresObjective(
        np.float32([[1, 2], [3, 4]]), np.array([1.0, 0.0]), l2=0.5
    )
    arrays = {"weights": np.float32([2, -1])}
    loss, gradient = client.gradient(arrays, None)  # rests -1 and 2
    assert loss == pytest.approx(0.5 * (1 + 4) / 2 + 0.25 * 5)
    np.testing.assert_allclose(gradient["weights"], [5 / 2 + 1, 6 / 2 - 0.5])
    loss, gradient = client.gradient(arrays, np.array([1]))
    np.testing.assert_allclose(gradient["weights"], [6 + 1, 8 - 0.5])
    loss, moved = client.local_steps(arrays, [np.array([1])], 0.1)
    np.testing.assert_allclose(moved["weights"], [2 - 0.7, -1 - 0.75], rtol=1e-6)
    with pytest.raises(ConfigurationError, match="an empty batch"):
        client.gradient(arrays, np.array([], np.intp))
    with pytest.raises(ConfigurationError, match="no other model"):
        make_task("diabetes", model="cnn", num_clients=2)


@pytest.mark.parametrize("name", ["a9a", "superconduct"])
def test_a_stand_in_has_the_size_of_the_table_and_says_what_it_is(name: str) -> None:
    table, examples = TABLES[name], load_table(name)
    assert (examples.num_examples, examples.num_features - 1) == (
        table.examples,
        table.features,
    )
    share = np.mean(examples.features[:, :-1] != 0)
    assert share == pytest.approx(table.density, rel=0.03)
    assert (examples.features[:, -1] == 1).all()
    assert examples.origin.startswith(f"made-up examples stand in for {name}: ")
    few = make_task(name, num_clients=4, examples=300)
    assert sum(few.objective(i).num_examples for i in range(4)) == 300
    assert few.origin.startswith(f"made-up examples stand in for {name}: 300 of ")


def test_a_table_is_read_from_a_file(tmp_path: Path) -> None:
    lines = ["+1 1:1 3:1", "-1 2:1 123:1", "+1 5:1"]
    (tmp_path / "a9a.txt").write_text("\n".join(lines))
    examples = load_table("a9a", str(tmp_path))
    assert examples.features.shape == (3, 124) and examples.origin == ""
    assert [np.flatnonzero(row).tolist() for row in examples.features] == [
        [0, 2, 123],
        [1, 122, 123],
        [4, 123],
    ]
    assert examples.labels.tolist() == [1, -1, 1]

    rows = np.random.Generator(np.random.Philox(0)).normal(size=(50, 82))
    text = "\n".join(",".join(map(repr, row.tolist())) for row in rows)
    (tmp_path / "superconduct.csv").write_text("a header" + 81 * ",b" + "\n" + text)
    table = load_table("superconduct", str(tmp_path))
    assert table.features.shape == (50, 82) and table.targets is not None
    np.testing.assert_allclose(
        table.targets, (rows[:, -1] - rows[:, -1].mean()) / rows[:, -1].std()
    )
    for column in table.features[:, :-1].T:
        assert abs(column.mean()) < 1e-6 and column.std() == pytest.approx(1, rel=1e-5)


def test_a_file_that_is_not_there_or_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"w8a.csv, got none.*leave --data ou"):
        make_task("w8a", num_clients=2, data=str(tmp_path))
    (tmp_path / "w8a").write_text("no table")
    with pytest.raises(ConfigurationError, match="w8a in LIBSVM's format"):
        make_task("w8a", num_clients=2, data=str(tmp_path))
    (tmp_path / "w8a").write_text("1 1:1\n2 1:1\n3 2:1")
    with pytest.raises(ConfigurationError, match="two classes, came 3 values"):
        make_task("w8a", num_clients=2, data=str(tmp_path))


def test_tables_from_openml_are_those_of_libsvm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []
    signs = np.array(["-1", "1"] * 6)
    a9a = np.eye(12, 123)
    # 22 columns of two values and 8 of three, as whole numbers for their names.
    values = np.array([2] * 22 + [3] * 8)
    phishing = np.arange(12)[:, None] % values

    def fetch(**arguments: Any) -> tuple[Any, Any]:
        asked.append(arguments)
        if "data_id" in arguments:
            return phishing.astype(np.float64), signs
        return csr_matrix(a9a), signs

    monkeypatch.setattr(datasets, "fetch_openml", fetch)
    load_table.cache_clear()
    examples = load_table("a9a", "openml")
    assert {"name": "a9a", "version": 1}.items() <= asked[0].items()
    np.testing.assert_array_equal(examples.features[:, :-1], a9a)
    assert examples.labels.tolist() == [-1, 1] * 6
    assert examples.origin == "a9a as OpenML has it: 12 examples for 32,561"

    rows, _ = fetch_table("phishing", 68)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0)
    assert np.count_nonzero(rows, axis=1).tolist() == [30] * 12
    assert [*np.flatnonzero(rows[4, 44:])] == [*range(1, 24, 3)]  # 4 % 3
    with pytest.raises(ConfigurationError, match="expected 81 features .* got 30"):
        load_table("superconduct", "openml")


def test_without_a_network_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fetch(**_: Any) -> None:
        raise URLError("no route")

    monkeypatch.setattr(datasets, "fetch_openml", fetch)
    with pytest.raises(ConfigurationError, match=r"no route.*\n?.*--data FOLDER"):
        load_table("w8a", "openml")
    with pytest.raises(ConfigurationError, match="quantum is not on OpenML"):
        load_table("quantum", "openml")
