"""A fleet in short: TLS, authentication, a database, and a SuperNode that is killed.

``python -m tests.deploy`` does the rest.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.crashes import Operator, kill_supernode
from tests.deploy.fleet import Fleet, running
from tests.deploy.verdict import check

ENTRIES, ROUNDS = 2_000, 8


@pytest.mark.slow
def test_a_killed_supernode_goes_on_from_its_state(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet", devices=3)
    with running(fleet):
        operator = Operator(fleet, **{"entries": ENTRIES, "num-server-rounds": ROUNDS})
        operator.train()
        operator.after_round(1, 120)
        kill_supernode(operator, 1)
        fleet.wait("the training is over", operator.finished, 300)
        rounds = fleet.rounds()
    check(rounds, fleet.devices, ENTRIES, ROUNDS, tolerance=0.5)
