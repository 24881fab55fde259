"""The models: their size, and the same initial weights with every torch."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from flower_compress.clients.torch_objective import arrays_of
from flower_compress.errors import ConfigurationError
from flower_compress.streams import Purpose, Stream
from simulations.tasks import MODELS, make_task
from simulations.tasks.dataset import Dataset
from simulations.tasks.digits import load_digits
from simulations.tasks.models import build_model


@pytest.mark.parametrize(
    ("name", "model", "dimension"),
    [
        ("digits", "softmax", 650),
        ("digits", "mlp", 9610),
        ("digits", "mlp-512", 301_066),
        ("digits", "cnn", 6090),
        ("digits28", "softmax", 7850),
        ("digits28", "mlp", 101_770),
        ("digits28", "mlp-512", 669_706),
        ("digits28", "cnn", 20_490),
        ("digits28", "lenet", 44_426),
    ],
)
def test_digits_models_have_their_dimension(
    name: str, model: str, dimension: int
) -> None:
    arrays = make_task(name, model=model, num_clients=20).initial_arrays()
    assert sum(array.size for array in arrays.values()) == dimension
    assert all(array.dtype == np.float32 for array in arrays.values())


@pytest.mark.parametrize("model", [m for m in MODELS if m not in ("resnet18", "lenet")])
def test_digits_initial_weights_come_from_the_seed_alone(model: str) -> None:
    drawn = []
    for state, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        # A different number of clients, so that the cache does not answer.
        task = make_task("digits", model=model, num_clients=10 + state, seed=seed)
        assert torch.equal(before, torch.get_rng_state())
        drawn.append(task.initial_arrays())
    for name, array in drawn[0].items():
        np.testing.assert_array_equal(array, drawn[1][name])
        assert not np.array_equal(array, drawn[2][name])
        fan_in = drawn[0][name.replace("bias", "weight")][0].size
        assert np.abs(array).max() <= fan_in**-0.5


COLOURS = Dataset(
    "colours",
    np.zeros((1, 3 * 32 * 32), np.float32),
    np.zeros(1, np.int64),
    np.zeros(1, np.int64),
    (3, 32, 32),
)

# SHA-256 of the arrays' bytes, in the order of the state dict, for seed 0.
INITIAL_SHA256 = {
    "softmax": "dabe2863944c56392d7967e799fa767c001e6a4383308c6872fb233207216006",
    "mlp": "6da2b8f036759b7897cc494b5b11fbc271bcfcd2090bcef4b814a78064475fc9",
    "mlp-512": "828440a9ba757fc6b15715660e73468ce9a45b573344620116e4374cfafe7d44",
    "cnn": "1b1a05095c961779d4c9bf9d4ceff28f2a051b1324946bd342adffc8180270ab",
    "lenet": "d9f20bd61a441e24cc41a07baea64f7998085541b37218695ab7e882f4a878cf",
    "resnet18": "fa2a0b2b6ac3882787a7c306c132a5e27a9acfcf4eec731f9205b7e495bd7544",
}


@pytest.mark.parametrize("model", MODELS)
def test_initial_weights_are_the_same_bytes_everywhere(model: str) -> None:
    examples = COLOURS if model in ("resnet18", "lenet") else load_digits()[0]
    arrays = arrays_of(build_model(model, examples, seed=0))
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays.values()))
    assert digest.hexdigest() == INITIAL_SHA256[model]


def test_initial_weights_are_one_stream_in_the_order_of_the_arrays() -> None:
    draws = Stream(3, Purpose.INITIAL_MODEL).draws()
    arrays = make_task("digits", model="cnn", num_clients=4, seed=3).initial_arrays()
    assert [*arrays] == [
        f"{layer}.{kind}"
        for layer in ("conv1", "conv2", "output")
        for kind in ("weight", "bias")
    ]
    for name, array in arrays.items():
        bound = arrays[name.replace("bias", "weight")][0].size ** -0.5
        uniforms = draws.uniforms(array.size).reshape(array.shape)
        expected = bound * (2 * uniforms - 1)
        np.testing.assert_array_equal(array, expected.astype(np.float32))


def test_initial_weights_are_uniform() -> None:
    arrays = make_task("digits", model="mlp-512", num_clients=4).initial_arrays()
    scaled = arrays["hidden2.weight"].astype(np.float64).ravel() * 512**0.5
    counts, _ = np.histogram(scaled, bins=16, range=(-1.0, 1.0))
    assert counts.sum() == scaled.size == 2**18
    deviation = np.sqrt(scaled.size * (1 / 16) * (15 / 16))
    assert np.abs(counts - scaled.size / 16).max() < 5 * deviation


def test_a_model_is_for_images() -> None:
    labels = np.zeros(1, np.int64)
    rows = Dataset("rows", np.zeros((1, 4), np.float32), labels, labels)
    with pytest.raises(ConfigurationError, match="expected images, came rows"):
        build_model("softmax", rows, seed=0)
