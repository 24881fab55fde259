"""An identity belongs to the node that had it first, while that node is connected."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_compress.strategies.run.claims import Claims, Greeted


def claims_of(node_ids: list[int], *, trusted: bool = False) -> Claims:
    claims = Claims(trusted=trusted)
    claims.connect(node_ids)
    return claims


def says(identity: int, held: int = 0) -> Greeted:
    return Greeted(identity, held, 1)


def test_of_two_that_claim_it_at_once_the_lower_node_id_has_it() -> None:
    for answers in ({7: says(0), 3: says(0)}, {3: says(0), 7: says(0)}):
        claims = claims_of([3, 7])
        assert claims.take(answers) == [says(0)]
        assert (claims.identity(3), claims.identity(7)) == (0, None)
        assert claims.waiting() == [7]
        assert 7 not in claims.new(), "it is not asked again and again"


def test_who_waits_takes_its_turn_and_the_first_may_come_back() -> None:
    claims = claims_of([1, 2, 3])
    claims.take({1: says(0, held=9)})
    assert claims.take({3: says(0, held=5)}) == []
    assert claims.take({2: says(0, held=4)}) == []
    claims.connect([2, 3])
    assert claims.take({}) == [says(0, held=5)], "who waits longest, with what it holds"
    assert (claims.holder(0), claims.waiting()) == (3, [2])
    claims.connect([1, 2, 3])  # It was only cut off.
    assert 1 in claims.new()
    assert claims.take({1: says(0, held=9)}) == []
    claims.connect([1])
    assert claims.take({}) == [says(0, held=9)], "shut out, and in again"
    assert claims.holder(0) == 1


def test_a_trusted_claim_is_believed_at_once_and_never_back_and_forth(
    caplog: pytest.LogCaptureFixture,
) -> None:
    claims = claims_of([1, 2], trusted=True)
    claims.take({1: says(0)})
    assert claims.take({2: says(0, held=3)}) == [says(0, held=3)]
    for _ in range(3):
        assert 1 not in claims.new()
        assert claims.take({}) == []
        assert claims.holder(0) == 2
        claims.tell(1)
    assert caplog.messages == ["client 0 moves from node 1 to node 2"], "and no more"
    claims.connect([1])
    claims.take({})
    assert claims.holder(0) == 1


def test_after_a_resume_each_node_has_the_first_claim_to_what_it_was() -> None:
    before = claims_of([1, 2])
    before.take({1: says(0), 2: says(1)})
    claims = Claims()
    claims.restore(before.save(), heard=False)
    claims.connect([1, 3, 4])
    assert claims.is_empty
    assert 1 in claims.new()
    assert claims.holder(0) == 0, "it has to say so again"
    assert claims.take({3: says(0), 4: says(1)}) == [says(1)], "node 2 is gone"
    assert claims.take({1: says(0)}) == [says(0)]
    claims.restore(before.save(), heard=True)
    assert (claims.holder(0), claims.holder(1)) == (1, 2)
    claims.restore(before.save(), heard=False)
    claims.connect([1, 5])
    assert claims.take({1: says(6)}) == [says(6)], "a node may be another client by now"
    assert claims.take({5: says(0)}) == [says(0)], "and keeps nobody from what it was"


@settings(max_examples=60)
@given(st.data(), st.booleans())
def test_one_node_an_identity_and_nobody_loses_it_while_connected(
    data: st.DataObject, trusted: bool
) -> None:
    claims = Claims(trusted=trusted)
    nodes = st.sets(st.integers(1, 5))
    for _ in range(8):
        there = data.draw(nodes)
        before = {node: claims.identity(node) for node in range(1, 6)}
        claims.connect(there)
        new = [node for node in sorted(there) if node in claims.new()]
        claims.take({node: says(data.draw(st.integers(0, 2))) for node in new})
        after = {node: claims.identity(node) for node in range(1, 6)}
        held = [identity for identity in after.values() if identity is not None]
        assert len(held) == len(set(held))
        new = claims.new()
        assert all(after[node] is not None or node not in new for node in there)
        for node in there if not trusted else ():
            assert before[node] in (None, after[node])
        for node in claims.waiting():
            assert claims.why(node)  # Somebody connected has what it claims.
