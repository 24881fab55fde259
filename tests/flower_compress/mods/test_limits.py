"""How large a model a client takes: it refuses what is larger before it allocates."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, MessageType, RecordDict, UserConfig

from flower_compress import CompressionMod, TopK
from flower_compress.clients import GossipMod
from flower_compress.errors import ConfigurationError
from flower_compress.links import Direct
from flower_compress.mods import memory
from flower_compress.mods.client_mod import ClientMod
from flower_compress.testing import InProcessGrid
from flower_compress.wire.contract import Contract
from flower_compress.wire.gossip_contract import GossipContract
from flower_compress.wire.layout import Layout, Tensor
from flower_compress.wire.mail import Delivery, mail_record
from flower_compress.wire.packet import Packet, packet_record

FEW_BYTES = 1 << 18
PEERS = (((0, 0.25), (2, 0.25)),)
GOSSIP = GossipContract(
    Layout((Tensor("w", (8,), "float32", False),)),
    1,
    "cdprox-sgt",
    {"l1": 0.0},
    TopK(k=1),
    "auto",
    1.0,
    True,
    0.5,
    3,
    PEERS,
    PEERS,
)


@pytest.fixture(autouse=True)
def _server_process() -> Iterator[None]:
    """Flower lets only a process that runs an app create messages."""
    InProcessGrid(lambda msg, context: msg, 1)
    yield


def layout(dim: int, exact: bool = False) -> Layout:
    return Layout((Tensor("w", (dim,), "uint8" if exact else "float32", exact),))


def plain(model: Layout) -> RecordDict:
    contract = Contract(model, Direct(TopK(k=1)), None, 3).to_bytes()
    dim = min(model.dim, 2**32 - 1)
    sent = Packet(7, 0, 1, dim=dim, contract=contract)
    return RecordDict({"arrays": packet_record(sent)})


def gossip(model: Layout, contract: GossipContract = GOSSIP) -> RecordDict:
    data = replace(contract, layout=model).to_bytes()
    dim = min(model.dim, 2**32 - 1)
    return RecordDict(
        {"arrays": mail_record(Delivery(7, 1, dim=dim, contract=data).data)}
    )


def answer(mod: ClientMod[Any], content: RecordDict) -> tuple[Message, int]:
    """Return the reply, and the most memory that it took."""
    context = Context(1, 7, {"partition-id": 1}, RecordDict(), UserConfig({}))
    msg = Message(content, 7, MessageType.TRAIN)
    tracemalloc.start()
    reply = mod(msg, context, lambda msg, context: Message(RecordDict(), reply_to=msg))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not context.state or not reply.has_error()
    return reply, peak


@pytest.mark.parametrize(
    ("cls", "content"), [(CompressionMod, plain), (GossipMod, gossip)]
)
@pytest.mark.parametrize(
    ("max_dim", "model"),
    [
        (None, layout(4 * 10**11)),
        (10**6, layout(4 * 10**8)),
        (10**6, layout(4 * 10**9, exact=True)),
    ],
    ids=["beyond the machine", "beyond max_dim", "exact arrays"],
)
def test_a_model_that_is_too_large_is_refused(
    cls: type[ClientMod[Any]],
    content: Callable[[Layout], RecordDict],
    max_dim: int | None,
    model: Layout,
) -> None:
    """It costs a few kB; decoded, 400 million entries took 1.5 GB."""
    reply, peak = answer(cls(max_dim=max_dim), content(model))
    assert reply.error.reason.startswith(
        f"ConfigurationError: the server's model has {model.num_entries} entries"
    )
    assert f"(max_dim of {cls.__name__})" in reply.error.reason
    assert peak < FEW_BYTES


def test_estimates_of_many_neighbours_count() -> None:
    """A node keeps one of each neighbour where the graph changes."""
    peers = tuple(((j, 0.5),) for j in range(2, 100))
    changes = replace(GOSSIP, receives=peers, sends=peers)
    assert (GOSSIP.num_estimates(2), changes.num_estimates(2)) == (4, 2 * 2 * 98)
    few = GossipMod(max_dim=1000)
    assert not answer(few, gossip(layout(500)))[0].has_error()
    reply, _ = answer(few, gossip(layout(500), changes))
    assert "500 entries, which take" in reply.error.reason
    assert not answer(few, gossip(layout(10), changes))[0].has_error()


def test_the_largest_model_is_taken() -> None:
    assert not answer(CompressionMod(max_dim=8), plain(layout(8)))[0].has_error()
    assert answer(CompressionMod(max_dim=7), plain(layout(8)))[0].has_error()
    for wrong in (0, -1, float("nan"), "many", 1.5):
        with pytest.raises(ConfigurationError, match="max_dim must be a whole"):
            CompressionMod(max_dim=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("groups", "limits", "least"),
    [
        ("0::/app/job\n", {"memory.max": 5, "app/memory.max": 3}, 3),
        ("0::/app/job\n", {"app/job/memory.max": "max", "memory.max": 9}, 9),
        ("4:cpu,memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": 4}, 4),
        ("4:memory:/docker/0f\n", {"memory/memory.limit_in_bytes": 6}, 6),
        ("", {}, 10),
    ],
    ids=["above it", "no limit", "version 1", "within a container", "none"],
)
def test_the_least_limit_of_control_groups_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    groups: str,
    limits: dict[str, object],
    least: int,
) -> None:
    (tmp_path / "own").write_text(groups)
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_physical_bytes", lambda: 10 << 30)
    monkeypatch.setattr(memory, "_address_limits", lambda: iter(()))
    for name, limit in limits.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = limit if isinstance(limit, str) else str(int(str(limit)) << 30)
        path.write_text(f"{text}\n")
    memory.memory_bytes.cache_clear()
    assert memory.memory_bytes() == least << 30
    memory.memory_bytes.cache_clear()


def test_a_machine_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr("os.sysconf", unknown)
    assert memory._physical_bytes() == 8 << 30
    monkeypatch.undo()
    assert memory._physical_bytes() > 1 << 28
    assert CompressionMod().max_dim == memory.memory_bytes() // 40
