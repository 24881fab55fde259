"""Every operator with its configurations, and the inputs that they are tested on."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flower_compress.compressors import COMPRESSORS, Compressor, Vector, get_compressor
from flower_compress.streams import Draws, Purpose, Stream
from tests.cases import in_one_test

Row = dict[str, Any]
STREAM = Stream(11, Purpose.UPLINK, 5, 2)
INPUTS = ("gaussian", "heavy-tailed", "sparse", "constant", "one-hot")

# A new operator is a row, or a few.
TABLE: list[Row] = [
    {"name": "identity"},
    {"name": "identity", "bucket_size": 7, "per": "tensor"},
    *(
        {"name": "stochastic-quantizer", "levels": levels, "norm": norm}
        for levels in (1, 4, 127, 1000)
        for norm in (2, "inf")
    ),
    {"name": "stochastic-quantizer", "levels": 1, "bucket_size": 7},
    {"name": "stochastic-quantizer", "levels": 4, "norm": "inf", "bucket_size": 64},
    {"name": "stochastic-quantizer", "levels": 2, "bucket_size": 1},
    {"name": "stochastic-quantizer", "levels": 3, "per": "tensor"},
    {"name": "stochastic-quantizer", "levels": 5, "per": "tensor", "bucket_size": 16},
    {"name": "stochastic-quantizer", "levels": 4, "subtractive": True},
    {
        "name": "stochastic-quantizer",
        "levels": 7,
        "norm": "inf",
        "subtractive": True,
        "bucket_size": 10,
    },
    {
        "name": "stochastic-quantizer",
        "levels": 1000,
        "norm": "inf",
        "subtractive": True,
        "per": "tensor",
    },
    {"name": "random-sparsifier", "p": 0.05},
    {"name": "random-sparsifier", "p": 0.5, "bucket_size": 8, "per": "tensor"},
    {"name": "random-sparsifier", "p": 1.0},
    {"name": "top-k", "k": 1},
    {"name": "top-k", "k": 15},
    {"name": "top-k", "fraction": 0.1},
    {"name": "top-k", "fraction": 1.0},
    {"name": "top-k", "k": 3, "bucket_size": 10},
    {"name": "top-k", "fraction": 0.25, "bucket_size": 10, "per": "tensor"},
    {"name": "rand-k", "k": 1},
    {"name": "rand-k", "k": 15},
    {"name": "rand-k", "fraction": 0.1},
    {"name": "rand-k", "fraction": 0.7},
    {"name": "rand-k", "k": 3, "bucket_size": 10},
    {"name": "rand-k", "fraction": 0.25, "bucket_size": 10},
    {"name": "rand-k", "fraction": 0.3, "per": "tensor"},
    {"name": "min-variance-sparsifier", "density": 0.05},
    {"name": "min-variance-sparsifier", "density": 0.5, "bucket_size": 64},
    {"name": "min-variance-sparsifier", "density": 0.2, "per": "tensor"},
    {"name": "min-variance-sparsifier", "density": 1.0},
    *(
        {
            "name": "dithered-quantizer",
            "levels": levels,
            "tau": tau,
            "subtractive": subtractive,
        }
        for tau in ("exact", "lemma", "none")
        for levels, subtractive in ((1, False), (8, True), (200, False))
    ),
    {"name": "dithered-quantizer", "levels": 4, "tau": "none", "bucket_size": 10},
    {"name": "dithered-quantizer", "levels": 4, "bucket_size": 64, "per": "tensor"},
    {"name": "scaled-sign"},
    {"name": "scaled-sign", "bucket_size": 10},
    {"name": "scaled-sign", "per": "tensor"},
    {"name": "rotated-quantizer"},
    {"name": "rotated-quantizer", "step": 0.25, "bucket_size": None},
    {"name": "rotated-quantizer", "step": 1.0, "bucket_size": 10},
    {"name": "rotated-quantizer", "step": 3.0, "bucket_size": 64, "per": "tensor"},
    {"name": "natural-compression"},
    {"name": "natural-compression", "bucket_size": 7, "per": "tensor"},
]


def row_id(row: Row) -> str:
    return "-".join(
        str(value)
        if key in ("name", "norm", "per", "tau")
        else f"{key.replace('bucket_size', 'buckets')}={value}"
        for key, value in row.items()
    )


def make(row: Row) -> Compressor:
    return get_compressor(row)


OPERATORS = [make(row) for row in TABLE]
UNBIASED = [row for row in TABLE if make(row).unbiased]
BIASED = [row for row in TABLE if not make(row).unbiased]
EVERY = pytest.mark.parametrize("row", TABLE, ids=row_id)
ALL_IN_ONE = in_one_test("row", TABLE, row_id)
""""EVERY", for what takes a few milliseconds."""


def named(name: str) -> list[Row]:
    return [row for row in TABLE if row["name"] == name]


FIRST = [named(name)[0] for name in COMPRESSORS]
"""One configuration of each operator, for what needs no more."""


def make_input(kind: str, dim: int) -> Vector:
    if not dim:
        return np.zeros(0, dtype=np.float32)
    generator = np.random.Generator(np.random.Philox([dim, INPUTS.index(kind)]))
    if kind == "gaussian":
        x = generator.normal(size=dim)
    elif kind == "heavy-tailed":
        x = generator.standard_t(1.5, size=dim)
    elif kind == "sparse":
        x = generator.normal(size=dim) * (generator.random(dim) < 0.1)
        x[-1] = 1.0
    elif kind == "constant":
        x = np.full(dim, -0.3)
    else:
        x = np.zeros(dim)
        x[dim // 2] = 2.5
    return x.astype(np.float32)


def sizes_of(dim: int) -> tuple[int, ...]:
    """Four tensors that make up a vector, one of them empty."""
    first, last = dim // 3, dim // 5
    return first, 0, dim - first - last, last


def apply(
    compressor: Compressor,
    x: Vector,
    stream: Stream = STREAM,
    sizes: tuple[int, ...] | None = None,
) -> Vector:
    if sizes is None and compressor.per == "tensor":
        sizes = sizes_of(x.size)
    compressed = compressor.compress(x, stream, sizes)
    return compressor.decompress(compressed, stream, sizes)


def errors_of(compressor: Compressor, x: Vector, num_draws: int) -> NDArray[np.float64]:
    """C(x) - x for independent versions of the stream, shape (num_draws, d)."""
    values = [apply(compressor, x, STREAM.at(version)) for version in range(num_draws)]
    return np.stack(values).astype(np.float64) - x


def sum_of_squares(x: NDArray[Any]) -> float:
    return float(np.square(x, dtype=np.float64).sum())


def buckets_of(compressor: Compressor, dim: int) -> list[list[slice]]:
    """The buckets of a vector: those of equal length in one tensor go together."""
    sizes = sizes_of(dim) if compressor.per == "tensor" else (dim,)
    tables, start = [], 0
    for size in sizes:
        width = min(compressor.bucket_size or size, size)
        starts = range(start, start + size, width) if width else []
        buckets = [slice(at, min(at + width, start + size)) for at in starts]
        start += size
        short = [part for part in buckets if part.stop - part.start < width]
        tables += [buckets[: len(buckets) - len(short)], short]
    return [table for table in tables if table]


class Continued(Stream):
    """A stream whose draws go on where those before ended."""

    def draws(self) -> Draws:
        drawn: Draws = self.__dict__.setdefault("_drawn", Draws(self))
        return drawn


class RiggedDraws(Draws):
    """Given numbers, where randomness was asked for."""

    def __init__(self, dither: Any, uniforms: Any) -> None:
        self._dither, self._uniforms = dither, uniforms
        self.num_uniforms = 0

    def dither(self, count: int) -> NDArray[np.uint16]:
        return np.broadcast_to(np.asarray(self._dither, dtype=np.uint16), (count,))

    def uniforms(self, count: int) -> NDArray[np.float64]:
        self.num_uniforms += count
        return np.broadcast_to(np.asarray(self._uniforms, dtype=float), (count,))


class Rigged(Stream):
    """A stream of given numbers."""

    def draws(self) -> RiggedDraws:
        given: RiggedDraws = self.__dict__["_given"]
        return given


def rigged(dither: Any, uniforms: Any = 0.0) -> Rigged:
    """Return a stream with those dithers and those uniforms, or always the same."""
    stream = Rigged(0, Purpose.UPLINK)
    stream.__dict__["_given"] = RiggedDraws(dither, uniforms)
    return stream


def config_round_trip(compressor: Compressor) -> Compressor:
    return get_compressor(json.loads(json.dumps(compressor.config())))


assert {row["name"] for row in TABLE} == set(COMPRESSORS)
