"""A second decoder of the wire format, in plain Python, slow and short.

It is written from docs/wire-format.md alone and shares nothing with the library, so
that the two tell whether the document says enough to write a decoder in another
language. Its parts follow the sections of the document. Only the words of the code
"entropy" need a package, constriction (with numpy), as they do in the document.

    packet = read_packet(data)
    vector = decode_payload(packet.payloads[-1], packet.dim, sizes, stream)
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any


class RefusedError(ValueError):
    """Something that the document does not describe."""


def check(condition: bool, what: str) -> None:
    if not condition:
        raise RefusedError(what)


def f32s(numbers: Sequence[float]) -> list[float]:
    """Round to float32."""
    pattern = f"<{len(numbers)}f"
    return list(struct.unpack(pattern, struct.pack(pattern, *numbers)))


def f32(number: float) -> float:
    return f32s([number])[0]


@dataclass
class Reader:
    """Bytes, and their bits with the most significant one first."""

    data: bytes
    position: int = 0  # in bits

    def __post_init__(self) -> None:
        self.text = "".join(f"{byte:08b}" for byte in self.data)

    def align(self) -> str:
        """Go to the end of a byte; return the bits in between."""
        return self.bits(-self.position % 8)

    def take(self, count: int) -> bytes:
        self.align()
        start = self.position // 8
        check(0 <= count <= len(self.data) - start, "too short")
        self.position += 8 * count
        return self.data[start : start + count]

    def unpack(self, pattern: str) -> Any:
        return struct.unpack("<" + pattern, self.take(struct.calcsize("<" + pattern)))

    def integer(self, num_bytes: int = 4) -> int:
        return int.from_bytes(self.take(num_bytes), "little")

    def floats(self, count: int) -> list[float]:
        values = list(self.unpack(f"{count}f"))
        check(all(math.isfinite(value) for value in values), "not finite")
        return values

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.position // 8)

    def bits(self, count: int) -> str:
        check(count <= len(self.text) - self.position, "too short")
        self.position += count
        return self.text[self.position - count : self.position]

    def number(self, width: int) -> int:
        return int(self.bits(width) or "0", 2)

    def zeros(self) -> int:
        """Count the zeros in front of the next one, and read all of them."""
        end = self.text.find("1", self.position)
        check(end >= 0, "too short")
        count = end - self.position
        self.position = end + 1
        return count


# Packet

FLAGS = {"contract": 1, "snapshot": 2, "final": 4, "exact": 8, "greeting": 16}
FLAGS |= {"resync": 32, "refused": 64, "memory": 128}


@dataclass
class Packet:
    flags: dict[str, bool]
    session: int
    base: int
    version: int
    acked: int
    detail: int
    dim: int
    contract: Any = None
    snapshot: list[float] | None = None
    memory: list[float] | None = None
    exact: bytes | None = None
    payloads: list[bytes] = field(default_factory=list)

    @property
    def versions(self) -> list[int]:
        """The versions of the payloads."""
        return [self.version - i for i in reversed(range(len(self.payloads)))]


def read_packet(data: bytes) -> Packet:
    reader = Reader(data)
    form, flags, session, *numbers, crc = reader.unpack("BB7I")
    check(form == 1, "version")
    check(crc == zlib.crc32(data[:26] + data[30:]), "CRC")
    names = {name: bool(flags & bit) for name, bit in FLAGS.items()}
    base, version, _, _, dim = numbers
    packet = Packet(names, session, *numbers)
    if names["contract"]:
        packet.contract = json.loads(reader.take(reader.integer()).decode())
        check(packet.contract["protocol"] == 1, "protocol")
    if names["snapshot"]:
        packet.snapshot = reader.floats(dim)
    if names["memory"]:
        packet.memory = reader.floats(dim)
    if names["exact"]:
        packet.exact = reader.take(reader.integer())
    if names["final"]:
        count = version - base
    else:
        count = int(reader.position < 8 * len(data))
    check(count >= 0, "base after version")
    packet.payloads = [reader.take(reader.integer()) for _ in range(count - 1)]
    packet.payloads += [reader.rest()] * (count > 0)
    check(not reader.rest(), "bytes left")
    return packet


# Payload

Table = tuple[int, int]  # its rows and the entries of each


def decode_payload(
    data: bytes,
    dim: int,
    sizes: Sequence[int],
    stream: Stream | None,
    groups: Sequence[int] = (),
    ties: Sequence[Sequence[int]] = (),
) -> list[float]:
    """Return the vector; `stream` is needed where a compressor draws from it.

    `groups` has the group of each array, where the contract has rules by array, `ties`
    the contract's.
    """
    if data[:1] == bytes([12]):
        return decode_tied(data, sizes, stream, groups, ties)
    if data[:1] == bytes([11]):
        return decode_parts(data, sizes, stream, groups)
    reader = Reader(data)
    identity, code = reader.unpack("BB")
    bucket = reader.integer() if identity & 128 else None
    check(bucket != 0 and identity & 63 in COMPRESSORS, "bucket size or compressor")
    width = dim if bucket is None else min(dim, bucket)
    compressor = COMPRESSORS[identity & 63](reader, width)
    if compressor.whole:
        tables = [(1, dim)]
    else:
        lengths = sizes if identity & 64 else [dim]
        tables = [table for length in lengths for table in tables_of(length, bucket)]
    check(sum(rows * n for rows, n in tables) == dim, "sizes")
    symbols = [0] * dim
    if compressor.alphabet is None:
        check(code == 0, "code of a compressor without symbols")
    else:
        low, high = compressor.alphabet
        check(code in CODES, "code")
        symbols = CODES[code](reader, dim, low, high)
        check("1" not in reader.align(), "fill")
        check(all(low <= k <= high for k in symbols), "symbol outside the alphabet")
    vector: list[float] = []
    for rows, n in tables:
        part = symbols[len(vector) : len(vector) + rows * n]
        values = reader.floats(compressor.num_values(rows, n, part))
        vector += compressor.restore(rows, n, part, values, stream)
    check(not reader.rest(), "bytes left")
    return vector


def decode_tied(
    data: bytes,
    sizes: Sequence[int],
    stream: Stream | None,
    groups: Sequence[int],
    ties: Sequence[Sequence[int]],
) -> list[float]:
    reader = Reader(data)
    _, code = reader.unpack("BB")
    check(code == 0 and ties, "ties")
    mask = int.from_bytes(reader.take(-(-len(ties) // 8)), "little")
    check(mask < 1 << len(ties), "bits of ties")
    copies = {copy: i for bit, (copy, i) in enumerate(ties) if mask >> bit & 1}
    sent = [i for i in range(len(sizes)) if i not in copies]
    lengths = [sizes[i] for i in sent]
    inner, used = reader.rest(), [groups[i] for i in sent]
    check(inner[:1] == bytes([11]), "parts")
    rest = decode_payload(inner, sum(lengths), lengths, stream, used)
    arrays: dict[int, list[float]] = {}
    for i, length in zip(sent, lengths, strict=True):
        arrays[i], rest = rest[:length], rest[length:]
    return [x for i in range(len(sizes)) for x in arrays[copies.get(i, i)]]


def decode_parts(
    data: bytes, sizes: Sequence[int], stream: Stream | None, groups: Sequence[int]
) -> list[float]:
    reader, numbers = Reader(data), sorted(set(groups))
    _, code, count = reader.unpack("BBB")
    check(code == 0 and groups and count == len(numbers), "parts")
    vectors: dict[int, list[float]] = {}
    for number in numbers:
        last = number == numbers[-1]
        part = reader.rest() if last else reader.take(reader.integer())
        own = [size for size, g in zip(sizes, groups, strict=True) if g == number]
        drawn = stream and replace(stream, part=number)
        vectors[number] = decode_payload(part, sum(own), own, drawn)
    whole: list[float] = []
    for size, group in zip(sizes, groups, strict=True):
        whole += vectors[group][:size]
        vectors[group] = vectors[group][size:]
    return whole


def tables_of(length: int, bucket: int | None) -> list[Table]:
    n = length if bucket is None else min(bucket, length)
    if length == 0:
        return []
    return [(length // n, n)] + [(1, length % n)] * (length % n > 0)


# Compressors


class Compressor:
    """Subclasses have `restore(rows, n, symbols, values, stream)`.

    It yields the entries of a table from its symbols and values.
    """

    alphabet: tuple[int, int] | None = None
    whole = False

    def __init__(self, reader: Reader, width: int) -> None:
        pass

    def num_values(self, rows: int, n: int, symbols: list[int]) -> int:
        return rows


class Identity(Compressor):
    whole = True

    def num_values(self, rows, n, symbols):
        return rows * n

    def restore(self, rows, n, symbols, values, stream):
        return values


class StochasticQuantizer(Compressor):
    LARGEST = (2.0**128 - 2.0**104) * (1 - 2.0**-23)

    def __init__(self, reader, width):
        self.levels, flags = reader.unpack("HB")
        check(0 < self.levels < 32768 and flags < 4, "parameters")
        self.subtractive = bool(flags & 2)
        self.alphabet = (-self.levels, self.levels)

    def restore(self, rows, n, symbols, values, stream):
        check(min(values) >= 0, "norm")
        limit = f32(self.LARGEST / (self.levels + self.subtractive))
        scales = [min(f32(norm / self.levels), limit) for norm in values]
        if self.subtractive:
            return dither(stream, n, symbols, scales)
        return f32s([k * scales[i // n] for i, k in enumerate(symbols)])


class RandomSparsifier(Compressor):
    alphabet = (0, 1)
    whole = True

    def __init__(self, reader, width):
        (p,) = reader.unpack("d")
        check(0 < p <= 1, "parameters")

    def num_values(self, rows, n, symbols):
        return sum(symbols)

    def restore(self, rows, n, symbols, values, stream):
        remaining = iter(values)
        return [next(remaining) if k else 0.0 for k in symbols]


class TopK(RandomSparsifier):
    whole = False

    def __init__(self, reader, width):
        read_share(reader)


class RandK(Compressor):
    def __init__(self, reader, width):
        self.k, self.fraction = read_share(reader)

    def count(self, n: int) -> int:
        return min(self.k, n) if self.k else math.ceil(self.fraction * n)

    def num_values(self, rows, n, symbols):
        return rows * self.count(n)

    def restore(self, rows, n, symbols, values, stream):
        c = self.count(n)
        if c == n:
            return values
        marked: set[int] = set()
        while missing := min(c, n - c) - len(marked):
            marked.update(int(u * n) for u in stream.uniforms(missing))
        if min(c, n - c) == c:
            drawn = sorted(marked)
        else:
            drawn = [column for column in range(n) if column not in marked]
        entries = [0.0] * (rows * n)
        for row in range(rows):
            for i, column in enumerate(drawn):
                entries[row * n + column] = values[row * c + i]
        return entries


def read_share(reader: Reader) -> tuple[int, float]:
    k, fraction = reader.unpack("Id")
    check((k == 0) != (fraction == 0) and 0 <= fraction <= 1, "parameters")
    return k, fraction


class MinVarianceSparsifier(Compressor):
    alphabet = (-1, 2)

    def __init__(self, reader, width):
        (density,) = reader.unpack("d")
        check(0 < density <= 1, "parameters")

    def num_values(self, rows, n, symbols):
        return rows + symbols.count(2)

    def restore(self, rows, n, symbols, values, stream):
        check(min(values[:rows]) >= 0, "1/c")
        exact = iter(values[rows:])
        return [
            next(exact) if k == 2 else k * values[i // n] if k else 0.0
            for i, k in enumerate(symbols)
        ]


class DitheredQuantizer(Compressor):
    def __init__(self, reader, width):
        self.levels, flags = reader.unpack("HB")
        check(0 < self.levels < 32767 and flags in (0, 1, 2, 4, 5, 6), "parameters")
        self.subtractive = bool(flags & 4)
        self.alphabet = (-self.levels - 1, self.levels + 1)

    def num_values(self, rows, n, symbols):
        return 2 * rows

    def restore(self, rows, n, symbols, values, stream):
        L, low, width = self.levels, values[:rows], values[rows:]
        check(all(-(2.0**125) <= m <= 2.0**125 for m in low), "m")
        check(all(0 <= r <= 2.0**126 for r in width), "r")
        below = []
        for m, r in zip(low, width, strict=True):
            b = math.ceil(-(m / r) * L) if r else int(m < 0)
            below.append(max(0, min(b, L + 1)))
        scales = [f32(r / L) for r in width]
        levels = [k + below[i // n] - (k > 0) for i, k in enumerate(symbols)]
        check(
            all(0 <= level <= L for level, k in zip(levels, symbols, strict=True) if k),
            "level",
        )
        if self.subtractive:
            entries = dither(stream, n, levels, scales, low)
        else:
            steps = f32s([level * scales[i // n] for i, level in enumerate(levels)])
            entries = f32s([step + low[i // n] for i, step in enumerate(steps)])
        return [entry if k else 0.0 for entry, k in zip(entries, symbols, strict=True)]


class ScaledSign(Compressor):
    alphabet = (-1, 1)

    def restore(self, rows, n, symbols, values, stream):
        check(min(values) >= 0, "scale")
        return [k * values[i // n] for i, k in enumerate(symbols)]


class RotatedQuantizer(Compressor):
    def __init__(self, reader, width):
        (self.step,) = reader.unpack("d")
        check(2.0**-8 <= self.step <= 2.0**8, "parameters")
        h = math.floor(math.sqrt(width) / self.step * (1 + 2.0**-10)) + 2
        self.alphabet = (-h, h)

    def restore(self, rows, n, symbols, values, stream):
        check(all(0 <= norm <= 2.0**100 for norm in values), "norm")
        p = 1 << (n.bit_length() - 1)
        first = stream.signs(rows * p)
        second = stream.signs(rows * p) if p < n else []
        unit = f32(self.step / math.sqrt(n))
        rotated = dither(stream, n, symbols, f32s([norm * unit for norm in values]))
        entries = []
        for row in range(rows):
            y, of_row = rotated[row * n : (row + 1) * n], slice(row * p, (row + 1) * p)
            if p < n:
                y[n - p :] = rotate_back(y[n - p :], second[of_row])
            y[:p] = rotate_back(y[:p], first[of_row])
            entries += y
        return entries


def rotate_back(y: list[float], signs: list[int]) -> list[float]:
    p = len(y)
    t = p // 2
    while t:
        pairs = [(y[i & ~t], y[i | t]) for i in range(p)]
        y = f32s([a - b if i & t else a + b for i, (a, b) in enumerate(pairs)])
        t //= 2
    factor = f32(p**-0.5)
    y = f32s([factor * entry for entry in y])
    return [-entry if sign else entry for entry, sign in zip(y, signs, strict=True)]


class NaturalCompression(Compressor):
    alphabet = (-298, 256)
    whole = True

    def num_values(self, rows, n, symbols):
        return 0

    def restore(self, rows, n, symbols, values, stream):
        numbers = [k - (k > 0) for k in symbols]
        powers = [(-1) ** (u % 2) * 2.0 ** (u // 2) for u in numbers]
        return [power if k else 0.0 for power, k in zip(powers, symbols, strict=True)]


COMPRESSORS: dict[int, type[Compressor]] = {
    1: Identity,
    2: StochasticQuantizer,
    3: RandomSparsifier,
    4: TopK,
    5: RandK,
    6: MinVarianceSparsifier,
    7: DitheredQuantizer,
    8: ScaledSign,
    9: RotatedQuantizer,
    10: NaturalCompression,
}


# Shared randomness


@dataclass
class Stream:
    seed: int
    index: int
    purpose: int  # 1 of a client, 2 of the server
    version: int
    part: int = 0
    blocks: int = 0

    def words(self, count: int) -> list[int]:
        """Return so many words, from a fresh block on."""
        words: list[int] = []
        while len(words) < count:
            self.blocks += 1
            counter = [self.blocks, self.part, self.purpose, self.version]
            words += philox([self.seed, self.index], counter)
        return words[:count]

    def parts(self, count: int, width: int) -> list[int]:
        words, mask = self.words(-(-count * width // 64)), (1 << width) - 1
        starts = range(0, 64, width)
        return [word >> start & mask for word in words for start in starts][:count]

    def dithers(self, count: int) -> list[int]:
        return self.parts(count, 16)

    def signs(self, count: int) -> list[int]:
        return self.parts(count, 1)

    def uniforms(self, count: int) -> list[float]:
        return [(word >> 11) * 2.0**-53 for word in self.words(count)]


def philox(key: list[int], counter: list[int]) -> list[int]:
    """Philox 4x64-10."""
    mask = 2**64 - 1
    k0, k1 = (part & mask for part in key)
    a, b, c, d = (part & mask for part in counter)
    for _ in range(10):
        left, right = a * 0xD2E7470EE14C6C93, c * 0xCA5A826395121157
        a, b, c, d = (
            right >> 64 ^ b ^ k0,
            right & mask,
            left >> 64 ^ d ^ k1,
            left & mask,
        )
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return [a, b, c, d]


def dither(
    stream: Stream,
    n: int,
    integers: list[int],
    scales: list[float],
    offsets: list[float] | None = None,
) -> list[float]:
    """Return the values of the integers of a table with rows of n entries."""
    numbers = zip(integers, stream.dithers(len(integers)), strict=True)
    points = f32s([2**17 * k - 2 * j + 65535 for k, j in numbers])
    units = f32s([2.0**-17 * scale for scale in scales])
    values = f32s([point * units[i // n] for i, point in enumerate(points)])
    if offsets is not None:
        values = f32s([value + offsets[i // n] for i, value in enumerate(values)])
    return values


# Codes


def planes(reader: Reader, widths: Sequence[int]) -> list[int]:
    numbers = [0] * len(widths)
    for j in reversed(range(max(widths, default=0))):
        places = [i for i, width in enumerate(widths) if width > j]
        for i, bit in zip(places, reader.bits(len(places)), strict=True):
            numbers[i] = numbers[i] << 1 | (bit == "1")
    return numbers


def gammas(reader: Reader, count: int) -> list[int]:
    widths = [reader.zeros() for _ in range(count)]
    low = planes(reader, widths)
    return [1 << width | bits for width, bits in zip(widths, low, strict=True)]


def gamma(reader: Reader) -> int:
    return gammas(reader, 1)[0]


def omegas(reader: Reader, count: int) -> list[int]:
    numbers = []
    for more in reader.bits(count):
        x = 1
        bit = more
        while bit == "1":
            check(x < 64, "number too large")
            x = 1 << x | reader.number(x)
            bit = reader.bits(1)
        numbers.append(x)
    return numbers


def golomb(reader: Reader, parameters: list[int], mixed: bool = False) -> list[int]:
    """Read an array of runs, of which each has its parameter M."""
    high = [reader.zeros() for _ in parameters]
    widths = [(M - 1).bit_length() for M in parameters]
    spare = [(1 << b) - M for b, M in zip(widths, parameters, strict=True)]
    in_planes = [
        b if c == 0 and not mixed else max(b - 1, 0)
        for b, c in zip(widths, spare, strict=True)
    ]
    runs = []
    for i, s in enumerate(planes(reader, in_planes)):
        if in_planes[i] < widths[i] and s >= spare[i]:
            s = (s << 1 | reader.number(1)) - spare[i]
        runs.append(high[i] * parameters[i] + s)
    return runs


def golomb_parameter(n: int, k: int) -> int:
    return max(1, (45426 * n * n + 10055 * n * k + 5450 * k * k) // (65536 * n * k))


def places_of(runs: list[int], n: int) -> list[int]:
    places = [end - 1 for end in accumulate(run + 1 for run in runs)]
    check(not places or places[-1] < n, "runs too long")
    return places


def support(reader: Reader, n: int) -> list[int]:
    k = gamma(reader) - 1
    check(k <= n, "support too large")
    fewer = k if 2 * k <= n else n - k
    runs = golomb(reader, [golomb_parameter(n, fewer)] * fewer) if fewer else []
    places = places_of(runs, n)
    if 2 * k <= n:
        return places
    others = set(places)
    return [place for place in range(n) if place not in others]


def scatter(d: int, places: list[int], signs: str, sizes: list[int]) -> list[int]:
    symbols = [0] * d
    for place, sign, magnitude in zip(places, signs, sizes, strict=True):
        symbols[place] = -magnitude if sign == "1" else magnitude
    return symbols


def fixed_width(reader: Reader, d: int, low: int, high: int) -> list[int]:
    if d == 0:
        return []
    W = (high - low).bit_length()
    smallest = low + reader.number(W)
    w = reader.number(W.bit_length())
    numbers = planes(reader, [w] * d)
    check(min(numbers) == 0 and max(numbers).bit_length() == w, "smallest or width")
    return [smallest + x for x in numbers]


def elias(reader: Reader, d: int, low: int, high: int) -> list[int]:
    k = gamma(reader) - 1
    check(k <= d, "too many symbols")
    places = places_of([gap - 1 for gap in gammas(reader, k)], d)
    signs = reader.bits(k) if low < 0 else "0" * k
    magnitudes = gammas(reader, k) if max(-low, high) > 1 else [1] * k
    return scatter(d, places, signs, magnitudes)


def indices(reader: Reader, d: int, low: int, high: int) -> list[int]:
    check((low, high) == (0, 1), "alphabet of the code")
    ones = set(support(reader, d))
    return [int(i in ones) for i in range(d)]


def nested_golomb(reader: Reader, d: int, low: int, high: int) -> list[int]:
    places, largest = support(reader, d), max(-low, high)
    signs = reader.bits(len(places)) if low < 0 else "0" * len(places)
    magnitudes = [1] * len(places)
    above = list(range(len(places)))  # of magnitude level - 1 or more
    for level in range(2, min(largest, 8) + 1):
        if above:
            above = [above[i] for i in support(reader, len(above))]
        for i in above:
            magnitudes[i] = level
    if largest > 8 and above:
        m, excess = len(above), gamma(reader) - 1
        if excess:
            runs = golomb(reader, [golomb_parameter(m + excess, m)] * m)
            check(sum(runs) == excess, "sum of the excesses")
            for i, run in zip(above, runs, strict=True):
                magnitudes[i] += run
    return scatter(d, places, signs, magnitudes)


LN_2 = 54916777467707473351141471128  # times 2^-96


def support_vector(reader: Reader, d: int, low: int, high: int) -> list[int]:
    counts = [t - 1 for t in omegas(reader, high - low + 1)]
    check(sum(counts) == d, "number of symbols")
    occurring = [(low + i, t) for i, t in enumerate(counts) if t]
    occurring.sort(key=lambda item: -item[1])
    if not occurring:
        return []
    arrays: list[list[int]] = []
    mixed: list[int] = []
    n = d
    for _, t in occurring[1:]:
        # The nearest integer: floor(x + 1/2).
        q = (2 * LN_2 * (n - t) + (t << 96)) // (t << 97)
        if t >= 4096 and 128 * t >= n and not mixed:
            arrays.append(golomb(reader, [max(1, q)] * t))
        else:
            mixed += [max(1, q)] * t
        n -= t
    runs = iter([run for array in arrays for run in array])
    rest = iter(golomb(reader, mixed, mixed=True))
    symbols = [occurring[0][0]] * d
    unfilled = list(range(d))
    for level, t in occurring[1:]:
        own = [next(runs, None) for _ in range(t)]
        of_level = [next(rest) if run is None else run for run in own]
        left, start = [], 0
        for i in places_of(of_level, len(unfilled)):
            symbols[unfilled[i]] = level
            left += unfilled[start:i]
            start = i + 1
        unfilled = left + unfilled[start:]
    return symbols


Unpack = Callable[[Reader, int, int], bytes]


def layers(reader: Reader, d: int, low: int, high: int, unpack: Unpack) -> list[int]:
    """Read the layers of the packed codes; `unpack` reads the packed bytes."""
    symbols, places = [0] * d, list(range(d))
    largest = max(-low, high)
    shift_limit = 8 if largest <= 127 else 16 if largest <= 32767 else 32
    for layer in range(3):
        if not places:
            break
        base, flags, first = reader.unpack("BBi")
        base, shift, gap, escape = base + 1, flags & 31, flags >> 5 & 1, flags >> 6
        check(escape == 0 or (escape == 1 and base > 1 and layer < 2), "escape")
        check(shift < shift_limit and low >> shift <= first, "layer")
        check(first + base - 1 - escape <= (high - gap) >> shift, "layer")
        lows = low_bits(reader, len(places), shift)
        digits = [0] * len(places)
        if base > 1:
            digits = read_digits(reader, len(places), base, unpack)
        escaped = []
        for place, digit, bits in zip(places, digits, lows, strict=True):
            if escape and digit == base - 1:
                escaped.append(place)
            else:
                u = (first + digit << shift) + bits
                symbols[place] = u + 1 if gap and u >= 0 else u
        places = escaped
    return symbols


def low_bits(reader: Reader, count: int, shift: int) -> list[int]:
    numbers = [0] * count
    for i in range(shift // 8):
        for j, byte in enumerate(reader.take(count)):
            numbers[j] |= byte << 8 * i
    for i in range(shift // 8 * 8, shift):
        for j, bit in enumerate(reader.bits(count)):
            numbers[j] |= (bit == "1") << i
        check("1" not in reader.align(), "fill")
    return numbers


def read_digits(reader: Reader, count: int, base: int, unpack: Unpack) -> list[int]:
    limits = {8: 2, 5: 3, 4: 4, 3: 6, 2: 16, 1: 256}
    g = next(g for g, limit in limits.items() if base <= limit)
    blocks = [min(32704 * g, count - i) for i in range(0, count, 32704 * g)]
    packed = unpack(reader, sum(-(-size // g) for size in blocks), base**g)
    digits: list[int] = []
    for size in blocks:
        m = -(-size // g)
        block, packed = packed[:m], packed[m:]
        check(all(byte < base**g for byte in block), "byte of no digits")
        padded = [byte // base**i % base for i in range(g) for byte in block]
        check(not any(padded[size:]), "digits past the end")
        digits += padded[:size]
    return digits


def inflate(reader: Reader, num_bytes: int, num_values: int) -> bytes:
    inflater = zlib.decompressobj(-15)
    packed = inflater.decompress(reader.take(reader.integer()))
    check(inflater.eof and not inflater.unused_data, "end of the deflate stream")
    check(len(packed) == num_bytes, "number of packed bytes")
    return packed


def packed_huffman(reader: Reader, d: int, low: int, high: int) -> list[int]:
    return layers(reader, d, low, high, inflate)


def ans_bytes(reader: Reader, num_bytes: int, num_values: int) -> bytes:
    occurring = [i for i, bit in enumerate(reader.bits(num_values)) if bit == "1"]
    check("1" not in reader.align(), "fill")
    frequencies = [0] * num_values
    for value in occurring:
        frequencies[value] = leb128(reader)
    words = list(reader.unpack(f"{reader.integer()}I"))
    check(sum(frequencies) > 0 and words[-1:] != [0], "frequencies or last word")
    return bytes(decode_ans(words, num_bytes, frequencies))


def leb128(reader: Reader) -> int:
    number = 0
    for i in range(3):
        byte = reader.integer(1)
        number |= (byte & 127) << 7 * i
        if byte < 128:
            return number
    raise RefusedError("frequency too long")


def decode_ans(words: list[int], count: int, frequencies: list[int]) -> list[int]:
    import constriction
    import numpy as np

    coder = constriction.stream.stack.AnsCoder(np.array(words, dtype=np.uint32))
    model = constriction.stream.model.Categorical(
        np.array(frequencies, dtype=np.float64), perfect=False
    )
    decoded = coder.decode(model, count)
    check(coder.is_empty(), "words left over")
    return decoded.tolist()


def entropy(reader: Reader, d: int, low: int, high: int) -> list[int]:
    if d == 0:
        return []
    form = reader.integer(1)
    check(form < 2, "form of the code entropy")
    if form == 1:
        return nested_golomb(reader, d, low, high)
    return layers(reader, d, low, high, ans_bytes)


def elias_levels(reader: Reader, d: int, low: int, high: int) -> list[int]:
    if d == 0:
        return []
    m = low + gamma(reader) - 1
    numbers = gammas(reader, d)
    check(min(numbers) == 1, "smallest")
    return [m + x - 1 for x in numbers]


Code = Callable[[Reader, int, int, int], list[int]]

CODES: dict[int, Code] = {
    1: fixed_width,
    2: elias,
    3: indices,
    4: nested_golomb,
    5: support_vector,
    6: packed_huffman,
    7: entropy,
    8: elias_levels,
}
