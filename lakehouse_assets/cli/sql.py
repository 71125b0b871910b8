"""`lakehouse sql`: a question in Spark SQL, its answer on stdout.

What belongs here: arguments and printing. What does not: finding tables and refusing queries (`serve/query.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from lakehouse_assets.cli.options import engine_option, format_option, open_settings, root_option
from lakehouse_assets.cli.output import print_rows, say

if TYPE_CHECKING:
    from lakehouse_assets.engines.base import Engine, Relation

SHOWN = 1000
"""Rows of a table for people, unless `--limit` says otherwise."""


@click.command()
@click.argument("query")
@root_option
@engine_option
@format_option("table", "json", "csv")
@click.option("--limit", type=click.IntRange(min=0), help=f"Rows at most (table: {SHOWN}; json and csv: all).")
def sql(query: str, root: str | None, engine: str | None, form: str, limit: int | None) -> None:
    """Ask QUERY, one SELECT in Spark SQL; every Delta table under the root is there as layer.table.

    \b
    lakehouse sql "SELECT count(*) AS readings FROM bronze.sensor_readings"
    lakehouse sql --format csv "SELECT * FROM gold.sensor_hourly" > hourly.csv

    JSON is an array of row objects: decimals are strings, NaN and Infinity are strings, times are ISO 8601, bytes are
    base64. CSV is RFC 4180: NULL is an empty field, an empty text is "".
    """  # noqa: D301
    from lakehouse_assets.engines.base import open_engine
    from lakehouse_assets.lake.names import Lake
    from lakehouse_assets.lake.storage import Storage
    from lakehouse_assets.serve.query import ask, first

    settings = open_settings(root=root, engine=engine)
    lake = Lake(settings.root, Storage.of(settings, os.environ))
    computes = open_engine(settings, lake.storage)
    answer = ask(lake, computes, query)
    columns = computes.schema(answer).names
    if limit is not None:
        answer = first(computes, answer, limit)
    elif form == "table":
        answer = first(computes, answer, SHOWN + 1)
    print_rows(_rows(computes, answer, SHOWN if limit is None and form == "table" else None), columns, form)


def _rows(engine: Engine, answer: Relation, most: int | None) -> Iterator[dict[str, Any]]:
    """The rows of an answer as they come; from row `most` on, only a message that there are more."""
    count = 0
    for batch in engine.batches(answer):
        for row in batch.to_pylist():
            if count == most:
                say(f"the first {most:,} rows are shown; --limit N shows more, --format csv shows all")
                return
            count += 1
            yield row
