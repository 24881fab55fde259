"""Writes the files of a report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flower_compress.errors import ConfigurationError

from ..network import Network
from ..records import RoundRecord, Summary
from .curves import axes_of, curves_of, grouped, loss_of
from .figures import overview
from .page import render_page

__all__ = ["write_report"]


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
    loss, axes = loss_of(records), axes_of(summary, link)
    curves = curves_of(records, summary, loss, link)

    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.png").write_bytes(overview(grouped(curves, summary), axes, loss))
    page = out / "report.html"
    page.write_text(
        render_page(curves, axes, loss, summary, link, records), encoding="utf-8"
    )
    return page
