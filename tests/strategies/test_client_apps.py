"""Client apps that cannot work: the run ends at once and says what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod

from flower_compress import CompressionMod
from flower_compress.errors import (
    ConfigurationError,
    MissingModError,
    RoundFailedError,
)
from flower_compress.strategies import MCM, MalcomPSGD
from flower_compress.strategies.topology import ring
from flower_compress.testing import InProcessGrid
from tests.strategies.problem import (
    INITIAL,
    NUM_CLIENTS,
    make_app,
    to_record,
)
from tests.strategies.test_decentralized import make_node_app

FIRST = (
    r"put it first in the client app, `ClientApp\(mods=\[CompressionMod\(\), ...\]\)`"
)


def app_with(mod: Any) -> ClientApp:
    app = ClientApp(mods=[mod])
    app.train()(lambda msg, context: Message(msg.content, reply_to=msg))
    return app


def start(app: ClientApp, strategy: Any = None) -> InProcessGrid:
    grid = InProcessGrid(app, NUM_CLIENTS)
    (strategy or MCM()).start(grid, to_record(INITIAL), 3)
    return grid


@pytest.mark.parametrize(
    ("mod", "said"),
    [
        (LocalDpMod(1.0, 1.0, 10.0, 1e-3), "another mod, or the app itself, read the"),
        (fixedclipping_mod, r"another mod answered in its place \(error 6: fixedcl"),
    ],
)
def test_a_mod_of_differential_privacy_in_front(mod: Any, said: str) -> None:
    with pytest.raises(MissingModError, match=f"{FIRST}.*1001 and 4 more: {said}"):
        start(make_app("weights", outer=[mod]))


@pytest.mark.parametrize(
    ("app", "said"),
    [
        (
            app_with(CompressionMod),
            r"give an object, mods=\[CompressionMod\(\)\], not the class$",
        ),
        (make_app(identity=lambda context: "x"), "must be a whole number, got 'x'$"),
        (make_app(identity=lambda context: {}["a"]), "function raised KeyError: 'a'$"),
    ],
)
def test_what_the_mod_itself_refuses_is_told_as_it_is(app: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        start(app)
    text = str(caught.value)
    assert text.startswith("5 of 5 nodes were greeted in vain: node 1001 and 4 more: ")
    assert "its CompressionMod refused: " in text
    assert "put it first" not in text, "it is there already"
    assert len(text) < 300
    with pytest.raises(ConfigurationError, match=said):
        start(app)


def test_an_app_without_a_train_function() -> None:
    with pytest.raises(ConfigurationError, match=r"register one with `@app.train\(\)`"):
        start(ClientApp(mods=[CompressionMod()]))


def test_a_train_function_of_another_name_does_not_answer_a_greeting() -> None:
    app = ClientApp(mods=[CompressionMod()])
    app.train("local")(lambda msg, context: Message(msg.content, reply_to=msg))
    with pytest.raises(ConfigurationError, match=r"train\(\)`, beside any with names"):
        start(app)


class OwnMessages(MCM):
    """Sends the model that it was given, as a FedAvg may."""

    def configure_train(self, server_round: int, arrays: Any, *rest: Any) -> Any:
        for msg in super().configure_train(server_round, arrays, *rest):
            msg.content["arrays"] = arrays
            yield msg


def test_messages_of_ones_own_are_told_from_a_client_without_the_mod() -> None:
    expected = r"own has to send on the messages that super\(\).configure_train\(...\)"
    with pytest.raises(RoundFailedError, match=expected):
        start(make_app("weights"), OwnMessages())


def test_an_app_of_flowers_former_api_ends_the_run_in_its_first_round() -> None:
    former = pytest.importorskip("flwr.compat.client.numpy_client")
    trained = []

    class Client(former.NumPyClient):  # type: ignore[misc, name-defined]
        def fit(self, parameters: Any, config: Any) -> Any:
            trained.append(config)
            return parameters, 3, {}

    def client_fn(context: Context) -> Any:
        return Client().to_client()

    asked: list[Message] = []
    app = ClientApp(client_fn=client_fn, mods=[CompressionMod()])
    grid = InProcessGrid(app, NUM_CLIENTS, on_message=lambda msg, _: asked.append(msg))
    expected = (
        r"reported an error: ConfigurationError: this client app is one of Flower's "
        r"former API \(client_fn, NumPyClient\), and CompressionMod needs the message "
        r"API: register what trains with `@app.train\(\)`$"
    )
    with pytest.raises(RoundFailedError, match=expected):
        MCM().start(grid, to_record(INITIAL), 9)
    assert not trained
    assert len(asked) == 2 * NUM_CLIENTS, "a greeting and one round"


def test_names_as_partition_ids_make_a_run_of_their_own() -> None:
    """Which names, is in the draws; how they are spelt is stable."""
    models = []
    for _ in range(2):
        grid = InProcessGrid(app_with(CompressionMod()), NUM_CLIENTS)
        for i, context in enumerate(grid.contexts.values()):
            context.node_config["partition-id"] = f"hospital-{i}"
        strategy = MCM(weighted_by_key=None)
        result = strategy.start(grid, to_record(INITIAL), 3)
        assert len(strategy._running.roster) == NUM_CLIENTS
        models.append(
            np.concatenate([a.numpy().ravel() for a in result.arrays.values()])
        )
    np.testing.assert_array_equal(models[0], models[1])


def test_a_node_of_a_decentralized_run_needs_a_number() -> None:
    grid = InProcessGrid(make_node_app(), NUM_CLIENTS)
    for context in grid.contexts.values():
        context.node_config["partition-id"] = f"hospital-{context.node_id}"
    with pytest.raises(
        ConfigurationError,
        match="numbered from 0, and this one says that it is 'hospital-1001': start it",
    ):
        MalcomPSGD(ring(NUM_CLIENTS)).start(grid, to_record(INITIAL), 2)
