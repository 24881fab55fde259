"""Curves as pictures, by matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flower_compress.errors import MissingExtraError

from .curves import Axis, Curve, Loss, NodeCurve

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.ticker import FuncFormatter
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "matplotlib", "simulation") from error

__all__ = ["node_panels", "overview", "panel_pair"]

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
_NUM_MARKS: Final = 8
_MAX_POINTS: Final = 1000
_FEW_POWERS: Final = 30.0
_LEGEND_COLUMNS: Final = 4


def overview(
    groups: Sequence[tuple[str, Sequence[Curve]]], axes: Sequence[Axis], loss: Loss
) -> bytes:
    """Return all panels as a PNG: loss above, accuracy below, an axis a column.

    Each group of curves has two rows of its own, under its name.
    """
    width, height = 4.4 * len(axes), 8.2
    figure = Figure(figsize=(width, height * len(groups)), layout="constrained")
    parts = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
    for part, (name, curves) in zip(parts, groups, strict=True):
        grid = part.subplots(2, len(axes), sharey="row", squeeze=False)
        for column, axis in enumerate(axes):
            _draw(grid[0, column], curves, axis, loss, is_loss=True)
            _draw(grid[1, column], curves, axis, loss, is_loss=False)
            title = f"against {axis.title.lower()}"
            grid[0, column].set_title(
                f"{name}, {title}" if name else title, fontsize=12
            )
            if column > 0:
                grid[0, column].set_ylabel("")
                grid[1, column].set_ylabel("")
        _legend(part, grid[0, 0], columns=max(len(curves), 1), width=width)
    return _to_png(figure, dpi=110)


def node_panels(curves: Sequence[NodeCurve]) -> bytes:
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
                if shown.any():  # One node has no distance to any other.
                    panel.set_yscale("log")
            kept = _thin(np.flatnonzero(shown))
            panel.plot(
                curve.rounds[kept],
                values[kept],
                label=curve.algorithm,
                markevery=_marks(curve.rounds[kept], i, log=False),
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
    }


def _marks(costs: NDArray[np.float64], i: int, *, log: bool) -> list[int]:
    """Return which points of curve i have a marker.

    They are apart along the axis, whose costs increase, and not along the curve, on
    which they crowd where it jumps; and shifted, so that curves that coincide do not
    hide each other's.
    """
    if not len(costs):
        return []
    places = np.log10(costs) if log else costs
    shares = (np.arange(_NUM_MARKS) + (i % 8) / 8) / _NUM_MARKS
    wanted = places[0] + (places[-1] - places[0]) * shares
    return [*map(int, np.unique(np.searchsorted(places, wanted)))]


def panel_pair(curves: Sequence[Curve], axis: Axis, loss: Loss) -> bytes:
    """Return loss and accuracy against one axis, side by side, as a PNG."""
    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, curves, axis, loss, is_loss=True)
    _draw(right, curves, axis, loss, is_loss=False)
    return _png(figure, left, columns=_LEGEND_COLUMNS, dpi=130)


def _draw(
    panel: Axes, curves: Sequence[Curve], axis: Axis, loss: Loss, *, is_loss: bool
) -> None:
    # A node alone sends nothing.
    is_log = axis.log and any((curve.costs[axis] > 0.0).any() for curve in curves)
    for i, curve in enumerate(curves):
        band = curve.loss if is_loss else curve.accuracy
        costs = curve.costs[axis]
        shown = np.isfinite(band.middle) & np.isfinite(costs)
        if is_log:
            shown &= costs > 0.0
        kept = _thin(np.flatnonzero(shown))
        style = _style(i)
        panel.plot(
            costs[kept],
            band.middle[kept],
            label=curve.algorithm,
            markevery=_marks(costs[kept], i, log=is_log),
            **style,
        )
        if curve.num_seeds > 1:
            panel.fill_between(
                costs[kept],
                band.low[kept],
                band.high[kept],
                color=style["color"],
                alpha=0.12,
                linewidth=0,
            )
    if is_log:
        panel.set_xscale("log")
        panel.xaxis.set_minor_formatter(FuncFormatter(_between_powers(panel)))
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


def _between_powers(panel: Axes) -> Callable[[float, int | None], str]:
    """Return the labels between powers of ten: 2 and 5, where few powers are shown."""

    def label(value: float, _: int | None) -> str:
        low, high = panel.get_xlim()
        power = math.floor(math.log10(value) + 1e-9)
        digit = round(value / 10.0**power)
        if high > _FEW_POWERS * low or digit not in (2, 5):
            return ""
        return rf"$\mathdefault{{{digit}\times10^{{{power}}}}}$"

    return label


def _limit(panel: Axes, curves: Sequence[Curve], loss: Loss) -> None:
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
    _legend(figure, panel, columns=columns, width=figure.get_figwidth())
    return _to_png(figure, dpi=dpi)


def _legend(
    figure: Figure | SubFigure, panel: Axes, *, columns: int, width: float
) -> None:
    """Put a panel's legend below, in as many columns as its names leave room for."""
    handles, labels = panel.get_legend_handles_labels()
    inches = 1.05 + 0.09 * max(map(len, labels), default=0)
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=max(1, min(columns, len(labels), 8, int(width / inches))),
        frameon=False,
        fontsize=11,
        handlelength=4.0,
    )


def _to_png(figure: Figure, *, dpi: int) -> bytes:
    buffer = io.BytesIO()
    # A Figure of its own, not pyplot's: no global state, no window system.
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()
