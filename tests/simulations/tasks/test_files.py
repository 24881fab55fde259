"""MNIST, its kin and CIFAR-10 from files, in the data sets' own formats, made small."""

from __future__ import annotations

import hashlib
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flower_compress.errors import ConfigurationError, MissingExtraError
from simulations.tasks import make_task
from simulations.tasks.files import load_files

NUM_TRAIN, NUM_TEST = 40, 10


def pixels(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def labels(count: int) -> NDArray[np.uint8]:
    return (np.arange(count) % 10).astype(np.uint8)


def write_mnist(root: Path, name: str, train: str, test: str) -> None:
    """IDX: two zero bytes, 8 for uint8, the number of axes, their lengths, the data."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for part, count in ((train, NUM_TRAIN), (test, NUM_TEST)):
        for kind, array in (
            ("images-idx3", pixels(count, 28, 28)),
            ("labels-idx1", labels(count)),
        ):
            head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(head + array.tobytes())


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickled batches, of which torchvision knows the checksums of the real ones."""
    # Seconds, which no worker takes that runs other tests.
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    folder.mkdir()

    def write(name: str, content: object) -> list[str]:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(name: str, count: int) -> list[str]:
        rows = pixels(count, 3072)
        return write(name, {"data": rows, "labels": labels(count).tolist()})

    train = [batch(f"data_batch_{i}", NUM_TRAIN // 5) for i in range(1, 6)]
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", [batch("test_batch", NUM_TEST)])
    name, digest = write("batches.meta", {"label_names": list("abcdefghij")})
    meta = {"filename": name, "key": "label_names", "md5": digest}
    monkeypatch.setattr(CIFAR10, "meta", meta)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with all."""
    write_mnist(tmp_path, "MNIST", "train", "t10k")
    write_mnist(tmp_path, "FashionMNIST", "train", "t10k")
    write_mnist(tmp_path, "EMNIST", "emnist-digits-train", "emnist-digits-test")
    write_cifar10(tmp_path, monkeypatch)
    return str(tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "emnist"])
def test_mnist_is_read_as_it_lies_there(name: str, data: str) -> None:
    train, test = load_files(name, data)
    assert (train.num_examples, test.num_examples) == (NUM_TRAIN, NUM_TEST)
    assert train.image_shape == (1, 28, 28) and train.features.dtype == np.float32
    expected = pixels(NUM_TRAIN, 28, 28).reshape(NUM_TRAIN, -1) / np.float32(255)
    np.testing.assert_array_equal(train.features, expected)
    np.testing.assert_array_equal(test.labels, labels(NUM_TEST))


def test_cifar10_has_its_channels_first(data: str) -> None:
    train, test = load_files("cifar10", data)
    assert (train.num_examples, test.num_examples) == (NUM_TRAIN, NUM_TEST)
    assert train.image_shape == (3, 32, 32)
    # The file itself holds all red, then all green, then all blue pixels.
    expected = pixels(NUM_TEST, 3072) / np.float32(255)
    np.testing.assert_array_equal(test.features, expected)
    np.testing.assert_array_equal(train.labels, np.tile(labels(8), 5))


@pytest.mark.parametrize(
    ("name", "model", "dimension"),
    [
        ("mnist", "softmax", 7_850),
        ("mnist", "mlp", 101_770),
        ("mnist", "cnn", 20_490),
        ("cifar10", "cnn", 25_578),
    ],
)
def test_every_model_trains_on_them(
    name: str, model: str, dimension: int, data: str
) -> None:
    task = make_task(name, model=model, num_clients=4, data=data)
    arrays = task.initial_arrays()
    assert sum(array.size for array in arrays.values()) == dimension
    before = task.evaluate(arrays).loss
    for _ in range(5):
        gradients = [task.objective(i).gradient(arrays, None)[1] for i in range(4)]
        for key in arrays:
            arrays[key] -= 0.05 * np.mean([g[key] for g in gradients], axis=0)
    assert task.evaluate(arrays).loss < before
    assert task.name == name


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_missing_files_are_a_clear_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_task(name, num_clients=2, data=str(tmp_path))
    message = str(caught.value)
    assert f"{name}: expected its files in '{tmp_path}', got Dataset not" in message
    assert f"{name.upper()}('{tmp_path}', download=True)" in message


def test_damaged_files_are_a_clear_error(data: str) -> None:
    path = Path(data) / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ConfigurationError, match="mnist: expected its files in"):
        load_files("mnist", data)


def test_a_folder_is_for_files_alone() -> None:
    with pytest.raises(ConfigurationError, match=r"mnist and cifar10 .* for mnist"):
        make_task("mnist", num_clients=2)
    with pytest.raises(ConfigurationError, match="came data='somewhere' for digits"):
        make_task("digits", num_clients=2, data="somewhere")


def test_without_torchvision_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingExtraError, match=r'"flower-compress\[simulation\]"'):
        load_files("mnist", "nowhere")
