"""Arguments of the wrong kind: told at construction, with what to give instead."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAdam, FedAvg

from flower_compress import (
    Direct,
    Identity,
    Memory,
    PerArray,
    RotatedQuantizer,
    StochasticQuantizer,
    TopK,
)
from flower_compress.clients import QAdamMod
from flower_compress.errors import ConfigurationError, UnknownNameError, WrongTypeError
from flower_compress.strategies import (
    ALGORITHMS,
    DECENTRALIZED,
    DPSGD,
    MCM,
    SGD,
    CompressedStrategy,
    Diana,
    Dore,
    DoubleSqueeze,
    MalcomPSGD,
    RandMCM,
    SparsAMS,
    amsgrad,
    compress,
    qadam,
)
from flower_compress.strategies.topology import ring
from flower_compress.testing import InProcessGrid
from tests.strategies.problem import (
    INITIAL,
    NUM_CLIENTS,
    make_app,
    to_record,
    to_vector,
)
from tests.strategies.pulls import DIM, run

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
            lambda: compress(FedAvg(), TopK(k=3)),  # type: ignore[arg-type]
            "what follows the strategy must be arguments by name, as uplink=Memory(C), "
            "got a TopK: compress takes links: uplink=Memory(C), ",
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
        (
            lambda: MCM(memory_budget="x"),
            "memory_budget must be a whole number >= 0",
        ),
        (
            lambda: MCM(exact_pattern="("),
            "exact_pattern must be a regular expression for names of arrays, got '(': ",
        ),
        (lambda: QAdamMod("x"), "beta1 must lie in [0, 1), got 'x'"),  # type: ignore[arg-type]
        (lambda: MCM(max_update_norm="x"), "max_update_norm must be positive, got 'x'"),
        (lambda: MCM(min_replies=None), "min_replies must be a whole number >= 1, got"),
        (lambda: MCM(min_replies=1.5), "min_replies must be a whole number >= 1, got"),
        (lambda: MCM(forget_after=1.5), "forget_after must be a whole number >= 1 or"),
        (
            lambda: MCM(weighted_by_key=""),
            "weighted_by_key must be the name of a",
        ),
        (
            lambda: MCM(evaluate_on="held", fraction_train=0.0),
            'evaluate_on="held" is of the model that a client was sent to train on; ',
        ),
        *(
            (
                lambda name=name, value=value: MCM(**{name: value}),
                f"{name} must lie in [0, 1], got ",
            )
            for name in ("fraction_train", "fraction_evaluate")
            for value in (None, float("nan"), "0.3", 3, 1j)
        ),
        (lambda: MCM(min_train_nodes=1.5), "min_train_nodes must be a whole number"),
        (
            lambda: Diana(min_available_nodes=float("inf")),
            "min_available_nodes must be a whole number >= 0, got inf",
        ),
        (lambda: MCM(checkpoint_every="x"), "checkpoint_every must be a whole number"),
        (
            lambda: MCM(max_failed_rounds="x"),
            "max_failed_rounds must be a whole",
        ),
        (lambda: MCM(greeting_timeout="x"), "greeting_timeout must be positive, got "),
        (lambda: MalcomPSGD(ring(5), l1="x"), "l1 must be a number >= 0, got 'x'"),
        (
            lambda: MalcomPSGD(ring(5), consensus_step="x"),
            "consensus_step must lie in (0, 1], got 'x'",
        ),
        (
            lambda: MalcomPSGD(ring(5), consensus_power=-1),
            "consensus_power must be a number >= 0, got -1",
        ),
        (
            lambda: MalcomPSGD(ring(5), collect_every="x"),
            "collect_every must be a whole number >= 0 or None, got 'x'",
        ),
    ],
)
def test_what_is_no_number_is_told_as_a_wrong_number_is(make: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: MCM(fraction_tran=0.5),
            "unknown argument of MCM 'fraction_tran': did",
        ),
        (lambda: MCM(fraction_tran=0.5), "you mean 'fraction_train'?"),
        (
            lambda: MCM(proximal_mu=0.1),
            "MCM takes no proximal_mu: FedProx does, and compress(FedProx(proximal_mu=",
        ),
        (lambda: MCM(eta=0.1), "MCM takes no eta: FedAdam does"),
        (lambda: SparsAMS(beta_1=0.5), "you mean 'beta1'?"),
        (lambda: MalcomPSGD(ring(5), eta=0.1), "expected one of "),
        (lambda: SparsAMS(beta3=0.5), "you mean 'beta2'?"),
        (lambda: Diana(uplink_rat=0.5), "you mean 'uplink_rate'?"),
        (
            lambda: MalcomPSGD(ring(5), colect_every=2),
            "unknown argument of MalcomPSGD 'colect_every': expected one of ",
        ),
        (
            lambda: RandMCM(downlink_memory="average"),
            "RandMCM takes no downlink_memory: it is memory=...",
        ),
        (
            lambda: MCM(uplink=Direct(Identity())),
            "MCM takes no uplink: it is what the algorithm is; CompressedStrategy(",
        ),
        (lambda: Dore(preserved=True), "Dore takes no preserved: it is what the "),
        (lambda: DoubleSqueeze(downlink=LINK), "DoubleSqueeze takes no downlink: "),
        (lambda: amsgrad(compressor=TopK(k=3)), "amsgrad takes no compressor: "),
        (lambda: qadam(uplink=Direct(Identity())), "qadam takes no uplink: "),
        (lambda: DPSGD(ring(5), algorithm="choco"), "DPSGD takes no algorithm: "),
    ],
)
def test_names_that_nothing_takes_or_that_an_algorithm_sets(
    make: Any, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        make()


class Own(MCM):
    """Takes an argument of its own, and passes on the others."""

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate


def test_numbers_of_numpy_count_as_pythons(tmp_path: Path) -> None:
    """As of a sweep over np.arange: in what both ends agree on, and in arithmetic."""

    def model(whole: Any, real: Any) -> bytes:
        operator = StochasticQuantizer(levels=whole(7), bucket_size=whole(8))
        strategy = MCM(
            operator,
            downlink_rate=real(0.25),
            seed=whole(3),
            groups=whole(1),
            fraction_evaluate=0.0,
            checkpoint_dir=tmp_path / real.__name__,
        )
        grid = InProcessGrid(make_app(), NUM_CLIENTS)
        return to_vector(strategy.start(grid, to_record(INITIAL), 2).arrays).tobytes()

    assert model(np.int64, np.float32) == model(int, float)

    def agreed(whole: Any, real: Any) -> Any:
        relay = MalcomPSGD(
            ring(3), l1=real(0.5), consensus_step=real(0.25), seed=whole(3)
        )
        relay._begin(to_record(INITIAL))
        return relay._fingerprint()

    assert agreed(np.int64, np.float32) == agreed(int, float)


def test_a_subclass_takes_its_own() -> None:
    assert Own(rate=0.1, fraction_train=0.5, min_replies=2).fraction_train == 0.5
    with pytest.raises(UnknownNameError, match="argument of Own 'ratte'.*'rate'"):
        Own(rate=0.1, ratte=0.1)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_run_that_trains_nothing_skips_nothing(
    fraction: float, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an operator that is to keep more than there is says that it keeps all."""
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    rules = PerArray({"a": TopK(k=10**9)}, default=RotatedQuantizer())
    strategy = MCM(rules, fraction_train=fraction, fraction_evaluate=0.0)
    run(strategy, rounds=2)
    found = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    (told,) = (text for text in found if "is set to 0.0" not in text)  # Flower's.
    assert told.startswith("TopK(k=1000000000) keeps more entries than the model has")
    assert f"({DIM})" in told


def test_a_switch_is_no_number_and_a_number_no_folder() -> None:
    """True would count as 1: forgotten after one round that a client missed."""
    for name in ("forget_after", "max_update_norm", "max_norm_ratio"):
        with pytest.raises(ConfigurationError, match=f"^{name} must be .*, got True$"):
            compress(FedAvg(), **{name: True})
    with pytest.raises(WrongTypeError, match=r"^spill_dir must be the path.*got 3$"):
        compress(FedAvg(), spill_dir=3)  # type: ignore[arg-type]


def test_a_run_needs_a_grid() -> None:
    grids: tuple[Any, ...] = (None, "grid", [])
    for grid in grids:
        with pytest.raises(WrongTypeError, match="^grid must be a Grid"):
            MCM().start(grid, to_record(INITIAL))
