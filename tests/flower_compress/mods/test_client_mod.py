"""What the mods at a client tell of their arguments, identities and surroundings."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flwr.app import Context, Message, MessageType, MetricRecord, RecordDict, UserConfig
from flwr.clientapp.typing import ClientAppCallable

from flower_compress import CompressionMod, StochasticQuantizer
from flower_compress.clients import GossipMod
from flower_compress.errors import ConfigurationError, WrongTypeError
from flower_compress.mods.client_mod import ClientMod, stable_identity
from flower_compress.testing import InProcessGrid

BOTH = pytest.mark.parametrize("cls", [CompressionMod, GossipMod])


@pytest.fixture(autouse=True)
def _server_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Flower lets only a process that runs an app create messages."""
    InProcessGrid(lambda msg, context: msg, 1)
    monkeypatch.setattr(ClientMod, "_passes", set())
    yield


def context(partition_id: Any) -> Context:
    return Context(1, 7, {"partition-id": partition_id}, RecordDict(), UserConfig({}))


@BOTH
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"returns": StochasticQuantizer()},
            'returns must be "weights" or "gradient", got a StochasticQuantizer: '
            "{mod} takes no operator, the server says how to answer",
        ),
        ({"returns": ["weights"]}, 'returns must be "weights" or "gradient", got a li'),
        ({"identity": 3}, "identity must be a function of the Context that returns a "),
        ({"state_dir": 3}, "state_dir must be the path of a folder, got 3"),
    ],
)
def test_arguments_of_the_wrong_kind(
    cls: type[ClientMod[Any]], arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(WrongTypeError) as caught:
        cls(**arguments)
    assert str(caught.value).startswith(said.format(mod=cls.__name__))


@BOTH
def test_the_class_in_place_of_an_object(cls: type[ClientMod[Any]]) -> None:
    msg = Message(RecordDict(), 7, MessageType.TRAIN)
    with pytest.raises(WrongTypeError, match=r"give an object, mods=\[\w+Mod\(\)\]"):
        cls(msg, context(0), lambda msg, context: msg)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("partition_id", "identity"), [(3, 3), ("3", 3), (" 12 ", 12), (4.0, 4)]
)
def test_a_number_is_its_own_identity(partition_id: Any, identity: int) -> None:
    assert stable_identity(context(partition_id)) == identity


def test_a_name_has_the_identity_of_its_hash() -> None:
    found = stable_identity(context("hospital-a"))
    digest = hashlib.sha256(b"hospital-a").hexdigest()
    assert found == int(digest[:16], 16) >> 1
    assert 0 <= found < 1 << 63
    assert stable_identity(context("hospital-b")) != found


@pytest.mark.parametrize("partition_id", ["", " ", 0.5])
def test_what_is_neither_number_nor_name_is_refused(partition_id: Any) -> None:
    with pytest.raises(ConfigurationError, match="a whole number or a name, got"):
        stable_identity(context(partition_id))


@BOTH
@pytest.mark.parametrize(
    ("message_type", "times"), [(MessageType.TRAIN, 1), (MessageType.EVALUATE, 0)]
)
def test_a_strategy_that_does_not_compress_is_told_of_once(
    cls: type[ClientMod[Any]],
    message_type: str,
    times: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "flwr")
    content = RecordDict({"metrics": MetricRecord({"a": 1.0})})
    for _ in range(2):
        msg = Message(content, 7, message_type)
        assert cls()(msg, context(0), lambda msg, context: msg) is msg
    assert caplog.text.count("; messages pass unchanged") == times
    what = "does not compress" if cls is CompressionMod else "is no Relay"
    line = f"{cls.__name__}: the server's strategy {what}; messages pass unchanged"
    assert (line in caplog.text) is bool(times)


def test_an_identity_function_that_fails_is_told_of() -> None:
    def raising(_: Context) -> int:
        raise KeyError("hospital")

    mod = CompressionMod(identity=raising)
    with pytest.raises(ConfigurationError, match="function raised KeyError: 'hospital"):
        mod._identity_of(context(0))
    with pytest.raises(WrongTypeError, match="gives must be a whole number, got 'x'"):
        CompressionMod(identity=lambda _: "x")._identity_of(context(0))  # type: ignore[arg-type, return-value]


def test_other_key_errors_are_the_apps_own() -> None:
    def app(msg: Message, context: Context) -> Message:
        raise KeyError("weight")

    call: ClientAppCallable = CompressionMod()._through(app)
    with pytest.raises(KeyError, match="^'weight'$"):
        call(Message(RecordDict(), 7, MessageType.TRAIN), context(0))
