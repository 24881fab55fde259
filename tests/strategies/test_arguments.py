"""Arguments of the wrong kind: told at construction, with what to give instead."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flwr.serverapp.strategy import FedAdam, FedAvg

from flower_compress import (
    Direct,
    Identity,
    Memory,
    RotatedQuantizer,
    StochasticQuantizer,
    TopK,
)
from flower_compress.clients import QAdamMod
from flower_compress.errors import ConfigurationError, WrongTypeError
from flower_compress.strategies import (
    ALGORITHMS,
    DECENTRALIZED,
    MCM,
    SGD,
    CompressedStrategy,
    Diana,
    Dore,
    MalcomPSGD,
    SparsAMS,
    amsgrad,
)
from flower_compress.strategies.topology import ring

OPERATOR = "compressor must be an operator, as RotatedQuantizer(step=1.5), got "
LINK = "must be a link, as Direct(Identity()) or Memory(RotatedQuantizer(step=1.5)), "
WITH_OPERATOR = [make for make in ALGORITHMS.values() if make not in (SGD, amsgrad)]


@pytest.mark.parametrize("make", WITH_OPERATOR)
def test_every_algorithm_takes_operators_only(make: Any) -> None:
    with pytest.raises(WrongTypeError, match=f"^{re.escape(OPERATOR)}0.5$"):
        make(0.5)
    advice = "a FedAvg: to compress FedAvg's own aggregation use compress(FedAvg(...))"
    with pytest.raises(WrongTypeError, match=f"^{re.escape(OPERATOR + advice)}$"):
        make(FedAvg())


@pytest.mark.parametrize("make", DECENTRALIZED.values())
def test_every_decentralized_algorithm_takes_operators_only(make: Any) -> None:
    with pytest.raises(WrongTypeError, match=f"^{re.escape(OPERATOR)}'q8'$"):
        make(ring(5), "q8")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: MCM(StochasticQuantizer),  # type: ignore[arg-type]
            f"{OPERATOR}the class StochasticQuantizer: give an object, "
            "StochasticQuantizer(...)",
        ),
        (
            lambda: MCM(Memory(TopK(k=3))),  # type: ignore[arg-type]
            f"{OPERATOR}a Memory: give the link's own operator, or compose links with "
            "CompressedStrategy(uplink=..., downlink=...)",
        ),
        (lambda: MCM(downlink_compressor=3), f"{OPERATOR}3"),  # type: ignore[arg-type]
        (
            lambda: MCM(FedAdam),
            f"{OPERATOR}the class FedAdam: to compress FedAdam's own ",
        ),  # type: ignore[arg-type]
        (
            lambda: Diana(downlink=RotatedQuantizer()),  # type: ignore[arg-type]
            f"downlink {LINK}got a RotatedQuantizer: wrap it, as Direct(Rotated",
        ),
        (
            lambda: CompressedStrategy(Direct, Direct(Identity())),  # type: ignore[arg-type]
            f"uplink {LINK}got the class Direct: give an object, Direct(...)",
        ),
        (
            lambda: CompressedStrategy(FedAvg(), Direct(Identity())),  # type: ignore[arg-type]
            f"uplink {LINK}got a FedAvg: to compress FedAvg's own aggregation use ",
        ),
        (
            lambda: MCM(optimizer=0.1),
            "optimizer must be a step of the server's, as AMSGrad(1e-3), got 0.1: ",
        ),
        (lambda: MCM(seed="a"), "seed must be an integer, got 'a'"),
        (
            lambda: MCM(checkpoint_dir=5),
            "checkpoint_dir must be the path of a folder, got 5",
        ),
        (lambda: MCM(spill_dir=5), "spill_dir must be the path of a folder, got 5"),
        (lambda: MalcomPSGD("ring"), "topology must be who talks to whom, as ring(10)"),
    ],
)
def test_what_came_is_named_and_what_to_give(make: Any, said: str) -> None:
    with pytest.raises(WrongTypeError) as caught:
        make()
    assert str(caught.value).startswith(said)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MCM(downlink_rate="x"), "rate must lie in [0, 1], got 'x'"),
        (lambda: Dore(eta="x"), "feedback must lie in [0, 1], got 'x'"),
        (lambda: SparsAMS(beta1="x"), "beta1 must lie in [0, 1), got 'x'"),
        (lambda: SparsAMS(eps="x"), "eps must be positive, got 'x'"),
        (lambda: MCM(memory_budget="x"), "memory_budget must be 0 or more, got 'x'"),
        (
            lambda: MCM(exact_pattern="("),
            "exact_pattern must be a regular expression for names of arrays, got '(': ",
        ),
        (lambda: QAdamMod("x"), "beta1 must lie in [0, 1), got 'x'"),  # type: ignore[arg-type]
        (lambda: MCM(max_update_norm="x"), "max_update_norm must be positive, got 'x'"),
        (lambda: MCM(min_replies=None), "min_replies must be positive, got None"),
        (lambda: MCM(checkpoint_every="x"), "checkpoint_every must be positive, got "),
        (lambda: MCM(max_failed_rounds="x"), "max_failed_rounds must be at least 1, "),
        (lambda: MCM(greeting_timeout="x"), "greeting_timeout must be positive, got "),
        (lambda: MalcomPSGD(ring(5), l1="x"), "l1 must be a number >= 0, got 'x'"),
        (
            lambda: MalcomPSGD(ring(5), consensus_step="x"),
            "consensus_step must lie in (0, 1], got 'x'",
        ),
        (
            lambda: MalcomPSGD(ring(5), collect_every="x"),
            "collect_every must be at least 0, got 'x'",
        ),
    ],
)
def test_what_is_no_number_is_told_as_a_wrong_number_is(make: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert str(caught.value).startswith(said)
