"""Contracts of strangers: refused with a typed error, before anything grows."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flower_compress import Identity, PerArray, StochasticQuantizer, TopK
from flower_compress.compressors import Tied
from flower_compress.errors import ConfigurationError, CorruptPacket
from flower_compress.links import Memory
from flower_compress.wire.agreement import Agreement
from flower_compress.wire.contract import Contract
from flower_compress.wire.gossip_contract import GossipContract
from flower_compress.wire.layout import Layout, Tensor

LAYOUT = Layout((Tensor("w", (5,), "float32", False),))
PLAIN = Contract(LAYOUT, Memory(StochasticQuantizer(4)), 0.5, seed=3)
PEERS = (((0, 0.25), (3, 0.5)),)
GOSSIP = GossipContract(
    LAYOUT, 2, "choco", {}, TopK(k=2), "auto", 1.0, True, 0.5, 3, PEERS, PEERS
)
HUGE = 10**4000
FEW_BYTES = 1 << 20


def changed(contract: Agreement, **changes: Any) -> bytes:
    return json.dumps({**json.loads(contract.to_bytes()), **changes}).encode()


def array(**changes: Any) -> list[list[Any]]:
    row = {"name": "w", "shape": [5], "dtype": "float32", "exact": False, **changes}
    return [list(row.values())]


def operator(config: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "memory", "compressor": config}


def nested(depth: int) -> dict[str, Any]:
    config: dict[str, Any] = {"name": "identity"}
    for _ in range(depth):
        config = {"name": "tied", "ties": [[1, 0]], "operator": config}
    return config


LAYOUTS: dict[str, list[Any]] = {
    "no array": [],
    "too many arrays": [[str(i), [1], "float32", False] for i in range((1 << 16) + 1)],
    "65 dimensions": array(shape=[1] * 65),
    "a negative size": array(shape=[-1]),
    "a huge size": array(shape=[HUGE]),
    "a product beyond the address space": array(shape=[1 << 32, 1 << 32]),
    "the same beside a zero": array(shape=[1 << 32, 0, 1 << 32]),
    "a size that is no integer": array(shape=[2.5]),
    "a boolean size": array(shape=[True]),
    "a shape that is a number": array(shape=5),
    "objects": array(dtype="object"),
    "complex": array(dtype="complex64"),
    "text": array(dtype="<U1000000000"),
    "a table": array(dtype="f4,f4"),
    "a dtype of megabytes": array(dtype="f4," * 1_000_000),
    "a name of megabytes": array(name="w" * 2_000_000),
    "a long name": array(name="w" * 1025),
    "half a character": array(name="\ud800"),
    "a name that is none": array(name=None),
    "one name twice": array() + array(),
    "exactly what": array(exact="no"),
}
TERMS: dict[str, dict[str, Any]] = {
    "a rate that is none": {"downlink_rate": float("nan")},
    "a rate above 1": {"downlink_rate": 1.5},
    "too many groups": {"downlink_groups": HUGE},
    "groups of truth": {"downlink_groups": True},
    "a seed that is none": {"seed": "7"},
    "2^32 entries kept": {"uplink": operator({"name": "top-k", "k": 1 << 32})},
    "huge levels": {
        "uplink": operator({"name": "stochastic-quantizer", "levels": HUGE})
    },
    "huge buckets": {"uplink": operator({"name": "scaled-sign", "bucket_size": HUGE})},
    "nested ties": {"uplink": operator(nested(2))},
    "ties nested deeply": {"downlink": operator(nested(200))},
    "rules within rules": {
        "uplink": operator(
            {
                "name": "per-array",
                "rules": [[{}, {"name": "per-array", "default": {"name": "identity"}}]],
                "default": {"name": "identity"},
            }
        )
    },
    "ties within rules": {
        "uplink": operator({"name": "per-array", "rules": [], "default": nested(1)})
    },
    "a kind of megabytes": {"uplink": {"kind": "x" * 2_000_000}},
    "a protocol of megabytes": {"protocol": "x" * 2_000_000},
}
GOSSIP_TERMS: dict[str, dict[str, Any]] = {
    "no node": {"node": (1 << 32) - 1},
    "a negative node": {"node": -1},
    "a node that is none": {"node": 1.5},
    "a peer that is none": {"receives": [[[-1, 0.5]]]},
    "itself as a peer": {"receives": [[[2, 0.5]]]},
    "one peer twice": {"receives": [[[1, 0.25], [1, 0.25]]]},
    "a weight above 1": {"receives": [[[1, 2.0]]]},
    "a weight that is none": {"sends": [[[1, float("nan")]]]},
    "a negative weight": {"sends": [[[1, -0.5]]]},
    "an infinite parameter": {"parameters": {"l1": float("inf")}},
    "a consensus step of 0": {"consensus_step": 0.0},
    "a power of 0": {"consensus_step": [0.5, 0.0]},
    "a power that is none": {"consensus_step": [0.5, float("nan")]},
    "a power alone": {"consensus_step": [0.5]},
    "a decreasing step above 1": {"consensus_step": [1.5, 0.5]},
    "a rate above 1": {"rate": 3.0},
    "rules": {"compressor": PerArray({"a": TopK(k=1)}, Identity()).config()},
    "ties": {"compressor": Tied(Identity(), ((1, 0),)).config()},
}
CASES = [
    *((PLAIN, changed(PLAIN, layout=rows), name) for name, rows in LAYOUTS.items()),
    *((PLAIN, changed(PLAIN, **terms), name) for name, terms in TERMS.items()),
    *((GOSSIP, changed(GOSSIP, **t), name) for name, t in GOSSIP_TERMS.items()),
    (PLAIN, b" " * (1 << 23) + PLAIN.to_bytes(), "a contract of megabytes"),
]


@pytest.mark.parametrize(
    ("like", "data"), [case[:2] for case in CASES], ids=[case[2] for case in CASES]
)
def test_what_no_server_means_is_refused(like: Agreement, data: bytes) -> None:
    """With an error that stays short whatever came."""
    with pytest.raises(CorruptPacket) as caught:
        type(like).from_bytes(data)
    assert len(str(caught.value)) < 400


def test_what_is_wide_and_allowed_is_read() -> None:
    """Parameters beyond the model's size are what fewer entries bound."""
    for config in (
        {"name": "top-k", "k": 10**9},
        {"name": "rand-k", "k": 10**9, "bucket_size": 2**32 - 1},
        {"name": "stochastic-quantizer", "levels": 32767, "bucket_size": 1},
    ):
        read = Contract.from_bytes(changed(PLAIN, uplink=operator(config)))
        channel = read.uplink_channel(3)
        x = [1.0, -2.0, 0.5, 0.0, 3.0]
        compressor = read.uplink.compressor
        sent = compressor.compress(x, channel.stream, channel.sizes)
        assert compressor.decompress(sent, channel.stream, channel.sizes).size == 5
    many = [[str(i), [2], "bool", True] for i in range(1000)]
    assert Contract.from_bytes(changed(PLAIN, layout=many)).layout.num_entries == 2000
    deep = array(shape=[1] * 64, name="w" * 1024)
    assert Contract.from_bytes(changed(PLAIN, layout=deep)).layout.dim == 1


def test_both_ends_have_the_same_limits() -> None:
    """A server does not begin a run that no client would take."""
    with pytest.raises(ConfigurationError, match="at most 1024 characters, got 1025"):
        Tensor("w" * 1025, (5,), "float32", False)
    with pytest.raises(ConfigurationError, match="got 2 named 'w'"):
        Layout(LAYOUT.tensors * 2)


SIZES = st.integers(-2, 5) | st.sampled_from([2**31, 2**63, 2**64, HUGE, 1.5, None])
ROWS = st.tuples(
    st.sampled_from(["w", "v", "", "x" * 2000, 7, "\udcff"]),
    st.lists(SIZES, max_size=4) | st.just([1] * 65) | st.none(),
    st.sampled_from(["float32", "float64", "bfloat16", "int8", "O", "V9", ">f4", 4]),
    st.booleans() | st.just("yes"),
).map(list)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([HUGE, -HUGE, "client", "identity", "per-array", "tied"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "kind", "compressor", "rules", "ties", "k"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@given(
    like=st.sampled_from([PLAIN, GOSSIP]),
    rows=st.none() | st.lists(ROWS, max_size=3),
    term=st.integers(0, 20),
    value=VALUES,
)
@example(like=PLAIN, rows=None, term=1, value=10**600)
@settings(max_examples=150, deadline=None)
def test_any_contract_is_read_or_refused(
    like: Agreement, rows: list[Any] | None, term: int, value: Any
) -> None:
    config = json.loads(like.to_bytes())
    config[sorted(config)[term % len(config)]] = value
    if rows is not None:
        config["layout"] = rows
    data = json.dumps(config).encode()
    tracemalloc.start()
    try:
        read = type(like).from_bytes(data)
    except CorruptPacket as error:
        assert len(str(error)) < 400
    else:
        assert 0 <= read.layout.dim <= read.layout.num_entries < 1 << 64
        assert isinstance(read.to_bytes(), bytes)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < FEW_BYTES
