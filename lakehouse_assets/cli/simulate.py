"""`lakehouse simulate`: stand-ins for systems that a laptop lacks, as commands.

What belongs here: arguments and progress. What does not: what is simulated (`simulators/`).
"""

from __future__ import annotations

import math
import tempfile
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from lakehouse_assets.cli.output import say
from lakehouse_assets.cli.progress import RowProgress
from lakehouse_assets.cli.signals import stopped_by_signals


@click.group()
def simulate() -> None:
    """Write what a system that is not at hand would write."""


@simulate.command()
@click.option("--database", type=click.Path(path_type=Path), required=True, metavar="PATH", help="The SQLite file.")
@click.option("--hours", type=float, metavar="N", help="History: so many hours, up to now (default: 24).")
@click.option("--rows", type=click.IntRange(min=1), metavar="N", help="About so many rows of history, or live.")
@click.option("--start", type=click.DateTime(), help="History: the time of the first readings, UTC.")
@click.option("--live", is_flag=True, help="Write as time passes, until stopped.")
@click.option("--rate", type=float, metavar="N", help="Live: rows a second over all sensors (default: 10).")
@click.option("--sensors", default=12, show_default=True, help="How many sensors read.")
@click.option("--every", default=60.0, show_default=True, help="History: seconds between two readings of a sensor.")
@click.option("--seed", default=7, show_default=True, help="What all chance is drawn from.")
@click.option("--fault-rate", default=0.002, show_default=True, help="Share of readings that a fault befalls.")
@click.option("--anomaly-rate", default=0.005, show_default=True, help="Share of readings that are out of range.")
def sensors(
    database: Path,
    hours: float | None,
    rows: int | None,
    start: datetime | None,
    live: bool,
    rate: float | None,
    sensors: int,
    every: float,
    seed: int,
    fault_rate: float,
    anomaly_rate: float,
) -> None:
    """Write readings of simulated sensors into a SQLite file: a stretch of the past, or live.

    The same arguments (with --start) write the same rows. An existing file gets the readings appended.
    """
    common = {"sensors": sensors, "seed": seed, "fault_rate": fault_rate, "anomaly_rate": anomaly_rate}
    if live and (hours is not None or start is not None):
        raise click.UsageError("--live writes from now on: leave out --hours and --start")
    if not live and rate is not None:
        raise click.UsageError("--rate belongs to --live; history has --every")
    if hours is not None and rows is not None:
        raise click.UsageError("give --hours or --rows, not both")
    if live:
        _live(database, rate or 10, rows, common)
    else:
        ticks = math.ceil((hours or 24) * 3600 / every) if rows is None else math.ceil(rows / sensors)
        _history(database, start, ticks, every, common)


def _live(database: Path, rate: float, rows: int | None, common: dict) -> None:
    from lakehouse_assets.simulators.sensors import live

    say(f"writing {rate:g} readings a second to {database} until stopped (Ctrl-C)")
    with stopped_by_signals("stopping") as stop, RowProgress() as progress:
        progress.start(str(database))
        summary = live(
            database, stop=stop, rate=rate, max_rows=rows, progress=lambda n: progress.rows(str(database), n), **common
        )
    say(str(summary))


def _history(database: Path, start: datetime | None, ticks: int, every: float, common: dict) -> None:
    from lakehouse_assets.simulators.sensors import write_history

    span = timedelta(seconds=every) * ticks
    begin = start or datetime.now(UTC).replace(second=0, microsecond=0) - span
    with RowProgress() as progress:
        progress.start(str(database))
        many = common["sensors"]
        summary = write_history(
            database,
            start=begin,
            hours=span / timedelta(hours=1),
            interval=every,
            progress=lambda done, total: progress.rows(str(database), done * many, total * many),
            **common,
        )
    say(str(summary))


@simulate.command()
@click.option("--port", default=8461, show_default=True, help="Where it listens on this machine; 0: a free port.")
@click.option("--token", default="", metavar="T", help="The access token that it admits (default: a new one).")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where its files are kept (default: a directory that is deleted at the end).",
)
@click.option("--no-dbfs", is_flag=True, help="A workspace without DBFS root, as new ones are.")
@click.option("--python", metavar="3.N", help="Let tasks believe that they run on this Python.")
@click.option("--volume", "volumes", multiple=True, metavar="C.S.V", help="A volume that it has; may be repeated.")
def workspace(
    port: int, token: str, directory: Path | None, no_dbfs: bool, python: str | None, volumes: tuple[str, ...]
) -> None:
    """Serve a Databricks workspace that executes what it is sent, until stopped (Ctrl-C).

    It needs Linux with user namespaces, and the Spark engine. What it cannot prove stands in the README beside it.
    """
    from lakehouse_assets.simulators.workspace.server import Options, serve

    where = nullcontext(str(directory)) if directory else tempfile.TemporaryDirectory(prefix="lakehouse-workspace-")
    with where as kept, stopped_by_signals("ending its runs and clusters") as stop:
        options = Options(Path(kept), port=port, token=token, dbfs=not no_dbfs, python=python)
        with serve(options) as served:
            for name in volumes:
                served.make_volume(name)
            runtimes = (runtime for runtime in options.runtimes.values() if not runtime.missing())
            say(f"a simulated Databricks workspace listens on {served.host}, its files are in {served.directory}")
            say(f"  runtimes: {', '.join(runtime.name for runtime in runtimes) or 'none: make setup-jvm'}")
            say("point the SDK, and the step launcher with it, at it from another shell:")
            say(f"  export DATABRICKS_HOST={served.host} DATABRICKS_TOKEN={served.token}")
            stop.wait()
