"""Who takes part in a round: nodes are waited for, greeted, and drawn."""

from __future__ import annotations

from dataclasses import dataclass
from logging import getLogger
from time import sleep

from flwr.app import ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from flower_compress.arguments import check_count, check_number
from flower_compress.errors import ConfigurationError

from ..run.saving import KeepsClients
from ..run.seldom import Waiting
from .outbox import Keys
from .roster import Client, Roster
from .sampling import Sampling, sample

__all__ = ["Participants", "check_participation"]

_log = getLogger("flwr")
_RETRY_SECONDS = 0.5


def check_participation(strategy: FedAvg) -> None:
    """Raise ConfigurationError for shares and numbers of nodes that are none."""
    for name in ("fraction_train", "fraction_evaluate"):
        share = getattr(strategy, name)
        check_number(name, share, "lie in [0, 1]", lambda x: 0 <= x <= 1)
    for name in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"):
        check_count(name, getattr(strategy, name), 0)


@dataclass(frozen=True)
class Participants:
    """How many clients a kind of message goes to.

    Parameters
    ----------
    fraction : float
        Share of the clients, or each one's probability.
    min_nodes : int
        Least number of clients.
    min_available : int
        With fewer connected nodes, or clients, the round waits.
    sampling : {"fixed", "bernoulli"}
        See :func:`~.sampling.sample`.
    seed : int
        Seed of the run.
    """

    fraction: float
    min_nodes: int
    min_available: int
    sampling: Sampling
    seed: int

    def gather(
        self,
        roster: Roster,
        grid: Grid,
        config: ConfigRecord,
        keys: Keys,
        timeout: float,
    ) -> list[Client]:
        """Wait for nodes, greet the new ones, and return the clients that are there.

        Parameters
        ----------
        roster : Roster
            Knows the clients, and those that answer are added to it.
        grid : Grid
            The grid.
        config, keys
            Sent with a greeting.
        timeout : float
            Seconds that new nodes are given for their answer.

        Raises
        ------
        ConfigurationError
            If there are too few nodes, and all nodes are in this process.
        """
        waiting, least = Waiting(), max(self.min_available, self.min_nodes, 1)
        while True:
            node_ids = list(grid.get_node_ids())
            size = max(int(len(node_ids) * self.fraction), self.min_nodes)
            required = max(self.min_available, size)
            if len(node_ids) >= required:
                roster.greet(grid, node_ids, keys.arrays, config, keys.config, timeout)
                clients = roster.online(node_ids)
                # In this process no more will come.
                if len(clients) >= (1 if isinstance(grid, KeepsClients) else least):
                    return clients
                waiting.tell(
                    "Waiting for clients to answer their greeting: %d have (minimum: "
                    "%d).",
                    len(clients),
                    least,
                )
            elif isinstance(grid, KeepsClients):
                raise ConfigurationError(
                    f"expected {required} nodes or more, got {len(node_ids)} in this "
                    "process, where no more will come: give it more of them, or the "
                    "strategy a smaller min_available_nodes, min_train_nodes and "
                    "min_evaluate_nodes"
                )
            else:
                waiting.tell(
                    "Waiting for nodes to connect: %d connected (minimum: %d).",
                    len(node_ids),
                    required,
                )
            sleep(_RETRY_SECONDS)

    def usual(self, num_clients: int) -> int:
        """Return how many of so many clients a round has, at least 1; on average."""
        if self.sampling == "bernoulli":
            return max(round(num_clients * self.fraction), 1)
        return min(max(int(num_clients * self.fraction), self.min_nodes), num_clients)

    def draw(self, clients: list[Client], at: int) -> list[Client]:
        """Draw those that take part, by their identity, from the run's seed.

        Parameters
        ----------
        clients : list[Client]
            What is drawn from.
        at : int
            The draw is a function of the seed, this and the number of clients.
        """
        drawn = sample(
            clients, self.fraction, self.min_nodes, self.sampling, self.seed, at
        )
        _log.info("sampled %d nodes (out of %d)", len(drawn), len(clients))
        return drawn
