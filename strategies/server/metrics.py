"""The clients' metrics: odd ones are left out, of the others the mean is taken."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from logging import getLogger

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from flower_compress.errors import ConfigurationError
from flower_compress.wire.building import new_record_dict, with_content
from flower_compress.wire.records import records_of

from .bounds import WeightCap
from .session import Session
from .weighting import UNIFORM, weight_of

__all__ = ["Mean", "mean_metrics", "mean_of_evaluations", "usual_replies"]

_log = getLogger("flwr")

Mean = Callable[[list[RecordDict], str], MetricRecord]
"""Makes one record of the metrics of all replies, with the key of their weight."""

_RAISED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    StopIteration,
    TypeError,
    ValueError,
)
_Metrics = Mapping[str, Mapping[str, Hashable]]
"""The form of each metric, by the keys of its record and its own."""


def mean_metrics(
    session: Session,
    replies: Sequence[Message],
    weights: Sequence[float] | None,
    key: str,
    mean: Mean,
) -> MetricRecord | None:
    """Return `mean` of the metrics of ordinary replies, None if there is none.

    Parameters
    ----------
    session : Session
        The run, where odd metrics are counted.
    replies : Sequence[Message]
        The replies.
    weights : Sequence[float], optional
        What each counts with, where that is not what it says itself.
    key : str
        Key of the weights.
    mean : Mean
        The strategy's function.
    """
    if weights is not None and key != UNIFORM:
        pairs = zip(replies, weights, strict=True)
        replies = [_weighted(msg, key, weight) for msg, weight in pairs]
    replies = _ordinary(session, replies, key)
    if not replies:
        return None
    try:
        return mean([msg.content for msg in replies], key)
    except ZeroDivisionError:
        _log.warning("no mean of the metrics: %s is 0 in every reply", key)
    except _RAISED as error:
        # By a user's function of what strangers gave it: no reason to end the run.
        _log.warning(
            "no mean of the metrics: %s raised %s: %s",
            getattr(mean, "__name__", "the function"),
            type(error).__name__,
            error,
        )
    return None


def mean_of_evaluations(
    session: Session, replies: Sequence[Message], key: str, mean: Mean
) -> MetricRecord | None:
    """Return :func:`mean_metrics` of evaluations, whose weights are looked at first."""
    cap = session.bounds.evaluation_weights
    kept, weights = _usable_weights(session, replies, key, cap)
    return mean_metrics(session, kept, weights, key, mean)


def usual_replies(
    session: Session, replies: Sequence[Message], key: str, cap: WeightCap
) -> list[Message]:
    """Return the replies that one of Flower's own strategies can aggregate.

    It wants the same arrays and metrics under the same keys in every reply, and raises
    if one differs.

    Parameters
    ----------
    session : Session
        The run, where odd metrics are counted.
    replies : Sequence[Message]
        The replies.
    key : str
        Key of their weights, :data:`UNIFORM` for none. Where no reply has one, that is
        the strategy's matter.
    cap : WeightCap
        The largest weight.
    """
    if any(_has_weight(msg, key) for msg in replies):
        kept, weights = _usable_weights(session, replies, key, cap)
        pairs = zip(kept, weights, strict=True)
        replies = [_weighted(msg, key, weight) for msg, weight in pairs]
    return _ordinary(session, replies, UNIFORM, strict=True)


def _has_weight(msg: Message, key: str) -> bool:
    try:
        weight_of(msg, key)
    except ConfigurationError:
        return False
    return True


def _usable_weights(
    session: Session, replies: Sequence[Message], key: str, cap: WeightCap
) -> tuple[list[Message], list[float]]:
    """Return the replies that have a weight, and what each counts with."""
    kept: list[Message] = []
    given: dict[int, float] = {}
    odd: list[Message] = []
    for msg in replies:
        if _has_weight(msg, key):
            given[msg.metadata.src_node_id] = weight_of(msg, key)
            kept.append(msg)
        else:
            odd.append(msg)
    _tell(session, odd, len(replies), f"no number >= 0 as {key!r}")
    identities = {node: _identity(session, node) for node in given}
    capped = cap.capped({identities[node]: weight for node, weight in given.items()})
    return kept, [capped[identities[msg.metadata.src_node_id]] for msg in kept]


def _ordinary(
    session: Session, replies: Sequence[Message], key: str, *, strict: bool = False
) -> list[Message]:
    """Return the replies with metrics of the form that those of most others have.

    A metric's form is whether it is a number or a list of some length, and finite. Odd
    ones are counted and logged. With `strict` all have to have the same arrays and
    metrics under the same keys.
    """
    forms = [_forms(msg.content) for msg in replies]
    if not any(forms) and not strict:
        return []
    outlines = [_outline(msg.content, strict=strict) for msg in replies]
    usual_outline = _most_common(outlines)
    columns: dict[tuple[str, str], list[Hashable]] = {}
    for form in forms:
        for name, metrics in form.items():
            for metric, kind in metrics.items():
                columns.setdefault((name, metric), []).append(kind)
    usual = {where: _most_common(kinds) for where, kinds in columns.items()}
    needed = {key} - {UNIFORM}
    kept: list[Message] = []
    odd: list[Message] = []
    for msg, form, outline in zip(replies, forms, outlines, strict=True):
        fits = (
            outline == usual_outline
            and all(needed <= metrics.keys() for metrics in form.values())
            and all(
                usual[name, metric] == kind
                for name, metrics in form.items()
                for metric, kind in metrics.items()
            )
        )
        (kept if fits else odd).append(msg)
    _tell(session, odd, len(replies), "they are unlike those of most others")
    return kept


def _weighted(msg: Message, key: str, weight: float) -> Message:
    """Return the message with that weight; the original stays as it is."""
    if all(
        metrics.get(key) == weight for metrics in records_of(msg.content, MetricRecord)
    ):
        return msg
    content = dict(msg.content.items())
    for name, record in msg.content.items():
        if isinstance(record, MetricRecord) and key in record:
            content[name] = MetricRecord({**dict(record), key: weight})
    return with_content(msg, new_record_dict(content))


def _forms(content: RecordDict) -> _Metrics:
    """Return the form of each metric."""
    return {
        name: {metric: _form(value) for metric, value in record.items()}
        for name, record in content.items()
        if isinstance(record, MetricRecord)
    }


def _outline(content: RecordDict, *, strict: bool) -> Hashable:
    """Return what records of metrics there are; if strict, of which and of arrays."""
    kinds = (MetricRecord, ArrayRecord) if strict else (MetricRecord,)
    records = [
        (k, record) for k, record in content.items() if isinstance(record, kinds)
    ]
    if not strict:
        return len(records)
    return frozenset((key, frozenset(record)) for key, record in records)


def _form(value: object) -> Hashable:
    if isinstance(value, list):
        return len(value), all(map(_is_finite, value))
    return "a number", _is_finite(value)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _most_common(items: Iterable[Hashable]) -> Hashable:
    """Return the item that is there most often; of several a finite form, the first."""
    counts = Counter(items)

    def rank(item: Hashable) -> tuple[int, bool]:
        return counts[item], isinstance(item, tuple) and bool(item[-1])

    return max(counts, key=rank, default=None)


def _identity(session: Session, node_id: int) -> int:
    client = session.roster.find(node_id)
    return -1 if client is None else client.identity


def _tell(session: Session, odd: Sequence[Message], num_all: int, what: str) -> None:
    if not odd:
        return
    for msg in odd:
        session.odd_metrics[_identity(session, msg.metadata.src_node_id)] += 1
    _log.warning(
        "the metrics of %d of %d replies are left out, that of node %d first: %s",
        len(odd),
        num_all,
        odd[0].metadata.src_node_id,
        what,
    )
