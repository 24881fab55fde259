"""Operators by array: which rule counts, what the whole is, and its bounds."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from flower_compress import ArrayRule, Identity, PerArray, RandK, RotatedQuantizer, TopK
from flower_compress.compressors import (
    COMPRESSORS,
    Parts,
    ScaledSign,
    StochasticQuantizer,
    Tied,
    get_compressor,
)
from flower_compress.errors import BiasedCompressorError, ConfigurationError
from flower_compress.streams import Purpose, Stream

STREAM = Stream(3, Purpose.UPLINK, 1, 4)
ARRAYS = [("embed.w", (6, 5)), ("head.w", (4, 3)), ("norm.w", (7,)), ("head.b", (3,))]
POLICY = PerArray(
    {"head.*": Identity(), ArrayRule(max_ndim=1, max_size=7): RandK(k=3)},
    default=StochasticQuantizer(levels=2, bucket_size=16),
)
SPLIT = np.split(np.arange(52), [30, 42, 49])


def parts_of(policy: PerArray) -> Parts:
    bound = policy.bind(ARRAYS)
    assert isinstance(bound, Parts)
    return bound


def vector(seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=52).astype(np.float32)


def test_the_first_rule_that_matches_counts() -> None:
    parts = parts_of(POLICY)
    assert parts.operators == (Identity(), RandK(k=3), POLICY.default)
    assert parts.groups == (2, 0, 1, 0)  # head.b is a head before it is short
    assert parts.dims == (15, 7, 30)
    other = PerArray(dict(reversed(POLICY.rules)), POLICY.default)
    assert parts_of(other).groups == (2, 1, 0, 0)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (ArrayRule("head.?"), ["head.w", "head.b"]),
        (ArrayRule("HEAD.*"), []),
        (ArrayRule("[en]*"), ["embed.w", "norm.w"]),
        (ArrayRule(max_ndim=1), ["norm.w", "head.b"]),
        (ArrayRule(max_size=7), ["norm.w", "head.b"]),
        (ArrayRule("*.w", max_size=12), ["head.w", "norm.w"]),
        (ArrayRule("*.w", max_ndim=1, max_size=6), []),
    ],
)
def test_what_a_rule_is_for(rule: ArrayRule, expected: list[str]) -> None:
    assert [name for name, shape in ARRAYS if rule.match(name, shape)] == expected


def test_each_operator_acts_on_its_arrays_alone() -> None:
    """C(x) is each operator's own on its arrays, with draws of its own part."""
    parts, x = parts_of(POLICY), vector()
    received = parts.decompress(parts.compress(x, STREAM), STREAM)
    embed, head, norm, bias = SPLIT
    for part, (operator, entries) in enumerate(
        [
            (Identity(), np.concatenate([head, bias])),
            (RandK(k=3), norm),
            (POLICY.default, embed),
        ]
    ):
        stream = STREAM.of_part(part)
        alone = operator.decompress(operator.compress(x[entries], stream), stream)
        assert received[entries].tobytes() == alone.tobytes()


def test_parts_draw_from_streams_of_their_own() -> None:
    same = PerArray({"head.w": RandK(k=3)}, RandK(k=3))
    arrays = [("head.w", (50,)), ("w", (50,))]
    parts, ones = same.bind(arrays), np.ones(100, dtype=np.float32)
    received = parts.decompress(parts.compress(ones, STREAM), STREAM)
    assert (received[:50] != received[50:]).any()
    assert STREAM.of_part(0).draws().words(4).tolist() == (
        STREAM.draws().words(4).tolist()
    )


def test_omega_is_the_largest_of_the_parts_and_holds() -> None:
    parts, x = parts_of(POLICY), vector(1)
    omegas = (0.0, RandK(k=3).omega(7), POLICY.default.omega(30))
    assert parts.omega(52) == max(omegas)
    draws = np.array(
        [
            parts.decompress(parts.compress(x, STREAM.at(i)), STREAM.at(i))
            for i in range(1500)
        ],
        dtype=np.float64,
    )
    errors = np.square(draws - x).sum(axis=1)
    assert errors.mean() <= 1.02 * parts.omega(52) * np.dot(x, x)
    spread = draws.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - x) <= 5 * spread + 1e-6).all()


def test_one_biased_operator_makes_the_whole_biased() -> None:
    parts = parts_of(PerArray({"head.*": TopK(k=6)}, RotatedQuantizer(step=1.5)))
    assert not parts.unbiased
    assert parts.contraction(52) == 6 / 15
    with pytest.raises(BiasedCompressorError):
        parts.omega(52)


def test_rules_that_leave_one_operator_are_that_operator() -> None:
    assert PerArray({"none*": Identity()}, TopK(k=2)).bind(ARRAYS) == TopK(k=2)
    assert PerArray({"*": ScaledSign()}, TopK(k=2)).bind(ARRAYS) == ScaledSign()
    dense = PerArray({"head.*": Identity()}, Identity(bucket_size=4)).bind(ARRAYS)
    assert dense == Identity()
    assert POLICY.bind([]) == POLICY.default


def test_the_configuration_rebuilds_the_rules() -> None:
    config = json.loads(json.dumps(POLICY.config()))
    assert get_compressor(config) == POLICY
    assert hash(get_compressor(config)) == hash(POLICY)
    assert parts_of(POLICY).config() == POLICY.config()
    assert repr(POLICY).startswith("PerArray({'head.*': Identity(), ArrayRule(max_ndim")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"rules": []}, "a default"),
        ({"default": {"name": "identity"}, "x": 1}, "rules and a default"),
        ({"rules": [[{"size": 1}, {"name": "identity"}]]}, "size"),
        ({"rules": 3}, "compressor 'per-array'"),
        ({"rules": [[{"name": 1}, {"name": "identity"}]]}, "pattern"),
        ({"rules": [[{}, POLICY.config()]]}, "rules of its own"),
    ],
)
def test_a_wrong_configuration_is_refused(config: dict[str, Any], words: str) -> None:
    whole = {"name": "per-array", "default": {"name": "identity"}, **config}
    if words == "a default":
        del whole["default"]
    with pytest.raises(ConfigurationError, match=words):
        get_compressor(whole)


def test_wrong_arguments_are_refused() -> None:
    for wrong in (-1, 1.5, True, "3"):
        with pytest.raises(ConfigurationError, match="max_ndim must be an integer"):
            ArrayRule(max_ndim=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="expected a mapping"):
        PerArray([("a", Identity())], Identity())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="as a rule, got 3"):
        PerArray({3: Identity()}, Identity())
    with pytest.raises(ConfigurationError, match="without rules of its own"):
        PerArray({"a": POLICY}, Identity())
    with pytest.raises(ConfigurationError, match="at most 254 rules, got 255"):
        PerArray({str(i): Identity() for i in range(255)}, Identity())


def test_it_compresses_nothing_before_the_arrays_are_known() -> None:
    with pytest.raises(ConfigurationError, match="give it to a link of a strategy"):
        POLICY.compress(vector(), STREAM)
    with pytest.raises(ConfigurationError, match="a vector of 52 entries"):
        parts_of(POLICY).compress(vector()[:-1], STREAM)


def test_tensors_of_torch_give_the_same() -> None:
    torch = pytest.importorskip("torch")
    parts, x = parts_of(POLICY), vector(2)
    sent = parts.compress(torch.from_numpy(x), STREAM)
    assert sent.num_bits("elias") == parts.compress(x, STREAM).num_bits("elias")
    received = parts.decompress(sent, STREAM).numpy()
    on_host = parts.decompress(sent.numpy(), STREAM)
    expected = parts.decompress(parts.compress(x, STREAM), STREAM)
    assert received.tobytes() == on_host.tobytes() == expected.tobytes()


def test_wire_ids_are_those_of_no_operator() -> None:
    ids = {cls.wire_id for cls in COMPRESSORS.values()}
    assert (PerArray.wire_id, Tied.wire_id) == (11, 12)
    assert ids.isdisjoint({11, 12})
