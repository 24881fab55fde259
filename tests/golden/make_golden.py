"""Writes the golden packets: ``python -m tests.golden.make_golden [--overwrite]``.

Each packet is two files: NAME.bin, its bytes, and NAME.json, from which the bytes can
be built and what they decode to. The wire format is a promise: bytes that change mean
that peers of different versions no longer understand each other, so a golden packet
is overwritten only together with a new format version or wire id. The tests read
these files and never write them.

A recipe has the packet's fields and its payloads, each with the operator, the code,
the stream and the input

    x_i = +-((offset + multiplier * i) mod 101 + 1) / 64,

negative where i mod 3 = 1, and zero where i mod zero_every = 0 if that is given. The
magnitudes differ for i < 101, so nothing depends on how ties are broken, and squares
and their sums are exact, so nothing depends on the order of summation. The tensors of
the channel are `sizes`; for an operator with rules by array their names are "0", "1",
and so on.

What zlib makes of symbols (the code packed-huffman) differs between implementations
of zlib, but decodes to the same.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from flower_compress.coding import CODE_NAMES
from flower_compress.compressors import (
    Compressor,
    Parts,
    Tied,
    Vector,
    get_compressor,
)
from flower_compress.links import Channel, Payload, get_link
from flower_compress.streams import Purpose, Stream
from flower_compress.wire.contract import Contract
from flower_compress.wire.first_model import pack
from flower_compress.wire.layout import Layout
from flower_compress.wire.packet import Packet

FOLDER = Path(__file__).resolve().parent

Recipe = dict[str, Any]


def make_input(recipe: Recipe) -> Vector:
    """Return the vector of the equation above."""
    values = []
    for i in range(recipe["dim"]):
        value = ((recipe["offset"] + recipe["multiplier"] * i) % 101 + 1) / 64
        if recipe["zero_every"] and i % recipe["zero_every"] == 0:
            value = 0.0
        values.append(-value if i % 3 == 1 else value)
    return np.array(values, dtype=np.float32)


def make_payload(recipe: Recipe) -> Payload:
    return Payload.encode(
        make_input(recipe["input"]),
        make_operator(recipe),
        recipe["code"],
        make_channel(recipe),
    )


def make_operator(recipe: Recipe) -> Compressor:
    sizes = recipe["sizes"] or []
    arrays = [(str(i), (size,)) for i, size in enumerate(sizes)]
    return get_compressor(recipe["operator"]).bind(arrays)


def make_channel(recipe: Recipe) -> Channel:
    stream, sizes, operator = recipe["stream"], recipe["sizes"], make_operator(recipe)
    return Channel(
        Stream(
            stream["seed"],
            Purpose[stream["purpose"]],
            stream["index"],
            stream["version"],
        ),
        None if sizes is None else tuple(sizes),
        operator if isinstance(operator, Parts | Tied) else None,
    )


def make_contract(recipe: Recipe) -> Contract:
    layout, downlink = Layout.from_config(recipe["layout"]), recipe.get("downlink")
    return Contract(
        layout,
        get_link(recipe["uplink"]).bind(layout.shapes),
        recipe["downlink_rate"],
        recipe["seed"],
        recipe["downlink_groups"],
        downlink and get_link(downlink).bind(layout.shapes),
        first_model=recipe.get("first_model"),
    )


def make_packet(recipe: Recipe) -> Packet:
    """Build the packet that a recipe describes."""
    fields = dict(recipe["packet"])
    if fields["contract"] is not None:
        fields["contract"] = make_contract(fields["contract"]).to_bytes()
    for name in ("snapshot", "memory"):
        if fields[name] is not None:
            fields[name] = make_input(fields[name])
    if fields["exact"] is not None:
        fields["exact"] = bytes.fromhex(fields["exact"])
    payloads = tuple(make_payload(payload) for payload in recipe["payloads"])
    return Packet(**fields, payloads=payloads)


FIRST_INPUT: Recipe = {"dim": 96, "multiplier": 29, "offset": 3, "zero_every": 7}


def packed_first_model(exact: str) -> str:
    """Return a section of exact arrays that begins with a first model of 6 bits."""
    operator = get_compressor(
        {
            "name": "stochastic-quantizer",
            "levels": 31,
            "norm": "inf",
            "bucket_size": 40,
            "per": "tensor",
        }
    )
    channel = Channel(Stream(42, Purpose.DOWNLINK, 0, 1), (93, 3))
    first = Payload.encode(make_input(FIRST_INPUT), operator, "nested-golomb", channel)
    return pack(first, bytes.fromhex(exact)).hex()


# --- What there is --------------------------------------------------------------------


def payload_recipe(operator: Recipe, code: str, **changes: Any) -> Recipe:
    of_input = {"dim": 96, "multiplier": 37, "offset": 5, "zero_every": 5}
    stream = {"seed": 42, "purpose": "UPLINK", "index": 3, "version": 17}
    return {
        "operator": get_compressor(operator).config(),
        "code": code,
        "sizes": changes.get("sizes"),
        "stream": stream | {k: v for k, v in changes.items() if k in stream},
        "input": of_input | {k: v for k, v in changes.items() if k in of_input},
    }


def packet_recipe(*payloads: Recipe, **changes: Any) -> Recipe:
    fields: Recipe = {
        "session": 305419896,
        "base": 16,
        "version": 17,
        "acked": 15,
        "detail": 3735928559,
        "dim": 96,
        "final": False,
        "snapshot": None,
        "memory": None,
        "contract": None,
        "exact": None,
        "greeting": False,
        "resync": False,
        "refused": False,
    }
    return {"packet": fields | changes, "payloads": list(payloads)}


SIZES = [40, 0, 7, 49]

OPERATORS: dict[str, Recipe] = {
    "identity": {"name": "identity"},
    "quantizer": {"name": "stochastic-quantizer", "levels": 1},
    "random-sparsifier": {"name": "random-sparsifier", "p": 0.3},
    "top-k": {"name": "top-k", "k": 6},
    "rand-k": {"name": "rand-k", "k": 6},
    "min-variance": {"name": "min-variance-sparsifier", "density": 0.2},
    "dithered": {"name": "dithered-quantizer", "levels": 4},
    "sign": {"name": "scaled-sign"},
    "rotated": {"name": "rotated-quantizer", "step": 1.0},
    "natural": {"name": "natural-compression"},
}
"""Each is written with every code that takes its symbols, if it has any."""

VARIANTS: dict[str, Recipe] = {
    "identity-scoped": {"name": "identity", "bucket_size": 9, "per": "tensor"},
    "quantizer-buckets": {
        "name": "stochastic-quantizer",
        "levels": 200,
        "norm": "inf",
        "bucket_size": 20,
    },
    "quantizer-subtractive": {
        "name": "stochastic-quantizer",
        "levels": 6,
        "subtractive": True,
        "per": "tensor",
    },
    "random-sparsifier-tensors": {
        "name": "random-sparsifier",
        "p": 0.1,
        "per": "tensor",
    },
    "top-k-fraction": {"name": "top-k", "fraction": 0.1},
    "top-k-buckets": {"name": "top-k", "k": 2, "bucket_size": 10, "per": "tensor"},
    "rand-k-fraction": {"name": "rand-k", "fraction": 0.6, "per": "tensor"},
    "rand-k-buckets": {"name": "rand-k", "fraction": 0.25, "bucket_size": 10},
    "min-variance-tensors": {
        "name": "min-variance-sparsifier",
        "density": 0.3,
        "per": "tensor",
    },
    "dithered-lemma": {
        "name": "dithered-quantizer",
        "levels": 3,
        "tau": "lemma",
        "bucket_size": 20,
    },
    "dithered-subtractive": {
        "name": "dithered-quantizer",
        "levels": 8,
        "tau": "none",
        "subtractive": True,
        "per": "tensor",
    },
    "sign-tensors": {"name": "scaled-sign", "bucket_size": 32, "per": "tensor"},
    "rotated-tensors": {
        "name": "rotated-quantizer",
        "step": 2.0,
        "bucket_size": 20,
        "per": "tensor",
    },
    "rotated-whole": {"name": "rotated-quantizer", "step": 0.5, "bucket_size": None},
    "natural-tensors": {
        "name": "natural-compression",
        "bucket_size": 20,
        "per": "tensor",
    },
}
"""Other configurations of these, with the code auto."""

BY_ARRAY: Recipe = {
    "name": "per-array",
    "rules": [
        [{"name": "[2x]"}, {"name": "identity"}],
        [{"name": "never*"}, {"name": "scaled-sign"}],
        [{"max_ndim": 1, "max_size": 40}, {"name": "rand-k", "k": 6}],
    ],
    "default": {"name": "rotated-quantizer", "step": 1.0},
}
BY_NAME: Recipe = {
    "name": "per-array",
    "rules": [[{"name": "w*"}, {"name": "stochastic-quantizer", "levels": 2}]],
    "default": {"name": "identity"},
}


TIED: Recipe = {
    "name": "tied",
    "ties": [[1, 0], [3, 2]],
    "operator": {
        "name": "per-array",
        "rules": [[{"max_size": 11}, {"name": "identity"}]],
        "default": {"name": "rotated-quantizer", "step": 1.0},
    },
}


def codes_of(operator: Recipe) -> list[str]:
    """Return the codes that take the operator's symbols."""
    alphabet = get_compressor(operator).alphabet(96)
    if alphabet is None:
        return []
    return [c for c in CODE_NAMES[1:] if c != "indices" or alphabet == (0, 1)]


def operator_recipe(operator: Recipe, code: str, **changes: Any) -> Recipe:
    sizes = SIZES if operator.get("per") == "tensor" else None
    return packet_recipe(payload_recipe(operator, code, sizes=sizes, **changes))


RECIPES: dict[str, Recipe] = {
    **{
        name: operator_recipe(operator, "auto")
        for name, operator in (OPERATORS | VARIANTS).items()
        if name in VARIANTS or not codes_of(operator)
    },
    **{
        f"{name}-{code}": operator_recipe(operator, code)
        for name, operator in OPERATORS.items()
        for code in codes_of(operator)
    },
    "by-array": packet_recipe(payload_recipe(BY_ARRAY, "auto", sizes=SIZES)),
    # One magnitude, the signs + - +: the first two arrays are equal, the next are not.
    "tied": packet_recipe(
        payload_recipe(
            TIED, "auto", sizes=[24, 24, 11, 11, 26], multiplier=0, zero_every=0
        )
    ),
    "by-array-first-model": packet_recipe(
        payload_recipe(
            {**BY_NAME, "rules": [[{"name": "0"}, BY_NAME["rules"][0][1]]]},
            "elias",
            sizes=[93, 3],
            purpose="DOWNLINK",
        ),
        final=True,
        snapshot={"dim": 96, "multiplier": 11, "offset": 0, "zero_every": 0},
        contract={
            "layout": [
                ["weight", [31, 3], "float32", False],
                ["bias", [3], "float32", False],
            ],
            "uplink": {
                "kind": "error-feedback",
                "compressor": BY_NAME,
                "code": "auto",
                "feedback": None,
            },
            "downlink": {
                "kind": "memory",
                "compressor": BY_NAME,
                "code": "elias",
                "rate": 0.25,
                "initial": "zero",
            },
            "downlink_rate": 0.25,
            "seed": 42,
            "downlink_groups": 1,
        },
        exact="",
    ),
    "packed-first-model": packet_recipe(
        payload_recipe(OPERATORS["rotated"], "auto", purpose="DOWNLINK", index=0),
        base=1,
        version=2,
        acked=0,
        detail=0,
        final=True,
        contract={
            "layout": [
                ["weight", [31, 3], "float32", False],
                ["bias", [3], "float32", False],
                ["norm.running_mean", [2], "float32", True],
            ],
            "uplink": {
                "kind": "memory",
                "compressor": OPERATORS["rotated"],
                "code": "auto",
                "rate": None,
                "initial": "zero",
            },
            "downlink_rate": 0.25,
            "seed": 42,
            "downlink_groups": 1,
            "first_model": "packed",
        },
        exact=packed_first_model("0000803f000000c0"),
    ),
    "nothing-but-zeros": packet_recipe(
        payload_recipe(OPERATORS["quantizer"], "auto", zero_every=1)
    ),
    "empty-vector": packet_recipe(
        payload_recipe(VARIANTS["quantizer-buckets"], "auto", dim=0), dim=0
    ),
    "resynchronise": packet_recipe(
        base=0, version=0, acked=0, detail=0, dim=0, resync=True
    ),
    "evaluated": packet_recipe(base=0, version=7, acked=0, detail=0),
    "nothing-new": packet_recipe(base=7, version=7, final=True),
    "first-model": packet_recipe(
        payload_recipe(OPERATORS["quantizer"], "auto", seed=-1, version=1),
        payload_recipe(
            OPERATORS["top-k"], "auto", purpose="DOWNLINK", index=2**63, offset=50
        ),
        payload_recipe({"name": "identity"}, "auto", seed=2**64 + 1, offset=90),
        session=2**32 - 1,
        base=2**32 - 4,
        version=2**32 - 1,
        acked=0,
        detail=0,
        refused=True,
        final=True,
        snapshot={"dim": 96, "multiplier": 11, "offset": 0, "zero_every": 0},
        memory={"dim": 96, "multiplier": 13, "offset": 2, "zero_every": 4},
        contract={
            "layout": [
                ["weight", [31, 3], "float32", False],
                ["bias", [3], "float16", False],
                ["norm.running_mean", [2], "float32", True],
                ["norm.num_batches_tracked", [], "int64", True],
            ],
            "uplink": {
                "kind": "memory",
                "compressor": {"name": "stochastic-quantizer", "levels": 1},
                "code": "auto",
                "rate": 0.125,
                "initial": "first",
            },
            "downlink_rate": 0.25,
            "seed": 42,
            "downlink_groups": "client",
        },
        exact="0000803f000000c00700000000000000",
    ),
    "bfloat16-model": packet_recipe(
        base=1,
        version=1,
        acked=0,
        detail=0,
        dim=7,
        final=True,
        snapshot={"dim": 7, "multiplier": 11, "offset": 0, "zero_every": 0},
        contract={
            "layout": [
                ["weight", [2, 3], "bfloat16", False],
                ["scale", [], "float64", False],
                ["norm.running_mean", [3], "bfloat16", True],
                ["mask", [2], "bool", True],
            ],
            "uplink": {
                "kind": "direct",
                "compressor": {"name": "identity"},
                "code": "auto",
            },
            "downlink_rate": None,
            "seed": 42,
            "downlink_groups": 1,
        },
        exact="803e0041c0bf0100",
    ),
}


def expected_of(packet: Packet) -> Recipe:
    """Return what the packet decodes to."""
    return {
        "num_bytes": len(packet.data),
        "payload_bits": packet.payload_bits,
        # A float32 is a float64, whose decimals are exact.
        "decoded": [payload.vector.tolist() for payload in packet.payloads],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--overwrite", action="store_true", help="replace what differs")
    overwrite = parser.parse_args().overwrite
    for name, recipe in RECIPES.items():
        packet = make_packet(recipe)
        described = {**recipe, "expected": expected_of(packet)}
        files = {
            FOLDER / f"{name}.bin": packet.data,
            FOLDER / f"{name}.json": (json.dumps(described, indent=1) + "\n").encode(),
        }
        for path, data in files.items():
            if path.exists() and path.read_bytes() == data:
                continue
            if path.exists() and not overwrite:
                print(f"{path.name} differs: kept, --overwrite replaces it")
                continue
            path.write_bytes(data)
            print(f"{path.name} written, {len(data)} bytes")


if __name__ == "__main__":
    main()
