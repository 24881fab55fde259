"""Averages the clients' networks, with a learning rate that falls."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from digits_torch.task import Net, load_data, test

app = ServerApp()


class FallingRate(FedAvg):
    """A tenth of the learning rate from the twentieth round on."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Set the learning rate of the round."""
        if server_round == 20:
            config["learning-rate"] = 0.1 * config["learning-rate"]
        return super().configure_train(server_round, arrays, config, grid)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and keep the final model."""
    strategy = FallingRate(fraction_evaluate=context.run_config["fraction-evaluate"])
    torch.manual_seed(0)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        train_config=ConfigRecord(
            {"learning-rate": context.run_config["learning-rate"]}
        ),
        num_rounds=context.run_config["num-server-rounds"],
        evaluate_fn=evaluate,
    )
    torch.save(result.arrays.to_torch_state_dict(), "model.pt")


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Evaluate the model on the digits that no client trains on."""
    net = Net()
    net.load_state_dict(arrays.to_torch_state_dict())
    _, loader = load_data(0, 1)
    loss, accuracy = test(net, loader)
    return MetricRecord({"loss": loss, "accuracy": accuracy})
