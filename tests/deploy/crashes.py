"""What is killed, and what has to follow."""

from __future__ import annotations

import os
import signal
import time

from tests.deploy.fleet import Fleet, supernode

BLOCKED_SECONDS = 60
"""So long the heartbeat of a killed SuperNode may keep its key from being used."""


class Operator:
    """Does by hand what the units of ``examples/deploy/systemd`` do."""

    def __init__(self, fleet: Fleet, **config: str | int) -> None:
        self.fleet, self.config = fleet, config

    def train(self) -> None:
        """Start training, or start it again."""
        self.fleet.train(**self.config)

    def after_round(self, number: int, seconds: float) -> None:
        """Keep everything alive until a round is over."""
        self.fleet.wait(
            f"round {number} is over", lambda: self._reached(number), seconds
        )

    def _reached(self, number: int) -> bool:
        self.keep_alive()
        rounds = self.fleet.rounds()
        return bool(rounds) and rounds[-1]["round"] >= number

    def keep_alive(self) -> None:
        """``Restart=always`` for SuperNodes, ``on-failure`` for the training."""
        processes = self.fleet.processes
        for device in range(self.fleet.devices):
            if processes.exit_code(supernode(device)) is not None:
                self.fleet.start_supernode(device)
        if processes.exit_code("train") not in (None, 0):
            self.fleet.tell("the training has failed: once more")
            self.train()

    def finished(self) -> bool:
        """Whether the training is over and has gone well."""
        self.keep_alive()
        return self.fleet.processes.exit_code("train") == 0


def kill_supernode(operator: Operator, device: int) -> None:
    """``kill -9``; it is back when its heartbeat is old, and answers again."""
    fleet = operator.fleet
    starts = fleet.connections(device)
    fleet.processes.kill(supernode(device))
    fleet.tell(f"killed SuperNode {device}")

    def is_connected() -> bool:
        operator.keep_alive()
        return fleet.connections(device) > starts

    fleet.wait("it is connected again", is_connected, 4 * BLOCKED_SECONDS)
    connected_at = time.time()

    def answers() -> bool:
        operator.keep_alive()
        rounds = [r for r in fleet.rounds() if r["time"] > connected_at]
        return bool(rounds) and rounds[-1]["replies"] >= fleet.devices

    fleet.wait("a round with all devices", answers, 4 * BLOCKED_SECONDS)


def kill_server_app(operator: Operator) -> None:
    """``kill -9``; Flower fails the run a minute later, and it is started again."""
    fleet = operator.fleet
    (pid,) = fleet.processes.find("flwr-serverapp")
    reached = fleet.rounds()[-1]["round"]
    os.kill(pid, signal.SIGKILL)
    fleet.tell("killed the ServerApp")
    operator.after_round(reached + 2, 6 * BLOCKED_SECONDS)


def kill_superlink(operator: Operator) -> None:
    """``kill -9``, and started again at once on its database."""
    fleet = operator.fleet
    reached = fleet.rounds()[-1]["round"]
    fleet.processes.kill("superlink")
    fleet.tell("killed the SuperLink")
    time.sleep(2)
    fleet.start_superlink()
    operator.after_round(reached + 2, 6 * BLOCKED_SECONDS)
