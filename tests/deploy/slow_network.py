"""Bytes on the wire, and seconds a round, on links of so many bits a second.

``python -m tests.deploy.slow_network`` needs root: SuperLink and SuperNodes are put
into network namespaces of their own, joined by veth pairs that ``tc tbf`` slows down,
both ways. Bytes are those of the interfaces: what Flower adds, TCP and TLS are in them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.deploy.fleet import Fleet, running

STRATEGIES = ("fedavg", "diana", "mcm", "rand-mcm", "mcm/4")
"""With the default operator, or after a slash the levels of the papers' quantizer."""
DEVICES, ENTRIES, ROUNDS = 3, 669_706, 6
FIRST_STEADY = 3
SECONDS = 1800.0


class Steady(NamedTuple):
    """What a round costs once the first models are there, and what came before."""

    strategy: str
    wire: float
    ledger: float
    seconds: float
    first_wire: int


class Network:
    """Namespace 0 with a bridge, and one for each device, each with its own link."""

    def __init__(self, devices: int, megabits: float) -> None:
        self.devices, self.megabits = devices, megabits
        self._prefix = f"fc{os.getpid()}-"
        self.address = "10.77.0.1"

    def within(self, host: int) -> Sequence[str]:
        """Return what a host's commands begin with."""
        return ("ip", "netns", "exec", f"{self._prefix}{host}")

    def build(self) -> None:
        """Make it all; links carry whole packets only, so that headers are counted."""
        for host in range(1 + self.devices):
            _do("ip", "netns", "add", f"{self._prefix}{host}")
            self._in(host, "ip link set lo up")
        self._in(0, "ip link add bridge type bridge")
        self._in(0, f"ip address add {self.address}/24 dev bridge")
        self._in(0, "ip link set bridge up")
        for host in range(1, 1 + self.devices):
            self._in(0, f"ip link add port{host} type veth peer name up{host}")
            self._in(0, f"ip link set up{host} netns {self._prefix}{host}")
            self._in(0, f"ip link set port{host} master bridge")
            self._in(host, f"ip address add 10.77.0.{1 + host}/24 dev up{host}")
            for where, name in ((0, f"port{host}"), (host, f"up{host}")):
                self._in(where, f"ip link set {name} gso_max_segs 1 up")
                self._in(
                    where,
                    f"tc qdisc add dev {name} root tbf rate {self.megabits}mbit "
                    "burst 16kb latency 200ms",
                )

    def num_bytes(self) -> int:
        """Return all bytes that have passed the devices' links, both ways."""
        shown = json.loads(self._in(0, "ip -json -statistics link show"))
        return sum(
            link["stats64"][way]["bytes"]
            for link in shown
            if link["ifname"].startswith("port")
            for way in ("rx", "tx")
        )

    def remove(self) -> None:
        """Remove the namespaces, and with them all that is in them."""
        for host in range(1 + self.devices):
            name = f"{self._prefix}{host}"
            subprocess.run(["ip", "netns", "delete", name], check=False)

    def _in(self, host: int, command: str) -> str:
        return _do(*self.within(host), *command.split())


@contextmanager
def slow(devices: int, megabits: float) -> Iterator[Network]:
    """Build a network and remove it."""
    network = Network(devices, megabits)
    try:
        network.build()
        yield network
    finally:
        network.remove()


def measure(strategy: str, network: Network, rounds: int, entries: int) -> Steady:
    """Run a strategy on a fleet of its own."""
    folder = Path(tempfile.mkdtemp(prefix="fleet-"))
    at: dict[int, int] = {}

    def over() -> bool:
        for row in fleet.rounds():
            at.setdefault(row["round"], network.num_bytes())
        failed = fleet.processes.exit_code("train") not in (None, 0)
        assert not failed, fleet.log("train") + fleet.log("superlink")
        return rounds in at

    fleet = Fleet(
        folder / "fleet",
        network.devices,
        network.address,
        network.within,
        lambda text: print(text, file=sys.stderr, flush=True),
    )
    try:
        with running(fleet):
            before = network.num_bytes()
            name, _, levels = strategy.partition("/")
            fleet.train(
                strategy=name,
                levels=int(levels or 0),
                entries=entries,
                **{"num-server-rounds": rounds, "min-devices": network.devices},
            )
            fleet.wait(f"{strategy}: {rounds} rounds", over, SECONDS, pause=0.02)
            rows = {row["round"]: row for row in fleet.rounds()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    first, count = FIRST_STEADY - 1, rounds - FIRST_STEADY + 1
    steady = [rows[number] for number in range(FIRST_STEADY, rounds + 1)]
    return Steady(
        strategy,
        wire=(at[rounds] - at[first]) / count,
        ledger=sum(r["uplink-bytes"] + r["downlink-bytes"] for r in steady) / count,
        seconds=(rows[rounds]["time"] - rows[first]["time"]) / count,
        first_wire=at[first] - before,
    )


def idle(network: Network, seconds: float) -> float:
    """Return the bytes a second of a device that does nothing."""
    folder = Path(tempfile.mkdtemp(prefix="fleet-"))
    try:
        fleet = Fleet(
            folder / "fleet", network.devices, network.address, network.within
        )
        with running(fleet):
            before, begun = network.num_bytes(), time.monotonic()
            time.sleep(seconds)
            passed = network.num_bytes() - before
            return passed / (time.monotonic() - begun) / network.devices
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(rows: Sequence[Steady], megabits: float) -> str:
    """Return the table in Markdown, MB of 10^6 bytes, all devices, both ways."""
    lines = [
        "| link | strategy | wire a round, MB | FedAvg's / this | ledger, MB "
        "| wire / ledger | Flower's part a device, kB | s a round "
        f"| first {FIRST_STEADY - 1} rounds, MB |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    most = rows[0].wire
    for row in rows:
        own = (row.wire - row.ledger) / DEVICES / 1e3
        lines.append(
            f"| {megabits:g} Mbit/s | {row.strategy} | {row.wire / 1e6:.3f} "
            f"| {most / row.wire:.1f} | {row.ledger / 1e6:.3f} "
            f"| {row.wire / row.ledger:.2f} | {own:.0f} | {row.seconds:.1f} "
            f"| {row.first_wire / 1e6:.2f} |"
        )
    return "\n".join(lines)


def _do(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def main() -> int:
    """Measure what is asked for and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.deploy.slow_network", description=__doc__
    )
    parser.add_argument("--megabits", type=float, nargs="+", default=[10.0, 1.0])
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--entries", type=int, default=ENTRIES)
    parser.add_argument("--idle", type=float, help="seconds to watch an idle fleet")
    given = parser.parse_args()
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        print(
            "Network namespaces need root, and ip and tc of iproute2"
            + (f"; there is no {' and no '.join(missing)}" * bool(missing)),
            file=sys.stderr,
        )
        return 2
    for megabits in given.megabits:
        with slow(DEVICES, megabits) as network:
            if given.idle:
                rate = idle(network, given.idle)
                print(f"idle: {86_400 * rate / 1e6:.1f} MB a device and day")
                continue
            rows = [
                measure(strategy, network, given.rounds, given.entries)
                for strategy in given.strategies
            ]
        print(table(rows, megabits), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
