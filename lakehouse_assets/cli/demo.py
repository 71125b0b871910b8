"""`lakehouse demo`: the shipped pipelines on simulated sensors, three runs, and a look at what they built.

What belongs here: the story that the demo tells. What does not: anything that another command could not do as well.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lakehouse_assets.cli.options import open_settings
from lakehouse_assets.cli.output import print_rows, say
from lakehouse_assets.cli.progress import RowProgress
from lakehouse_assets.errors import LakeError

if TYPE_CHECKING:
    from lakehouse_assets.cli.runner import Report
    from lakehouse_assets.tables.base import Work

LOOKS = {
    "the newest hours of two channels (gold.sensor_hourly)": (
        "SELECT start_window, sensor_id, location, round(temperature_avg, 1) AS temperature_avg, "
        "round(humidity_avg, 1) AS humidity_avg, reading_count FROM gold.sensor_hourly "
        "ORDER BY start_window DESC, sensor_id LIMIT 6"
    ),
    "alerts, made of the rows in quarantine (gold.sensor_alerts)": (
        "SELECT severity, count(*) AS alerts, count(DISTINCT sensor_id) AS sensors FROM gold.sensor_alerts "
        "GROUP BY severity ORDER BY severity"
    ),
    "where every reading is": (
        "SELECT 'landed in bronze' AS readings, count(*) AS rows FROM bronze.sensor_readings UNION ALL "
        "SELECT 'valid in silver', count(*) FROM silver.sensor_readings UNION ALL "
        "SELECT 'in quarantine, with reasons', count(*) FROM silver.sensor_readings_quarantine"
    ),
}
"""What the demo shows in the end: title -> query."""


@click.command()
@click.option(
    "--directory", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Where it is built."
)
@click.option(
    "--days", type=click.FloatRange(min=0.01, max=365), default=7.0, show_default=True, help="How much history."
)
@click.option("--fresh", is_flag=True, help="Remove what an earlier demo built in the directory first.")
def demo(directory: Path, days: float, fresh: bool) -> None:
    """Simulate sensors, run the shipped pipelines three times, and show what they built.

    No network, no server, no JVM. A second demo goes on with what the first one built.
    """
    began = time.monotonic()
    database, lake = directory / "sensors.db", directory / "lake"
    if fresh:
        _remove(database)
        shutil.rmtree(lake, ignore_errors=True)
    if database.exists():
        say(f"1. {database} is there: this demo goes on with it (--fresh starts over)")
    else:
        say(f"1. history: {days:g} days of 12 sensors, around a real weather series, with faults and anomalies")
        _history(database, days)
    work = _work(database, lake)
    say("2. the first run carries the history through bronze, silver, quarantine and gold")
    _run(work)
    say("3. new readings arrive, and a run takes up those only")
    _more(database)
    reports = _run(work)
    _check(reports, "written", "the run after new readings arrived wrote nothing")
    say("4. a third run finds nothing new, and writes nothing")
    reports = _run(work)
    _check(reports, "unchanged", "a run without anything new wrote a table")
    for title, query in LOOKS.items():
        say(f"\n{title}")
        _look(work, query)
    say(f"built in {time.monotonic() - began:.1f} s: the database {database}, the lake {lake}. Look at it:")
    say(f'  lakehouse sql --root {lake} "SELECT * FROM silver.sensor_readings_quarantine LIMIT 3"')
    say(f"  LAKEHOUSE_SENSOR_DB={database} lakehouse plan '*' --root {lake}")
    say("  make dev     (the same graph in Dagster, with new readings coming in)")


def _remove(database: Path) -> None:
    for end in ("", "-wal", "-shm", "-journal"):
        database.with_name(database.name + end).unlink(missing_ok=True)


def _history(database: Path, days: float) -> None:
    from lakehouse_assets.simulators.sensors import write_history

    # through a file beside it: a demo that is stopped here leaves no half of a database
    unfinished = database.with_name(f"{database.name}.unfinished")
    _remove(unfinished)
    start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(days=days)
    summary = write_history(unfinished, start=start, days=days, wal=True)
    unfinished.replace(database)
    say(f"   {replace(summary, path=database)}")


def _more(database: Path) -> None:
    from lakehouse_assets.simulators.sensors import live

    say(f"   {live(database, stop=threading.Event(), rate=1200, max_rows=1200, seed=int(time.time()))}")


def _work(database: Path, lake: Path) -> Work:
    from lakehouse_assets.entities.catalog import load_catalog
    from lakehouse_assets.settings import PACKAGED_CATALOG
    from lakehouse_assets.tables.base import open_work

    settings = open_settings(root=str(lake), catalog=PACKAGED_CATALOG, engine="embedded")
    catalog = load_catalog(settings.catalog, {**os.environ, "LAKEHOUSE_SENSOR_DB": str(database)})
    return open_work(settings, catalog, os.environ)


def _run(work: Work) -> list[Report]:
    from lakehouse_assets.cli.run import line_of
    from lakehouse_assets.cli.runner import run_tables

    reports = []
    with RowProgress() as progress:
        told = replace(work, progress=progress.rows)
        for report in run_tables(told, work.catalog.order(), started=lambda table: progress.start(str(table))):
            progress.line(f"   {line_of(report)}")
            reports.append(report)
            if report.error is not None:
                raise report.error
    return reports


def _check(reports: list[Report], state: str, otherwise: str) -> None:
    states = {report.state for report in reports}
    if (state == "written" and state not in states) or (state == "unchanged" and "written" in states):
        raise LakeError(f"the demo did not go as it should: {otherwise}", fix="start over: lakehouse demo --fresh")


def _look(work: Work, query: str) -> None:
    from lakehouse_assets.serve.query import ask

    answer = ask(work.lake, work.engine, query)
    rows: list[dict[str, Any]] = work.engine.rows(answer)
    print_rows(rows, work.engine.schema(answer).names, "table")
