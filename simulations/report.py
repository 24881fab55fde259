"""A comparison as a picture, as one self-contained web page and as a table.

``report.png`` and ``report.html`` show the loss and the accuracy against rounds,
payload bits (up, down, both) and, given a network, estimated time. The page has no
external resource and no script: it can be mailed, archived and opened off line.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from flower_compress.errors import ConfigurationError, MissingExtraError
from simulations.network import Network, round_seconds
from simulations.records import CutOff, Nodes, RoundRecord, Spread, Summary

try:
    import jinja2
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "matplotlib", "simulation") from error

__all__ = ["summary_tables", "write_report"]

# Okabe and Ito's palette for all kinds of colour vision ("Color universal design",
# 2008), its yellow, too pale on white, replaced by the wine of Paul Tol's.
_COLOURS: Final = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#882255",
)
_LINES: Final = (
    "-",
    (0, (5, 1.5)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (1.5, 1)),
    (0, (9, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (2.5, 1.5)),
    (0, (9, 1.5, 3, 1.5)),
)
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<")
_MAX_POINTS: Final = 1000
_MIN_EXCESS_LOSS: Final = float(np.finfo(np.float64).eps)
_LEGEND_COLUMNS: Final = 4


@dataclass(frozen=True)
class _Axis:
    """A horizontal axis: cost of a run so far."""

    title: str
    label: str
    log: bool


_ROUNDS: Final = _Axis("Rounds", "rounds", log=False)
_UP: Final = _Axis("Bits up", "payload bits up, all clients", log=True)
_DOWN: Final = _Axis("Bits down", "payload bits down, all clients", log=True)
_TOTAL: Final = _Axis("Bits up and down", "payload bits, both directions", log=True)
_EDGES: Final = _Axis("Bits", "payload bits, over all edges", log=True)


@dataclass(frozen=True)
class _Band:
    """A curve with what lies one standard deviation over seeds around it, (rounds,)."""

    middle: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class _Curve:
    """One algorithm over its seeds."""

    algorithm: str
    num_seeds: int
    costs: dict[_Axis, NDArray[np.float64]]
    loss: _Band
    accuracy: _Band


@dataclass(frozen=True)
class _NodeCurve:
    """The nodes of one algorithm, means over nodes and seeds, each of shape (rounds,).

    `bits` are those that a node sent a round since the one logged before.
    """

    algorithm: str
    rounds: NDArray[np.float64]
    distance: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    zeros: NDArray[np.float64]
    bits: NDArray[np.float64]


@dataclass(frozen=True)
class _Loss:
    """How the loss of a comparison is drawn."""

    label: str
    log: bool
    of: Callable[[RoundRecord], float]


def write_report(
    out_dir: Path | str,
    records: Iterable[RoundRecord],
    summary: Summary,
    *,
    link: Network | None = None,
) -> Path:
    """Write ``report.png`` and ``report.html``; return the path of the page.

    A curve is the mean over seeds, its band one standard deviation either side (of
    log10 values on a logarithmic axis). Where a minimum is not known for all records,
    the loss stands in for the excess loss.

    Parameters
    ----------
    out_dir : Path or str
        Made if it does not exist; files of the same names are replaced.
    records : Iterable[RoundRecord]
        The logged rounds of all algorithms and seeds.
    summary : Summary
        Their summary, by :func:`simulations.records.summarise`.
    link : Network, optional
        Adds estimated time. Needs in ``summary["settings"]`` the number of clients
        that share the bytes of a round, as ``clients_per_round`` or ``num_clients``.

    Raises
    ------
    ConfigurationError
        There is no record, or `link` is given and no number of clients.
    MissingExtraError
        matplotlib or jinja2 is not installed (on import).
    """
    records = list(records)
    if not records:
        raise ConfigurationError(
            "expected the records of at least one round, came none: run an algorithm "
            "first"
        )
    axes = [_ROUNDS, _UP, _DOWN, _TOTAL]
    if _is_decentralized(summary):
        axes = [_ROUNDS, _EDGES]
    time = None
    if link is not None:
        time = _Axis("Estimated time", f"seconds on {link}", log=True)
        axes.append(time)
    loss = _loss_of(records)
    curves = _curves(records, summary, loss, link, time)

    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.png").write_bytes(_overview(curves, axes, loss))
    page = out / "report.html"
    page.write_text(_page(curves, axes, loss, summary, link, records), encoding="utf-8")
    return page


def summary_tables(summary: Summary) -> list[Table]:
    """Return the summary for the terminal, one algorithm a row."""
    return [_table(title, columns, rows) for title, columns, rows in _tables(summary)]


def _table(title: str, columns: Sequence[str], rows: list[list[str]]) -> Table:
    longest = max((len(row[0]) for row in rows), default=0)
    table = Table(title=title)
    for i, name in enumerate(columns):
        # In a narrow terminal numbers may wrap, a name may not be cut.
        table.add_column(
            name,
            justify="left" if i == 0 else "right",
            no_wrap=i == 0,
            min_width=longest if i == 0 else None,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*row)
    return table


# --- Curves -----------------------------------------------------------------------


def _loss_of(records: Sequence[RoundRecord]) -> _Loss:
    if all(record.excess_loss is not None for record in records):
        return _Loss("excess loss F(w) - F*", True, _excess)
    # A loss of zero or below has no place on a logarithmic axis.
    positive = all(not record.loss <= 0.0 for record in records)
    return _Loss("loss F(w)", positive, lambda record: record.loss)


def _excess(record: RoundRecord) -> float:
    excess = math.nan if record.excess_loss is None else record.excess_loss
    # At the minimum, rounding makes it zero or negative. max() would swallow a NaN.
    return _MIN_EXCESS_LOSS if excess < _MIN_EXCESS_LOSS else excess


def _curves(
    records: Sequence[RoundRecord],
    summary: Summary,
    loss: _Loss,
    link: Network | None,
    time: _Axis | None,
) -> list[_Curve]:
    runs: dict[str, dict[int, list[RoundRecord]]] = {}
    for record in records:
        runs.setdefault(record.algorithm, {}).setdefault(record.seed, []).append(record)
    curves = []
    for algorithm, seeds in runs.items():
        costs: dict[_Axis, dict[int, list[float]]] = {}
        losses: dict[int, list[float]] = {}
        accuracies: dict[int, list[float]] = {}
        for rows in seeds.values():
            rows.sort(key=lambda record: record.round)
            for row in rows:
                for axis, cost in (
                    (_ROUNDS, row.round),
                    (_UP, row.uplink_bits),
                    (_DOWN, row.downlink_bits),
                    (_TOTAL, row.uplink_bits + row.downlink_bits),
                    (_EDGES, row.uplink_bits),
                ):
                    costs.setdefault(axis, {}).setdefault(row.round, []).append(cost)
                losses.setdefault(row.round, []).append(loss.of(row))
                accuracies.setdefault(row.round, []).append(row.accuracy)
            if link is not None and time is not None:
                clients = _clients_per_round(summary["settings"])
                for row, seconds in zip(
                    rows, _seconds(rows, link, clients), strict=True
                ):
                    costs.setdefault(time, {}).setdefault(row.round, []).append(seconds)
        curves.append(
            _Curve(
                algorithm,
                len(seeds),
                {
                    axis: _band(values, log=False).middle
                    for axis, values in costs.items()
                },
                _band(losses, log=loss.log),
                _band(accuracies, log=False),
            )
        )
    return curves


def _band(values: Mapping[int, Sequence[float]], *, log: bool) -> _Band:
    """Return mean and deviation over the seeds that logged a round, by round.

    Seeds of an interrupted run end early: the curve goes on with the others.
    """
    middle, deviation = [], []
    with np.errstate(invalid="ignore", divide="ignore"):
        for _, row in sorted(values.items()):
            numbers = np.log10(row) if log else np.asarray(row, dtype=np.float64)
            middle.append(np.mean(numbers))
            deviation.append(np.std(numbers, ddof=1) if len(row) > 1 else 0.0)
        mid, dev = np.array(middle), np.array(deviation)
        if log:
            return _Band(10.0**mid, 10.0 ** (mid - dev), 10.0 ** (mid + dev))
        return _Band(mid, mid - dev, mid + dev)


def _seconds(rows: Sequence[RoundRecord], link: Network, clients: float) -> list[float]:
    """Return the estimated seconds since the start at each logged round."""
    seconds, times = 0.0, []
    last_round = last_up = last_down = 0
    for row in rows:
        # Rounds may be logged every now and then: those between count as equal.
        rounds = max(row.round - last_round, 1)
        up, down = row.uplink_bytes - last_up, row.downlink_bytes - last_down
        if up or down:
            seconds += rounds * round_seconds(
                link,
                uplink_bytes=up / (rounds * clients),
                downlink_bytes=down / (rounds * clients),
            )
        times.append(seconds)
        last_round, last_up, last_down = row.round, row.uplink_bytes, row.downlink_bytes
    return times


def _clients_per_round(settings: Mapping[str, Any]) -> float:
    known = {str(key).replace("-", "_"): value for key, value in settings.items()}
    for key in ("clients_per_round", "num_clients"):
        value = known.get(key)
        if isinstance(value, int | float) and value > 0:
            return float(value)
    raise ConfigurationError(
        f"expected 'clients_per_round' or 'num_clients' among the settings, to tell "
        f"the bytes of one client, came {sorted(known)}: add it to the settings of "
        f"the summary, or leave the link out"
    )


def _node_curves(records: Sequence[RoundRecord]) -> list[_NodeCurve]:
    """Return what the nodes of each algorithm did, means over the seeds."""
    runs: dict[str, dict[int, list[Nodes]]] = {}
    for record in records:
        if record.nodes is not None:
            of_round = runs.setdefault(record.algorithm, {})
            of_round.setdefault(record.round, []).append(record.nodes)
    curves = []
    for algorithm, rounds in runs.items():
        table = np.array(
            [
                (
                    number,
                    np.mean([np.mean(nodes.distance) for nodes in seeds]),
                    np.mean([np.mean(nodes.accuracy) for nodes in seeds]),
                    np.mean([np.mean(nodes.zeros or math.nan) for nodes in seeds]),
                    np.mean([np.mean(nodes.sent_bits) for nodes in seeds]),
                )
                for number, seeds in sorted(rounds.items())
            ]
        ).T
        # Bits since the row before, a round.
        bits = np.diff(table[4], prepend=0.0) / np.diff(table[0], prepend=0.0)
        curves.append(
            _NodeCurve(algorithm, table[0], table[1], table[2], table[3], bits)
        )
    return curves


def _edge_tables(
    records: Sequence[RoundRecord],
) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return a matrix of megabytes for each algorithm, of its first seed's last round.

    Senders in the rows, receivers in the columns.
    """
    tables, seen = [], set()
    for record in records:
        if record.nodes is None or not record.nodes.edges:
            continue
        if record.algorithm in seen:
            continue
        seen.add(record.algorithm)
        rows = record.nodes.edge_rows()
        size = {(row[0], row[1]): row[2] for row in rows}
        names = sorted({node for pair in size for node in pair})
        body = [
            [
                f"from {sender}",
                *(
                    f"{size[sender, receiver] / 1e6:.4g}"
                    if (sender, receiver) in size
                    else ""
                    for receiver in names
                ),
            ]
            for sender in names
        ]
        tables.append((record.algorithm, ["", *(f"to {n}" for n in names)], body))
    return tables


# --- Pictures ---------------------------------------------------------------------


def _overview(curves: Sequence[_Curve], axes: Sequence[_Axis], loss: _Loss) -> bytes:
    """Return all panels as a PNG: loss above, accuracy below, an axis a column."""
    figure = Figure(figsize=(4.4 * len(axes), 8.2), layout="constrained")
    grid = figure.subplots(2, len(axes), sharey="row", squeeze=False)
    for column, axis in enumerate(axes):
        _draw(grid[0, column], curves, axis, loss, is_loss=True)
        _draw(grid[1, column], curves, axis, loss, is_loss=False)
        grid[0, column].set_title(f"against {axis.title.lower()}", fontsize=12)
        if column > 0:
            grid[0, column].set_ylabel("")
            grid[1, column].set_ylabel("")
    return _png(figure, grid[0, 0], columns=max(len(curves), 1), dpi=110)


def _node_panels(curves: Sequence[_NodeCurve]) -> bytes:
    """Return four panels against the rounds, as a PNG."""
    figure = Figure(figsize=(11.0, 8.2), layout="constrained")
    grid = figure.subplots(2, 2)
    panels = {
        "distance": "consensus distance",
        "accuracy": "accuracy of the nodes' own models",
        "zeros": "share of zeros in the posted model",
        "bits": "bits that a node sends a round",
    }
    for panel, (name, label) in zip(grid.flat, panels.items(), strict=True):
        for i, curve in enumerate(curves):
            values = getattr(curve, name)
            shown = np.isfinite(values)
            if name in ("distance", "bits"):
                shown &= values > 0.0
                panel.set_yscale("log")
            kept = _thin(np.flatnonzero(shown))
            panel.plot(
                curve.rounds[kept],
                values[kept],
                label=curve.algorithm,
                **_style(i),
            )
        panel.set_xlabel("rounds", fontsize=11)
        panel.set_ylabel(label, fontsize=11)
        panel.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    return _png(figure, grid[0, 0], columns=_LEGEND_COLUMNS, dpi=130)


def _style(i: int) -> dict[str, Any]:
    """Return how curve i is drawn."""
    return {
        "color": _COLOURS[i % len(_COLOURS)],
        "linestyle": _LINES[(i + i // len(_COLOURS)) % len(_LINES)],
        "linewidth": 1.8,
        "marker": _MARKERS[i % len(_MARKERS)],
        "markersize": 6,
        "markeredgecolor": "white",
        "markeredgewidth": 0.7,
        # By distance on the page, and shifted, so that markers neither crowd on
        # a logarithmic axis nor hide each other where curves coincide.
        "markevery": (0.015 * (i % 8), 0.13),
    }


def _panel_pair(curves: Sequence[_Curve], axis: _Axis, loss: _Loss) -> bytes:
    """Return loss and accuracy against one axis, side by side, as a PNG."""
    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, curves, axis, loss, is_loss=True)
    _draw(right, curves, axis, loss, is_loss=False)
    return _png(figure, left, columns=_LEGEND_COLUMNS, dpi=130)


def _draw(
    panel: Axes, curves: Sequence[_Curve], axis: _Axis, loss: _Loss, *, is_loss: bool
) -> None:
    for i, curve in enumerate(curves):
        band = curve.loss if is_loss else curve.accuracy
        costs = curve.costs[axis]
        shown = np.isfinite(band.middle) & np.isfinite(costs)
        if axis.log:
            shown &= costs > 0.0
        kept = _thin(np.flatnonzero(shown))
        style = _style(i)
        panel.plot(costs[kept], band.middle[kept], label=curve.algorithm, **style)
        if curve.num_seeds > 1:
            panel.fill_between(
                costs[kept],
                band.low[kept],
                band.high[kept],
                color=style["color"],
                alpha=0.12,
                linewidth=0,
            )
    if axis.log:
        panel.set_xscale("log")
    panel.set_xlabel(axis.label, fontsize=11)
    panel.set_ylabel(loss.label if is_loss else "accuracy", fontsize=11)
    if is_loss and loss.log:
        panel.set_yscale("log")
    if is_loss:
        _limit(panel, curves, loss)
    panel.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(labelsize=10)
    panel.spines[["top", "right"]].set_visible(False)


def _limit(panel: Axes, curves: Sequence[_Curve], loss: _Loss) -> None:
    """Keep a run that diverges from squeezing the others into a line."""
    finite = [c.loss.middle[np.isfinite(c.loss.middle)] for c in curves]
    finite = [values for values in finite if len(values)]
    if not finite:
        return
    start = max(float(values[0]) for values in finite)
    top = max(float(values.max()) for values in finite)
    bottom = min(float(values.min()) for values in finite)
    if loss.log and top > 10.0 * start:
        panel.set_ylim(bottom / 2.0, 10.0 * start)
    elif not loss.log and top > 3.0 * abs(start):
        panel.set_ylim(bottom - 0.1 * abs(start), 3.0 * abs(start))


def _thin(indices: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return at most `_MAX_POINTS` of the indices, the first and the last included."""
    if len(indices) <= _MAX_POINTS:
        return indices
    positions = np.linspace(0, len(indices) - 1, _MAX_POINTS).round().astype(np.intp)
    thinned: NDArray[np.intp] = indices[positions]
    return thinned


def _png(figure: Figure, panel: Axes, *, columns: int, dpi: int) -> bytes:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(columns, len(labels), 8),
        frameon=False,
        fontsize=11,
        handlelength=4.0,
    )
    buffer = io.BytesIO()
    # A Figure of its own, not pyplot's: no global state, no window system.
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


# --- Tables and the page ----------------------------------------------------------

_COLUMNS: Final = (
    "algorithm",
    "final loss",
    "log10 excess loss",
    "accuracy",
    "up",
    "down",
    "bits of SGD's",
)


def _rows(summary: Summary) -> list[list[str]]:
    rows = []
    for algorithm, entry in summary["algorithms"].items():
        fraction = entry["bits_fraction_of_sgd"]
        rows.append(
            [
                algorithm,
                _spread_text(entry["final_loss"], "{:.5g}"),
                _spread_text(entry["log10_excess_loss"], "{:.2f}"),
                _spread_text(entry["accuracy"], "{:.4f}"),
                _bytes_text(entry["uplink_bytes"]["mean"]),
                _bytes_text(entry["downlink_bytes"]["mean"]),
                "–" if fraction is None else f"{100.0 * fraction:.3g} %",
            ]
        )
    return rows


def _is_decentralized(summary: Summary) -> bool:
    """Whether all runs have nodes and no server."""
    algorithms = summary["algorithms"].values()
    return bool(algorithms) and all("nodes" in entry for entry in algorithms)


def _tables(summary: Summary) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """Return titles, column names and rows."""
    columns, rows = list(_COLUMNS), _rows(summary)
    if _is_decentralized(summary):
        down = columns.index("down")
        columns[down - 1] = "on the edges"
        columns[-1] = "bits of DPSGD's"
        del columns[down]
        for row in rows:
            del row[down]
    tables: list[tuple[str, Sequence[str], list[list[str]]]] = [
        ("Comparison, mean ± standard deviation over seeds", columns, rows)
    ]
    of_nodes = [
        [
            algorithm,
            _spread_text(entry["nodes"]["accuracy"], "{:.4f}"),
            _spread_text(entry["nodes"]["least_accuracy"], "{:.4f}"),
            _spread_text(entry["nodes"]["consensus_distance"], "{:.3g}"),
            _spread_text(entry["nodes"]["zeros"], "{:.3f}"),
            _bits_text(entry["nodes"]["bits_a_node"]["mean"]),
            _bits_text(entry["nodes"]["bits_an_edge"]["mean"]),
        ]
        for algorithm, entry in summary["algorithms"].items()
        if "nodes" in entry
    ]
    if of_nodes:
        tables.append(("Nodes, after the last round", _NODE_COLUMNS, of_nodes))
    if "cutoff" in summary:
        tables.append(_cutoff_table(summary["cutoff"]))
    return tables


_NODE_COLUMNS: Final = (
    "algorithm",
    "own accuracy",
    "least",
    "consensus distance",
    "zeros in the model",
    "sent by a node",
    "over an edge",
)


def _cutoff_table(cutoff: CutOff) -> tuple[str, Sequence[str], list[list[str]]]:
    base = next((row for a, row in cutoff["rows"].items() if a == "dpsgd"), {})

    def text(row: Mapping[str, float | None], name: str, form: str) -> str:
        value = row.get(name)
        return "–" if value is None else form.format(value)

    def share(row: Mapping[str, float | None], name: str) -> str:
        value, reference = row.get(name), base.get(name)
        if value is None or not reference:
            return "–"
        return f"{100.0 * value / reference:.3g} %"

    rows = [
        [
            algorithm,
            text(row, "rounds", "{:.0f}"),
            text(row, "gigabits", "{:.4g}"),
            share(row, "gigabits"),
            text(row, "paper", "{:.5g}"),
            share(row, "paper"),
        ]
        for algorithm, row in cutoff["rows"].items()
    ]
    columns = (
        "algorithm",
        "rounds",
        "Gbit",
        "of DPSGD's",
        "the paper's GB",
        "of error-free's",
    )
    title = f"Until the mean model had an accuracy of {cutoff['accuracy']:g}"
    return title, columns, rows


def _bits_text(bits: float | None) -> str:
    return "–" if bits is None else _bytes_text(bits / 8.0)


def _spread_text(spread: Spread, form: str) -> str:
    if spread["mean"] is None:
        return "–"
    mean = form.format(spread["mean"])
    return mean if spread["std"] is None else f"{mean} ± {spread['std']:.2g}"


def _bytes_text(count: float | None) -> str:
    if count is None:
        return "–"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g} B"


def _page(
    curves: Sequence[_Curve],
    axes: Sequence[_Axis],
    loss: _Loss,
    summary: Summary,
    link: Network | None,
    records: Sequence[RoundRecord],
) -> str:
    names = ", ".join(curve.algorithm for curve in curves)
    figures = [
        {
            "title": f"Against {axis.title.lower()}",
            "alt": f"{loss.label} and accuracy against {axis.label}, of {names}",
            "data": base64.b64encode(_panel_pair(curves, axis, loss)).decode("ascii"),
        }
        for axis in axes
    ]
    nodes = _node_curves(records)
    if nodes:
        picture = base64.b64encode(_node_panels(nodes)).decode("ascii")
        alt = f"consensus, accuracy, zeros and bits a round of the nodes of {names}"
        figures.append({"title": "The nodes", "alt": alt, "data": picture})
    settings = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in summary["settings"].items()
    }
    models = [
        (algorithm, seed, digest)
        for algorithm, entry in summary["algorithms"].items()
        for seed, digest in entry["model_sha256"].items()
    ]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.from_string(_TEMPLATE).render(
        tables=_tables(summary),
        names=list(summary["algorithms"]),
        edges=_edge_tables(records),
        decentralized=_is_decentralized(summary),
        figures=figures,
        settings=settings,
        models=models,
        network=None if link is None else str(link),
        banded=any(curve.num_seeds > 1 for curve in curves),
    )


# The content policy makes the promise of no external resource the browser's to keep.
_TEMPLATE: Final = """\
{% macro table(columns, rows) %}
<div class="wide">
<table>
<thead><tr>{% for name in columns %}<th scope="col">{{ name }}</th>{% endfor %}</tr>
</thead>
<tbody>
{% for row in rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endmacro %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>flower-compress: {{ names | join(', ') }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; text-align: right; border-bottom: 1px solid #ddd;
  white-space: nowrap; }
th:first-child, td:first-child, .text td, .text th { text-align: left; }
thead th { border-bottom: 2px solid #1a1a1a; }
img { width: 100%; height: auto; }
p, figcaption { color: #555; } code { font-size: .85em; }
</style>
</head>
<body>
<h1>Communication against convergence</h1>
{% for title, columns, rows in tables %}
{% if not loop.first %}<h2>{{ title }}</h2>{% endif %}

{{ table(columns, rows) }}
{% endfor %}
<p>Mean{% if banded %} ± standard deviation{% endif %} over seeds. Loss, accuracy and
bytes (over all clients, framing included) at the last round; log10 excess loss is the
mean over the last tenth of the rounds; bits are those of the payloads in both
directions.{% if decentralized %} There is no server: loss and accuracy are of the mean
of the nodes' models, bytes and bits of what went from node to node, summed over the
edges. The consensus distance is the mean of ||x_i - mean x||² over the
nodes.{% endif %}{% if banded %} Bands in the figures: one standard deviation over
seeds.{% endif %}{% if network %} Time on the network {{ network }} leaves computation
out.{% endif %}</p>
{% for figure in figures %}
<h2>{{ figure.title }}</h2>
<img src="data:image/png;base64,{{ figure.data }}" alt="{{ figure.alt }}">
{% endfor %}
{% for algorithm, columns, rows in edges %}
<h2>Edges of {{ algorithm }}, megabytes</h2>
{{ table(columns, rows) }}
{% endfor %}
<h2>Settings</h2>
<div class="wide">
<table class="text">
<tbody>
{% for key, value in settings.items() %}
<tr><th scope="row">{{ key }}</th><td>{{ value }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% if models %}
<h2>Final models</h2>
<div class="wide">
<table class="text">
<thead><tr><th scope="col">algorithm</th><th scope="col">seed</th>
<th scope="col">SHA-256</th></tr></thead>
<tbody>
{% for algorithm, seed, digest in models %}
<tr><td>{{ algorithm }}</td><td>{{ seed }}</td><td><code>{{ digest }}</code></td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}
</body>
</html>
"""
