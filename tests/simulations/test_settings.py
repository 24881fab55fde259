"""Every algorithm crossed with every option: it is used, or it is refused."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flower_compress.errors import ConfigurationError, UnknownNameError
from flower_compress.strategies import ALGORITHMS, DECENTRALIZED
from simulations import cli
from simulations.experiment import Experiment
from simulations.settings import (
    OPTIONS,
    Decentralized,
    Problem,
    Server,
    Settings,
    dashed,
    from_config,
    several,
)
from tests.cases import in_one_test

ROOT = Path(__file__).parents[2]
ALL = {*ALGORITHMS, *DECENTRALIZED}
SERVER = {*ALGORITHMS}
GOSSIP = {*DECENTRALIZED}
QUANTIZED_GOSSIP = GOSSIP - {"dpsgd"}
MEMORY = {"diana", "artemis", "artemis-nd", "dore", "mcm", "rand-mcm"}
SPARSE = {"spars-ams", "topk", "stoc-mv", "stoc-unif", "qadam"}
OWN_CLIENTS = {"qadam", "dist-ef-sgd"}
SIGNS = {"double-squeeze", "dist-ef-sgd"}
QUANTIZED = MEMORY | {"qsgd", "ecq-sgd"} | QUANTIZED_GOSSIP
ADAPTIVE = SPARSE | {"amsgrad"}
OF_ANY_OPERATOR = MEMORY | SIGNS | {"qsgd", "ecq-sgd", "spars-ams"}

BASE = {"step_size": "0.1"}  # No task is built for it.

# For each option a value that is not its default, the options without which it is of no
# use to anyone, and the algorithms that use it: by hand, from the papers.
MATRIX: dict[str, tuple[Any, dict[str, Any], set[str]]] = {
    "task": ("digits", {}, ALL),
    "model": ("cnn", {"task": "digits"}, ALL),
    "partition": ("iid", {}, ALL),
    "clients": (10, {}, ALL),
    "alpha": (0.1, {"partition": "dirichlet"}, ALL),
    "data": ("folder", {"task": "mnist"}, ALL),
    "examples": (100, {"task": "a9a"}, ALL),
    "device": ("cuda", {"task": "digits"}, ALL),
    "rounds": (7, {}, ALL),
    "batch_size": (3, {}, ALL),
    "step_size": ("0.3", {}, ALL),
    "log_every": (4, {}, ALL),
    "schedule": ("inverse-sqrt", {}, ALL),
    "smoothness": ("global", {"step_size": "auto"}, ALL - ADAPTIVE),
    "levels": (4, {}, QUANTIZED),
    "bucket_size": (16, {}, QUANTIZED | SIGNS),
    "client": ("local-steps", {}, SERVER - OWN_CLIENTS),
    "local_steps": (2, {"client": "local-steps"}, SERVER - OWN_CLIENTS),
    "local_step_size": (0.5, {"client": "local-steps"}, SERVER - OWN_CLIENTS),
    "fraction": (0.5, {}, SERVER),
    "sampling": ("bernoulli", {"fraction": 0.5}, SERVER),
    "operator": ("rotated", {}, QUANTIZED - QUANTIZED_GOSSIP),
    "step": (0.7, {"operator": "rotated"}, QUANTIZED - QUANTIZED_GOSSIP),
    "momentum": (0.9, {}, SERVER - ADAPTIVE),
    "client_momentum": (0.5, {}, {"dist-ef-sgd"}),
    "beta1": (0.5, {}, ADAPTIVE - {"qadam"}),
    "beta2": (0.9, {}, ADAPTIVE - {"qadam"}),
    "eps": (1e-4, {}, ADAPTIVE - {"qadam"}),
    "average": (True, {}, SERVER),
    "uplink": ("natural-compression", {}, OF_ANY_OPERATOR),
    "downlink": ("natural-compression", {}, MEMORY - {"diana"} | SIGNS),
    "uplink_rate": ("0", {}, MEMORY),
    "downlink_rate": ("1", {}, {"mcm", "rand-mcm"}),
    "groups": (2, {}, {"rand-mcm"}),
    "downlink_levels": ("1,4", {}, {"rand-mcm"}),
    "ghost": (True, {}, {"mcm"}),
    "sparsity": (0.2, {}, SPARSE),
    "k": (3, {}, SPARSE - {"stoc-mv"}),
    "uplink_memory": ("mean", {}, MEMORY),
    "initial_memory": ("first", {}, MEMORY),
    "downlink_memory": ("average", {}, {"rand-mcm"}),
    "reset_every": ("12", {"downlink_memory": "average"}, {"rand-mcm"}),
    "topology": ("complete", {}, GOSSIP),
    "consensus_step": (0.5, {}, GOSSIP),
    "consensus_power": (0.5, {}, GOSSIP),
    "l1": ("1e-3", {}, {"malcom", "cdprox-sgt"}),
    "quantizer": ("norm", {}, QUANTIZED_GOSSIP),
    "tau": ("lemma", {}, QUANTIZED_GOSSIP),
    "code": ("elias", {}, QUANTIZED_GOSSIP),
    "residual": (False, {}, QUANTIZED_GOSSIP),
    "rate": (0.5, {}, QUANTIZED_GOSSIP),
}

# What takes an option away from those that use it.
CONTRARY: dict[str, dict[str, Any]] = {
    "model": {"task": "parity"},
    "device": {"task": "parity"},
    "data": {"task": "digits"},
    "examples": {"task": "digits"},
    "alpha": {"partition": "iid"},
    "local_steps": {"client": "gradient"},
    "local_step_size": {"client": "gradient"},
    "sampling": {"fraction": 1.0},
    "step": {"operator": "qsgd"},
    "operator": {"uplink": "natural-compression"},
    "sparsity": {"k": 3},
    "k": {"uplink": "natural-compression"},
    "groups": {"downlink_memory": "average"},
    "downlink_rate": {"ghost": True},
    "downlink_levels": {"groups": 2},
    "smoothness": {"client": "local-steps"},
    "reset_every": {"downlink_memory": "each"},
    "tau": {"quantizer": "norm"},
    "code": {"quantizer": "none"},
    "residual": {"quantizer": "none"},
    "rate": {"residual": False},
    "levels": {"quantizer": "none"},
    "bucket_size": {"quantizer": "none"},
}


def built(settings: Settings) -> dict[str, str]:
    """Return what the settings make of a run: the strategy, and what clients are told.

    Attributes of the strategy that differ between two that are made alike tell nothing.
    """
    one, other = (vars(settings.strategy()) for _ in range(2))
    attributes = {
        name: repr(value)
        for name, value in one.items()
        if repr(value) == repr(other[name])
    }
    return {
        **attributes,
        "config": repr(settings.train_config()),
        "rounds": repr((settings.rounds, settings.evaluation_interval)),
        "average": repr(getattr(settings.part, "average", False)),
    }


def test_the_matrix_has_every_option_and_every_need() -> None:
    assert set(MATRIX) == set(OPTIONS)
    assert set(CONTRARY) == {name for name, option in OPTIONS.items() if option.needs}
    for name, (value, _, _) in MATRIX.items():
        assert value != OPTIONS[name].default
        assert type(value) is type(OPTIONS[name].default)


@in_one_test("name", MATRIX)
@pytest.mark.parametrize("algorithm", sorted(ALL))
def test_an_option_is_used_or_refused(algorithm: str, name: str) -> None:
    value, context, users = MATRIX[name]
    if algorithm in users:
        plain = Settings.of(algorithm, **{**BASE, **context})
        changed = Settings.of(algorithm, **{**BASE, **context, name: value})
        assert built(plain) != built(changed)
        assert changed.as_dict()[dashed(name)] == value
        assert dashed(name) in plain.as_dict()
    else:
        for given in (value, OPTIONS[name].default):
            with pytest.raises(ConfigurationError, match=refusal(name, algorithm)):
                Settings.of(algorithm, **{**BASE, name: given})
        assert dashed(name) not in Settings.of(algorithm).as_dict()


def refusal(name: str, came: str) -> str:
    return rf"^{dashed(name)} goes with .*, not with {re.escape(came)}: leave it out$"


@in_one_test(
    ("name", "algorithm"),
    [
        (name, algorithm)
        for name, contrary in CONTRARY.items()
        for algorithm in sorted(MATRIX[name][2])
        if algorithm in MATRIX[next(iter(contrary))][2]
    ],
)
def test_what_another_option_rules_out_is_refused(name: str, algorithm: str) -> None:
    ((other, value),) = CONTRARY[name].items()
    came = f"{dashed(other)} {value}".lower()
    for given in (MATRIX[name][0], OPTIONS[name].default):
        with pytest.raises(ConfigurationError, match=refusal(name, came)):
            Settings.of(algorithm, **{**BASE, other: value, name: given})
    plain = Settings.of(algorithm, **{**BASE, other: value})
    assert dashed(name) not in plain.as_dict()


@in_one_test("algorithm", sorted(ALL))
def test_the_parts_refuse_it_too(algorithm: str) -> None:
    """Settings that are put together by hand, or by replace()."""
    part, other = (Server(), Decentralized())
    if algorithm in GOSSIP:
        part, other = other, part
    kind = type(part).__name__
    with pytest.raises(ConfigurationError, match=f"takes the settings of {kind}"):
        Settings(algorithm, part=other)
    with pytest.raises(ConfigurationError, match="alpha goes with"):
        Settings(algorithm, part=part, problem=Problem(alpha=0.1))


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(UnknownNameError, match="'sparsty'.*did you mean 'sparsity'"):
        Settings.of("topk", sparsty=0.1)


# --- Several runs ---------------------------------------------------------------------


def test_runs_take_what_they_use_of_what_they_share() -> None:
    runs = [{"algorithm": name} for name in ("sgd", "mcm", "malcom", "topk")]
    shared = {"levels": 4, "fraction": 0.5, "rate": 0.1, "rounds": 3}
    sgd, mcm, malcom, topk = several(runs, shared)
    assert [run.rounds for run in (sgd, mcm, malcom, topk)] == [3, 3, 3, 3]
    assert [run.levels for run in (sgd, mcm, malcom, topk)] == [0, 4, 4, 0]
    assert (sgd.part.fraction, topk.part.fraction) == (0.5, 0.5)
    assert malcom.part.rate == 0.1


def test_what_none_of_the_runs_uses_is_refused() -> None:
    runs = [{"algorithm": "sgd"}, {"algorithm": "amsgrad"}]
    with pytest.raises(ConfigurationError, match="levels .* not with sgd or amsgrad:"):
        several(runs, {"rounds": 3, "levels": 4})
    with pytest.raises(ConfigurationError, match="alpha .* not with partition iid:"):
        several(runs, {"partition": "iid", "alpha": 0.5})
    with pytest.raises(ConfigurationError, match="tau .* with quantizer norm or sgd:"):
        several(
            [{"algorithm": "choco"}, {"algorithm": "sgd"}],
            {"quantizer": "norm", "tau": "lemma"},
        )
    with pytest.raises(ConfigurationError, match="levels .* not with sgd or amsgrad:"):
        several(runs, {}, {"levels": 4})


def test_a_run_must_use_what_is_its_own() -> None:
    runs = [{"algorithm": "mcm"}, {"algorithm": "sgd", "levels": 4}]
    with pytest.raises(ConfigurationError, match="levels .* not with sgd:"):
        several(runs, {})


def test_its_own_options_come_before_those_that_it_shares() -> None:
    runs = [{"algorithm": "mcm", "levels": 8}, {"algorithm": "qsgd"}]
    assert [run.levels for run in several(runs, {"levels": 4})] == [8, 4]
    assert [run.levels for run in several(runs, {}, {"levels": 4})] == [4, 4]


# --- Flower's run config --------------------------------------------------------------


def test_a_run_config_may_have_the_default_of_what_is_not_used() -> None:
    config = {dashed(name): option.default for name, option in OPTIONS.items()}
    for algorithm in sorted(ALL):
        settings = from_config({**config, "algorithm": algorithm, "other": 1})
        assert settings == Settings.of(algorithm)
    with pytest.raises(ConfigurationError, match=refusal("rate", "mcm")):
        from_config({**config, "algorithm": "mcm", "rate": 0.1})
    with pytest.raises(ConfigurationError, match="alpha goes with partition dirichlet"):
        from_config({**config, "alpha": 0.1})


# --- What the documentation says ------------------------------------------------------


def commands() -> Iterator[str]:
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for line in path.read_text().splitlines():
            if line.startswith(("python -m simulations", "flwr run . --run-config")):
                yield line


@pytest.mark.parametrize("line", [*commands()])
def test_the_commands_of_the_documentation_work(
    line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Up to the first round."""
    words = shlex.split(line)
    if words[0] == "flwr":
        config = tomllib.loads("\n".join(words[-1].split()))
        assert from_config(config).rounds
        return
    if "cuda" in words and not torch.cuda.is_available():
        pytest.skip("no GPU")
    begun: list[Experiment] = []
    monkeypatch.setattr(Experiment, "run", lambda self, *_, **__: begun.append(self))
    out = tmp_path / "out.html"
    monkeypatch.setattr(cli.sys, "argv", [*words[2:], "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    if words[3] == "report":
        assert out.read_text().startswith("<!DOCTYPE html>")
    else:
        assert len(begun) == 1 and begun[0].jobs
