"""The web page of a comparison, from the template ``page.html.md``."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from flower_compress.errors import MissingExtraError

from ..network import Network
from ..records import RoundRecord, Summary, is_decentralized
from .curves import Axis, Curve, Loss, grouped, node_curves_of
from .figures import node_panels, panel_pair
from .tables import edge_tables_of, tables_of

try:
    import jinja2
except ModuleNotFoundError as error:
    raise MissingExtraError("jinja2", "simulation") from error

__all__ = ["environment", "render_page"]

_FOLDER: Final = Path(__file__).parent
# A Flower App Bundle takes no .html; Markdown may hold HTML.
_TEMPLATE: Final = "page.html.md"


def environment() -> jinja2.Environment:
    """Return what renders the templates of this folder."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )


def render_page(
    curves: Sequence[Curve],
    axes: Sequence[Axis],
    loss: Loss,
    summary: Summary,
    link: Network | None,
    records: Sequence[RoundRecord],
) -> str:
    """Return the page: tables, figures as data, settings and digests.

    Parameters
    ----------
    curves : Sequence[Curve]
        One for each algorithm.
    axes : Sequence[Axis]
        A figure for each.
    loss : Loss
        What the curves' loss is.
    summary : Summary
        Of the same runs.
    link : Network, optional
        Network of the estimated time.
    records : Sequence[RoundRecord]
        The logged rounds: what nodes and edges did.
    """
    names = ", ".join(curve.algorithm for curve in curves)
    figures = [
        {
            "title": (f"{task}: a" if task else "A") + f"gainst {axis.title.lower()}",
            "alt": f"{loss.label} and accuracy against {axis.label}, of "
            + ", ".join(curve.algorithm for curve in group),
            "data": base64.b64encode(panel_pair(group, axis, loss)).decode("ascii"),
        }
        for task, group in grouped(curves, summary)
        for axis in axes
    ]
    nodes = node_curves_of(records)
    if nodes:
        picture = base64.b64encode(node_panels(nodes)).decode("ascii")
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
    return (
        environment()
        .get_template(_TEMPLATE)
        .render(
            tables=tables_of(summary),
            differs=summary["claims"]["differs"] if "claims" in summary else [],
            names=list(summary["algorithms"]),
            edges=edge_tables_of(records),
            decentralized=is_decentralized(summary),
            figures=figures,
            settings=settings,
            models=models,
            network=None if link is None else str(link),
            banded=any(curve.num_seeds > 1 for curve in curves),
        )
    )
