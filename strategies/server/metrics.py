"""The clients' metrics: odd ones are left out, of the others the mean is taken."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from logging import getLogger

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from flower_compress.errors import ConfigurationError, shown
from flower_compress.wire.building import new_record_dict, with_content
from flower_compress.wire.records import is_record, records_of, uniform_mean

from ..run.metric_forms import Form, form_of, is_finite, most_common
from .bounds import WeightCap
from .session import Session
from .weighting import UNIFORM, weight_of

__all__ = ["Mean", "mean_metrics", "mean_of_evaluations", "usual_replies"]

_log = getLogger("flwr")

Mean = Callable[[list[RecordDict], str], MetricRecord]
"""Makes one record of the metrics of all replies, with the key of their weight."""

_MEANS = aggregate_metricrecords, uniform_mean
"""Those that a strategy has by default: Flower's, and that without weights."""
_RAISED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    StopIteration,
    TypeError,
    ValueError,
)
_NUMBER: Form = None, True
_NOT_FINITE: Form = None, False
_Outline = frozenset[tuple[str, str | None]]
"""Keys of records, and with them those within."""
_Metrics = Mapping[str, Mapping[str, Form]]
"""The form of each metric, by the keys of its record and its own."""


def mean_metrics(
    session: Session,
    replies: Sequence[Message],
    weights: Sequence[float] | None,
    key: str,
    mean: Mean,
) -> MetricRecord | None:
    """Return `mean` of the metrics of ordinary replies, None if there is none.

    Flower's own mean, of a metric that some replies have not, is that of the others.

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
    replies, _ = _ordinary(session, replies, key)
    if not replies:
        return None
    try:
        return _mean(session, [msg.content for msg in replies], key, mean)
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


def _mean(
    session: Session, contents: list[RecordDict], key: str, mean: Mean
) -> MetricRecord:
    """Return `mean` of the contents, of each metric over those that hold it."""
    keys = [_keys(content) for content in contents]
    usual = set.intersection(*keys)
    if mean not in _MEANS or all(each == usual for each in keys):
        return mean(contents, key)
    # By those that hold them: whoever invents many metrics makes one group.
    where: dict[str, list[int]] = {}
    for place, each in enumerate(keys):
        for metric in sorted(each - usual):
            where.setdefault(metric, []).append(place)
    holders: dict[tuple[int, ...], set[str]] = {}
    for metric, places in where.items():
        holders.setdefault(tuple(places), set()).add(metric)
    metric, places = next(iter(where.items()))
    session.warn_once(
        "metrics of some",
        "metrics that not all clients report, as %s in %d of %d replies, are means of "
        "those who do",
        *(shown(metric), len(places), len(contents)),
    )
    if mean is uniform_mean:
        return mean(contents, key)
    # Flower's would take them for 0 in the others.
    result = mean([_only(content, usual) for content in contents], key)
    for those, metrics in holders.items():
        with suppress(ZeroDivisionError):
            held = [_only(contents[place], metrics | {key}) for place in those]
            result.update(mean(held, key))
    return result


def _keys(content: RecordDict) -> set[str]:
    return {key for record in records_of(content, MetricRecord) for key in record}


def _only(content: RecordDict, keys: Collection[str]) -> RecordDict:
    """Return those metrics of a content."""
    return new_record_dict(
        {
            name: MetricRecord({k: v for k, v in record.items() if k in keys})
            for name, record in content.items()
            if isinstance(record, MetricRecord)
        }
    )


def mean_of_evaluations(
    session: Session, replies: Sequence[Message], key: str, mean: Mean
) -> MetricRecord | None:
    """Return :func:`mean_metrics` of evaluations, whose weights are looked at first."""
    cap = session.bounds.evaluation_weights
    kept, weights, _ = _usable_weights(session, replies, key, cap)
    return mean_metrics(session, kept, weights, key, mean)


def usual_replies(
    session: Session, replies: Sequence[Message], key: str, cap: WeightCap
) -> tuple[list[Message], dict[int, str]]:
    """Return the replies that one of Flower's own strategies can aggregate.

    And why the others are left out, by node. It wants the same arrays and metrics under
    the same keys in every reply, and raises if one differs. Where a reply says NaN or
    infinity, or nothing, and most others a number, it is given the others' mean, and
    what most others do not say is taken out of it: a client without examples to
    evaluate on has an update all the same.

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
    reasons: dict[int, str] = {}
    if any(_has_weight(msg, key) for msg in replies):
        kept, weights, reasons = _usable_weights(session, replies, key, cap)
        pairs = zip(kept, weights, strict=True)
        replies = [_weighted(msg, key, weight) for msg, weight in pairs]
    replies = _filled(session, replies, key)
    usual, others = _ordinary(session, replies, UNIFORM, strict=True)
    return usual, reasons | others


def _filled(session: Session, replies: Sequence[Message], key: str) -> list[Message]:
    """Return the replies with the metrics that most have, and the others' mean of them.

    Where one alone is NaN, infinite, or not there.
    """
    means, rare = _means_of_most(replies, key)
    if not (means or rare):
        return list(replies)
    filled: list[Message] = []
    odd: dict[int, str] = {}
    for msg in replies:
        content, node_id = dict(msg.content.items()), msg.metadata.src_node_id
        for name, record in msg.content.items():
            if not isinstance(record, MetricRecord):
                continue
            mended = {
                metric: mean
                for (where, metric), mean in means.items()
                if where == name
                and (metric not in record or form_of(record[metric]) == _NOT_FINITE)
            }
            kept = {k: v for k, v in record.items() if (name, k) not in rare}
            if mended or len(kept) < len(record):
                content[name] = MetricRecord({**kept, **mended})
                odd[node_id] = _why_mended(name, record, mended, rare)
        is_odd = node_id in odd
        filled.append(with_content(msg, new_record_dict(content)) if is_odd else msg)
    _tell(session, odd, len(replies))
    return filled


def _why_mended(
    name: str,
    record: MetricRecord,
    mended: Mapping[str, float],
    rare: Collection[tuple[str, str]],
) -> str:
    for metric in mended:
        if metric in record:
            return _unlike(metric, _NOT_FINITE, _NUMBER)
        return f"unlike most others it lacks {shown(metric)} in {shown(name)}"
    metric = next(metric for metric in record if (name, metric) in rare)
    return f"unlike most others it has {shown(metric)} in {shown(name)}"


def _means_of_most(
    replies: Sequence[Message], key: str
) -> tuple[dict[tuple[str, str], float], set[tuple[str, str]]]:
    """Return the mean of each number that is finite in most replies, but not in all.

    And which metrics are in half of them or fewer, of those that have such a record.
    """
    columns: dict[tuple[str, str], list[tuple[float, float]]] = {}
    held, records = Counter[tuple[str, str]](), Counter[str]()
    for msg in replies:
        for name, record in msg.content.items():
            if isinstance(record, MetricRecord):
                weight = record.get(key, 1.0)
                records[name] += 1
                for metric, value in record.items():
                    held[name, metric] += 1
                    if isinstance(value, (int, float)) and is_finite(weight):
                        pair = float(weight), float(value)  # type: ignore[arg-type]
                        columns.setdefault((name, metric), []).append(pair)
    means = {}
    for where, pairs in columns.items():
        finite = [pair for pair in pairs if math.isfinite(pair[1])]
        total = sum(weight for weight, _ in finite)
        of = records[where[0]]
        if total > 0.0 and of < 2 * len(finite) < 2 * of:
            means[where] = sum(weight * value for weight, value in finite) / total
    rare = {
        where
        for where, count in held.items()
        if where[1] != key and 2 * count <= records[where[0]]
    }
    return means, rare


def _has_weight(msg: Message, key: str) -> bool:
    try:
        weight_of(msg, key)
    except ConfigurationError:
        return False
    return True


def _usable_weights(
    session: Session, replies: Sequence[Message], key: str, cap: WeightCap
) -> tuple[list[Message], list[float], dict[int, str]]:
    """Return the replies that have a weight, what each counts with, why not others."""
    kept: list[Message] = []
    given: dict[int, float] = {}
    odd: dict[int, str] = {}
    for msg in replies:
        if _has_weight(msg, key):
            given[msg.metadata.src_node_id] = weight_of(msg, key)
            kept.append(msg)
        else:
            odd[msg.metadata.src_node_id] = (
                f"its metrics hold no number >= 0 as {key!r}"
            )
    _tell(session, odd, len(replies))
    identities = {node: _identity(session, node) for node in given}
    capped = cap.capped({identities[node]: weight for node, weight in given.items()})
    weights = [capped[identities[msg.metadata.src_node_id]] for msg in kept]
    return kept, weights, odd


def _ordinary(
    session: Session, replies: Sequence[Message], key: str, *, strict: bool = False
) -> tuple[list[Message], dict[int, str]]:
    """Return the replies with metrics of the form that those of most others have.

    And why the others are odd, by node. A metric's form is whether it is a number or a
    list of some length, and finite. Odd ones are counted and logged. With `strict` all
    have to have the same arrays and metrics under the same keys.
    """
    forms = [_forms(msg.content) for msg in replies]
    if not replies or not (any(forms) or strict):
        return [], {}
    needed = {key} - {UNIFORM}
    if not strict and _agree(forms, needed):
        return list(replies), {}  # as nearly always
    outlines = [_outline(msg.content, strict=strict) for msg in replies]
    usual_outline = most_common(outlines)
    columns: dict[tuple[str, str], list[Form]] = {}
    for form in forms:
        for name, metrics in form.items():
            for metric, kind in metrics.items():
                columns.setdefault((name, metric), []).append(kind)
    usual = {where: most_common(kinds) for where, kinds in columns.items()}
    kept: list[Message] = []
    odd: dict[int, str] = {}
    for msg, form, outline in zip(replies, forms, outlines, strict=True):
        reason = _other_keys(outline, usual_outline) or _other_form(form, usual, needed)
        if reason:
            odd[msg.metadata.src_node_id] = reason
        else:
            kept.append(msg)
    _tell(session, odd, len(replies))
    return kept, odd


def _agree(forms: list[_Metrics], needed: set[str]) -> bool:
    """Whether all replies have metrics of one form, the needed ones among them."""
    if any(form != forms[0] for form in forms):
        return False
    return all(needed <= metrics.keys() for metrics in forms[0].values())


def _other_keys(outline: _Outline, usual: _Outline) -> str:
    """Return what record, or key of one, a reply alone has, or alone has not."""
    for keys, text in ((outline - usual, "has"), (usual - outline, "lacks")):
        if keys:
            record, key = min(keys, key=lambda pair: (pair[0], pair[1] or ""))
            within = (
                shown(record) if key is None else f"{shown(key)} in {shown(record)}"
            )
            return f"unlike most others it {text} {within}"
    return ""


def _other_form(
    form: _Metrics, usual: Mapping[tuple[str, str], Form], needed: set[str]
) -> str:
    """Return which metric is unlike that of most replies, and what it is."""
    for name, metrics in form.items():
        for key in needed - metrics.keys():
            return f"its record {shown(name)} holds no {key!r}: expected it in each"
        for metric, kind in metrics.items():
            if kind != usual[name, metric]:
                return _unlike(metric, kind, usual[name, metric])
    return ""


def _unlike(metric: str, form: Form, usual: Form) -> str:
    return (
        f"its metric {shown(metric)} is {_in_words(form)}, that of most others "
        f"{_in_words(usual)}"
    )


def _in_words(form: Form) -> str:
    length, finite = form
    if length is None:
        return "a number" if finite else "NaN or infinite"
    return f"a list of {length}{'' if finite else ', some NaN or infinite'}"


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
        name: {metric: form_of(value) for metric, value in record.items()}
        for name, record in content.items()
        if is_record(record, MetricRecord)
    }


def _outline(content: RecordDict, *, strict: bool) -> _Outline:
    """Return what records of metrics there are; if strict, of which and of arrays."""
    kinds = (MetricRecord, ArrayRecord) if strict else (MetricRecord,)
    records = [
        (k, record) for k, record in content.items() if isinstance(record, kinds)
    ]
    if not strict:
        return frozenset((f"MetricRecord {1 + i}", None) for i in range(len(records)))
    within = {(name, key) for name, record in records for key in record}
    return frozenset(within | {(name, None) for name, _ in records})


def _identity(session: Session, node_id: int) -> int:
    client = session.roster.find(node_id)
    return -1 if client is None else client.identity


def _tell(session: Session, odd: Mapping[int, str], num_all: int) -> None:
    """Count and log replies whose metrics are left out, by node with the reason."""
    if not odd:
        return
    for node_id in odd:
        session.odd_metrics[_identity(session, node_id)] += 1
    first = next(iter(odd))
    _log.warning(
        "the metrics of %d of %d replies are left out, that of node %d first: %s",
        len(odd),
        num_all,
        first,
        odd[first],
    )
