"""`lakehouse chart`: a table as a picture.

What belongs here: arguments. What does not: drawing (`serve/chart*.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lakehouse_assets.cli.options import of_lake, open_lake, table_of
from lakehouse_assets.cli.output import write_picture
from lakehouse_assets.errors import CatalogError


@click.command()
@click.argument("table")
@click.option(
    "--png", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="FILE", help="The file to write."
)
@of_lake
def chart(table: str, png: Path, **where: Any) -> None:
    """Draw TABLE into FILE: what its entity names under `lakehouse: {chart: …}`.

    \b
    lakehouse chart gold.index_returns --png returns.png
    lakehouse chart gold.trade_bars --png bars.png
    """  # noqa: D301
    from lakehouse_assets.serve.chart import png as picture
    from lakehouse_assets.tables.base import upstream

    work = open_lake(**where)
    name = table_of(work, table)
    drawn = next((feed.lakehouse.chart for feed in work.catalog.destinations[name] if feed.lakehouse.chart), None)
    if drawn is None:
        charts = [str(t) for t, feeds in work.catalog.destinations.items() if any(f.lakehouse.chart for f in feeds)]
        raise CatalogError(
            "the entity does not say what is drawn of the table",
            value=str(name),
            choices=charts,
            fix="add to it: lakehouse: {chart: {x: COLUMN, y: [COLUMN], by: COLUMN}}, or candles: {open: COLUMN, …}",
        )
    write_picture(png, picture(work.engine, upstream(work, name), drawn, str(name)))
