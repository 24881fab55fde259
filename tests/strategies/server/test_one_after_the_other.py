"""A round whose decoded vectors are not kept ends with the same bytes."""

from __future__ import annotations

from typing import Any

import pytest

from flower_compress import TopK
from flower_compress.links import Payload
from flower_compress.strategies import (
    MCM,
    CompressedStrategy,
    Diana,
    DoubleSqueeze,
    RandMCM,
)
from flower_compress.strategies.server import inbox
from flower_compress.testing import InProcessGrid
from tests.cases import in_one_test
from tests.strategies.problem import (
    INITIAL,
    NUM_CLIENTS,
    make_app,
    to_record,
    to_vector,
)
from tests.strategies.test_equations import options

STRATEGIES: dict[str, tuple[type[CompressedStrategy], dict[str, Any]]] = {
    "each": (MCM, {"fraction_train": 0.6}),
    "mean": (Diana, {"uplink_memory": "mean"}),
    "sampled": (RandMCM, {"uplink_memory": "sampled", "fraction_train": 0.6}),
    "spilled": (Diana, {"memory_budget": 0}),
    "errors": (DoubleSqueeze, {"compressor": TopK(k=3)}),
}


@in_one_test("name", list(STRATEGIES))
def test_what_is_decoded_twice_counts_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls, extra = STRATEGIES[name]

    def run(most_decoded: int | None) -> tuple[bytes, int]:
        monkeypatch.setattr(inbox, "_FEWEST_DECODED", 0)
        defaults = (most_decoded,)
        monkeypatch.setattr(inbox.Inbox.__init__, "__defaults__", defaults)
        held: list[int] = []
        judge = inbox.Inbox._judge

        def note(self: inbox.Inbox, accepted: Any) -> list[str]:
            parts = [entry.part.payload for entry in accepted.values()]
            held.append(sum(map(is_held, parts)))
            return judge(self, accepted)

        monkeypatch.setattr(inbox.Inbox, "_judge", note)
        strategy = cls(**options(cls, extra))
        result = strategy.start(
            InProcessGrid(make_app(), NUM_CLIENTS), to_record(INITIAL), 6
        )
        monkeypatch.setattr(inbox.Inbox, "_judge", judge)
        return to_vector(result.arrays).tobytes(), max(held)

    def is_held(payload: Payload) -> bool:
        return payload.is_decoded

    kept, most = run(None)
    dropped, none = run(0)
    some, two = run(2 * 4 * INITIAL.size)
    assert kept == dropped == some
    assert (most > 2, two, none) == (True, 2, 0)
