"""`lakehouse demo`: the shipped pipelines on simulated sensors and real prices, three runs, and a look at the result.

What belongs here: the story that the demo tells. What does not: anything that another command could not do as well.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lakehouse_assets.cli.options import open_settings
from lakehouse_assets.cli.output import print_rows, say
from lakehouse_assets.cli.progress import RowProgress
from lakehouse_assets.errors import LakeError, NotRunnable

if TYPE_CHECKING:
    from lakehouse_assets.cli.runner import Report
    from lakehouse_assets.simulators.kafka_client import Client
    from lakehouse_assets.simulators.kdb import KdbServer
    from lakehouse_assets.tables.base import Work

TOPIC = "Stocks"
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
    "the newest close of each index, and how far it was in 2009 (gold.updated_stocks)": (
        "SELECT Index, max(Latest_Close) AS latest, max(Close_Diff) AS gained_at_most, count(*) AS days "
        "FROM gold.updated_stocks WHERE Date >= DATE '2009-01-01' GROUP BY Index ORDER BY Index"
    ),
    "the worst days of an index (gold.index_returns)": (
        "SELECT Index, Date, price, round(daily_return * 100, 2) AS percent, round(drawdown * 100, 1) AS drawdown "
        "FROM gold.index_returns WHERE Index = 'SP500' AND daily_return < 0 ORDER BY daily_return LIMIT 3"
    ),
    "messages that are no prices, with the reason (silver.stocks_quarantine)": (
        "SELECT get(_reasons, 0) AS reason, CAST(_upstream.value AS STRING) AS message FROM silver.stocks_quarantine "
        "ORDER BY _upstream.partition, _upstream.offset LIMIT 3"
    ),
    "trades, each with the quote that was the case (silver.trades_with_quotes)": (
        "SELECT time, sym, side, price, bid, ask, round(mid, 3) AS mid FROM silver.trades_with_quotes "
        "WHERE mid IS NOT NULL ORDER BY time_ns DESC, _row LIMIT 3"
    ),
    "days of a symbol as bars (gold.trade_bars)": (
        "SELECT date, open, high, low, close, volume, round(vwap, 2) AS vwap, trades FROM gold.trade_bars "
        "WHERE sym = 'SP500' AND width = '1d' ORDER BY date"
    ),
}
"""What the demo shows in the end: title -> query."""
CUT = date(2018, 6, 30)
"""The last day of the prices that are there before the first run."""
FAULTS = 3
"""Messages that are no prices."""
CHARTS = ("gold.index_returns", "gold.trade_bars")
DAYS = (date(2018, 12, 19), date(2018, 12, 20), date(2018, 12, 21))
"""Trading days of the kdb+ stand-in; the last one comes between two runs, and the first one is corrected then."""
TRADES, SYMBOLS = 5_000, 8


@click.command()
@click.option(
    "--directory", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Where it is built."
)
@click.option(
    "--days", type=click.FloatRange(min=0.01, max=365), default=7.0, show_default=True, help="How much history."
)
@click.option("--fresh", is_flag=True, help="Remove what an earlier demo built in the directory first.")
def demo(directory: Path, days: float, fresh: bool) -> None:
    """Simulate sensors, send real prices to Kafka, run the shipped pipelines three times, and show what they built.

    No network, no JVM: the broker is librdkafka's mock cluster, a stand-in in this process, and the kdb+ process is a
    stand-in that ends with it. A second demo goes on with what the first one built.
    """
    from lakehouse_assets.simulators.kafka_mock import mock_client
    from lakehouse_assets.simulators.kdb import KdbServer
    from lakehouse_assets.simulators.kdb_config import KdbConfig

    market = KdbConfig(dates=DAYS[:-1], symbols=SYMBOLS, rows=TRADES)
    with mock_client(os.environ, TOPIC) as broker, KdbServer(market) as kdb:
        _demo(directory, days, fresh, broker, kdb)


def _demo(directory: Path, days: float, fresh: bool, broker: Client, kdb: KdbServer) -> None:
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
    say("   prices: four indices, day by day, into a Kafka topic (a mock cluster: it forgets all when the demo ends)")
    _prices(broker, CUT)
    if lake.exists():
        _prices(broker, None)  # a broker that forgot all gets what the lake has read from the one before
    say(f"   trades and quotes: {SYMBOLS} symbols on {len(DAYS) - 1} days, on a stand-in for a kdb+ process")
    work = _work(database, lake, broker, kdb)
    say("2. the first run carries the history through bronze, silver, quarantine and gold")
    _run(work)
    say("3. new readings and prices arrive, malformed messages among them, and a run takes up those only")
    _more(database)
    _prices(broker, None)
    kdb.add(DAYS[-1])
    kdb.correct(DAYS[0])
    say(f"   trades and quotes: {DAYS[-1]} is new, and trades of {DAYS[0]} were corrected")
    reports = _run(work)
    _check(reports, "written", "the run after new readings arrived wrote nothing")
    say("4. a third run finds nothing new, and writes nothing")
    reports = _run(work)
    _check(reports, "unchanged", "a run without anything new wrote a table")
    for title, query in LOOKS.items():
        say(f"\n{title}")
        _look(work, query)
    for name in CHARTS:
        _draw(work, name, directory / f"{name.split('.')[1]}.png")
    say(f"built in {time.monotonic() - began:.1f} s: the database {database}, the lake {lake}. Look at it:")
    say(f'  lakehouse sql --root {lake} "SELECT * FROM silver.sensor_readings_quarantine LIMIT 3"')
    say(f"  LAKEHOUSE_SENSOR_DB={database} lakehouse plan group:sensors --root {lake}")
    say(f"  lakehouse history show silver.close_price WTI --root {lake} | tail -5")
    say(f"  lakehouse run --root {lake} group:market --partition {DAYS[0]}   (with `lakehouse simulate kdb` running)")
    say("  make dev     (the same graph in Dagster, with new readings and prices coming in)")


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


def _prices(broker: Client, until: date | None) -> None:
    """Send the prices up to a day; without one the others, and malformed messages."""
    from lakehouse_assets.simulators.kafka import Production, produce
    from lakehouse_assets.simulators.kafka_prices import Selection

    say(f"   {produce(Production(TOPIC, selection=Selection(until=until), faults=0 if until else FAULTS), broker)}")


def _draw(work: Work, name: str, path: Path) -> None:
    from lakehouse_assets.serve.chart import png
    from lakehouse_assets.tables.base import upstream

    table = work.catalog.resolve(name)
    (drawn,) = (feed.lakehouse.chart for feed in work.catalog.destinations[table])
    assert drawn is not None
    try:
        path.write_bytes(png(work.engine, upstream(work, table), drawn, name))
    except NotRunnable as error:
        say(f"\nthe chart of {name} is not drawn: {error}")
    else:
        say(f"\nthe chart of {name}: {path}")


def _work(database: Path, lake: Path, broker: Client, kdb: KdbServer) -> Work:
    from lakehouse_assets.entities.catalog import load_catalog
    from lakehouse_assets.settings import PACKAGED_CATALOG
    from lakehouse_assets.simulators.kafka_mock import VERSION
    from lakehouse_assets.tables.base import open_work

    settings = open_settings(root=str(lake), catalog=PACKAGED_CATALOG, engine="embedded")
    given = {
        "LAKEHOUSE_SENSOR_DB": str(database),
        "LAKEHOUSE_KAFKA": broker.servers,
        "LAKEHOUSE_KAFKA_TOPIC": TOPIC,
        "LAKEHOUSE_KAFKA_VERSION": VERSION,
        "LAKEHOUSE_KDB_HOST": kdb.host,
        "LAKEHOUSE_KDB_PORT": str(kdb.port),
    }
    catalog = load_catalog(settings.catalog, {**os.environ, **given})
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
