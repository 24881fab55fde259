"""Records of runs that never were."""

from __future__ import annotations

from collections.abc import Iterator

from simulations.records import RoundRecord

ALGORITHMS = (
    "sgd",
    "qsgd",
    "diana",
    "artemis",
    "dore",
    "mcm",
    "rand-mcm",
    "<i>&co</i>",
)
SETTINGS = {
    "task": "parity",
    "num_clients": 20,
    "step_size": 0.1,
    "note": "<b>bold</b>",
}


def record(
    algorithm: str = "sgd",
    seed: int = 0,
    round_: int = 0,
    *,
    loss: float = 1.0,
    excess: float | None = 0.5,
    bits: int = 0,
) -> RoundRecord:
    size = bits // 8 + 100
    return RoundRecord(
        algorithm, seed, round_, loss, excess, 0.5, size, size, bits, bits
    )


def comparison(*, known: bool = True) -> Iterator[RoundRecord]:
    for i, algorithm in enumerate(ALGORITHMS):
        for seed in range(2):
            for round_ in range(0, 21, 2):
                excess = (1 + 0.1 * i + 0.05 * seed) * 0.8**round_
                yield record(
                    algorithm,
                    seed,
                    round_,
                    loss=0.2 + excess,
                    excess=excess if known else None,
                    bits=round_ * 10_000 // (i + 1),
                )
