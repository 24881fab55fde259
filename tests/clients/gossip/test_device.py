"""Nodes that compress on a device of torch."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("flwr")
torch = pytest.importorskip("torch")

from flwr.app import Context, Message, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402

from flower_compress import DitheredQuantizer, RotatedQuantizer  # noqa: E402
from flower_compress.clients import GossipMod  # noqa: E402
from flower_compress.clients.gossip import posting  # noqa: E402
from flower_compress.compressors import Compressor  # noqa: E402
from flower_compress.compressors.arrays import backends  # noqa: E402
from flower_compress.compressors.arrays.torch_ops import TorchOps  # noqa: E402
from flower_compress.errors import RoundFailedError, WrongTypeError  # noqa: E402
from flower_compress.strategies import MalcomPSGD  # noqa: E402
from flower_compress.strategies.topology import ring  # noqa: E402
from flower_compress.testing import InProcessGrid  # noqa: E402
from tests.strategies.problem import (  # noqa: E402
    INITIAL,
    NUM_CLIENTS,
    gradient,
    to_record,
    to_vector,
)

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def models(compressor: Compressor, device: Any) -> list[bytes]:
    """Return the nodes' models after some rounds."""
    app = ClientApp(mods=[GossipMod("gradient", device=device)])

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        result = gradient(client, to_vector(msg.content["arrays"]), 0)
        return Message(RecordDict({"arrays": to_record(result)}), reply_to=msg)

    strategy = MalcomPSGD(ring(NUM_CLIENTS), compressor, step_size=0.05)
    grid = InProcessGrid(app, NUM_CLIENTS)
    strategy.start(grid, to_record(INITIAL), num_rounds=4)
    return [to_vector(model).tobytes() for model in strategy.node_models.values()]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
def test_a_node_may_compress_on_a_device(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of shared randomness the run is the same; of a device's own it is another."""
    shared = models(RotatedQuantizer(), None)
    private = models(DitheredQuantizer(), None)
    assert models(DitheredQuantizer(), "cpu") == private
    seen, on_device = [], posting._on_device

    def noted(x: Any, device: str) -> Any:
        seen.append(on_device(x, device))
        return seen[-1]

    monkeypatch.setattr(posting, "_on_device", noted)
    monkeypatch.setattr(
        backends, "_torch_ops", lambda device: TorchOps(device, as_device=True)
    )
    assert models(RotatedQuantizer(), lambda msg: device) == shared
    assert models(DitheredQuantizer(), device) != private
    assert len(seen) == 2 * 4 * NUM_CLIENTS
    assert {tensor.device.type for tensor in seen} == {device}


def test_a_device_that_is_none_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(WrongTypeError, match="device"):
        GossipMod(device=3)  # type: ignore[arg-type]
    with pytest.raises(RoundFailedError):
        models(DitheredQuantizer(), "nonsense")
    assert "expected a device that torch has here, as 'cuda'" in caplog.text
