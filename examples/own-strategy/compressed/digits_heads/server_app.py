"""Averages bodies by the clients' losses: a strategy of one's own."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from flower_compress.strategies import compress
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from digits_heads.task import Body

app = ServerApp()


class ByLoss(FedAvg):
    """Weights of the clients as their training losses: the worse off count for more."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the weighted mean of the bodies, and the largest loss."""
        answers = [reply.content for reply in replies if reply.has_content()]
        if not answers:
            return None, None
        losses = [answer["metrics"]["train-loss"] for answer in answers]
        bodies = [answer["arrays"].to_torch_state_dict() for answer in answers]
        total = sum(losses)
        mean = {
            name: sum(
                body[name] * (loss / total)
                for body, loss in zip(bodies, losses, strict=True)
            )
            for name in bodies[0]
        }
        return ArrayRecord(mean), MetricRecord({"largest-loss": max(losses)})


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and keep the final body."""
    strategy = compress(ByLoss())
    torch.manual_seed(0)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Body().state_dict()),
        num_rounds=context.run_config["num-server-rounds"],
    )
    torch.save(result.arrays.to_torch_state_dict(), "body.pt")
