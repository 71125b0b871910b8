"""`lakehouse simulate`: stand-ins for systems that a laptop lacks, as commands.

What belongs here: arguments and progress. What does not: what is simulated (`simulators/`).
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lakehouse_assets.cli.output import say
from lakehouse_assets.cli.progress import RowProgress
from lakehouse_assets.cli.signals import stopped_by_signals
from lakehouse_assets.cli.simulate_kdb import kdb

if TYPE_CHECKING:
    from lakehouse_assets.simulators.kafka import Production

SERVERS, API_VERSION = "kafka.bootstrap.servers", "kafka.api.version"


@click.group()
def simulate() -> None:
    """Write what a system that is not at hand would write."""


simulate.add_command(kdb)


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
@click.option(
    "--bootstrap-servers", metavar="A", help="The brokers, host:port with commas (LAKEHOUSE_KAFKA; 127.0.0.1:9092)."
)
@click.option(
    "--topic", metavar="T", help="Made if it is not there; keeps its messages (LAKEHOUSE_KAFKA_TOPIC; Stocks)."
)
@click.option("--partitions", type=click.IntRange(min=1), default=4, show_default=True, help="Of a topic that is made.")
@click.option("--csv", type=click.Path(path_type=Path), metavar="PATH", help="The prices (default: the packaged ones).")
@click.option("--from", "since", type=click.DateTime(["%Y-%m-%d"]), help="Rows of this Date and later.")
@click.option("--to", "until", type=click.DateTime(["%Y-%m-%d"]), help="Rows of this Date and earlier.")
@click.option("--rows", type=click.IntRange(min=0), metavar="N", help="The first so many of these rows.")
@click.option("--rate", type=float, metavar="N", help="Rows a second (default: all at once); live: default 10.")
@click.option(
    "--faults", type=click.IntRange(min=0), default=0, metavar="N", help="So many malformed messages after them."
)
@click.option("--append", is_flag=True, help="Send all rows, even if the topic holds them.")
@click.option("--option", "options", multiple=True, metavar="K=V", help="An option with Spark's name; may be repeated.")
@click.option("--options-file", type=click.Path(path_type=Path), metavar="PATH", help="Options as a YAML mapping.")
@click.option("--broker", is_flag=True, help="Serve a mock cluster from this process, until stopped.")
@click.option(
    "--address-file", type=click.Path(path_type=Path), metavar="PATH", help="Where --broker writes its address."
)
@click.option("--live", is_flag=True, help="Go on with made-up days after the last row, until stopped.")
@click.option("--seed", default=7, show_default=True, help="What the made-up days are drawn from.")
def kafka(
    bootstrap_servers: str | None,
    topic: str | None,
    partitions: int,
    csv: Path | None,
    since: datetime | None,
    until: datetime | None,
    rows: int | None,
    rate: float | None,
    faults: int,
    append: bool,
    options: tuple[str, ...],
    options_file: Path | None,
    broker: bool,
    address_file: Path | None,
    live: bool,
    seed: int,
) -> None:
    """Send daily prices to a Kafka topic as JSON, keyed by Index: the rows that it does not hold yet.

    Run twice, it adds nothing; killed and run again, it goes on where it stopped. Secrets are given by reference:
    --option 'kafka.sasl.password=${secret:NAME}' takes the environment variable NAME.

    The cluster of --broker is a stand-in: it keeps about 5 MB of a partition, and forgets all when it ends.
    """
    from lakehouse_assets.simulators.kafka import Production
    from lakehouse_assets.simulators.kafka_prices import Selection

    if rate is not None and rate <= 0:
        raise click.UsageError("--rate is a number above 0")
    if broker and (bootstrap_servers or options or options_file):
        raise click.UsageError("--broker has a cluster of its own: leave out --bootstrap-servers and options")
    if address_file and not broker:
        raise click.UsageError("--address-file belongs to --broker")
    if since and until and since > until:
        raise click.UsageError("--from is later than --to: no row lies there")
    topic = topic or os.environ.get("LAKEHOUSE_KAFKA_TOPIC") or "Stocks"
    selection = Selection(since.date() if since else None, until.date() if until else None, rows)
    pace = {"live": rate or 10.0} if live else {"rate": rate}
    production = Production(topic, csv, selection, partitions, append=append, faults=faults, seed=seed, **pace)
    if broker:
        _produce_into_own(production, address_file)
    else:
        given = _options(options_file, options)
        if bootstrap_servers or SERVERS not in given:
            given[SERVERS] = bootstrap_servers or os.environ.get("LAKEHOUSE_KAFKA") or "127.0.0.1:9092"
        if version := os.environ.get("LAKEHOUSE_KAFKA_VERSION"):
            given.setdefault(API_VERSION, version)
        with stopped_by_signals("stopping") as stop:
            _produce(production, given, stop)


def _options(path: Path | None, options: tuple[str, ...]) -> dict[str, str]:
    """Those of the file, and above them those of the command line."""
    import yaml

    found: object = {}
    if path:
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise click.BadParameter(f"{path} cannot be read: {error}", param_hint="--options-file") from error
    if not isinstance(found, dict):
        raise click.BadParameter(f"{path} is no mapping of names to values", param_hint="--options-file")
    given = {str(name): str(value).lower() if isinstance(value, bool) else str(value) for name, value in found.items()}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise click.BadParameter(f"{option!r} is not NAME=VALUE", param_hint="--option")
        given[name.strip()] = value.strip()
    return given


def _produce(
    production: Production,
    options: dict[str, str],
    stop: threading.Event,
    ready: Callable[[], object] = lambda: None,
) -> None:
    from lakehouse_assets.simulators.kafka import Summary, produce
    from lakehouse_assets.simulators.kafka_client import client_of

    where = f"{production.topic} at {options[SERVERS]}"

    def done(summary: Summary) -> None:
        say(str(summary))
        ready()
        if production.live:
            say(f"sending {production.live:g} made-up days a second to {where} until stopped (Ctrl-C)")

    with RowProgress() as progress:
        progress.start(where)
        client = client_of(options, os.environ, production.topic)
        summary = produce(production, client, stop=stop, ready=done, progress=lambda n: progress.rows(where, n))
    if production.live:
        say(str(summary))


def _produce_into_own(production: Production, address_file: Path | None) -> None:
    from lakehouse_assets.simulators.kafka_mock import PARTITIONS, VERSION, mock_cluster

    if production.partitions != PARTITIONS:
        raise click.UsageError(f"the mock cluster makes topics of {PARTITIONS} partitions: leave out --partitions")
    with stopped_by_signals("stopping") as stop, mock_cluster() as address, ExitStack() as opened:
        if address_file:
            address_file.unlink(missing_ok=True)  # of a cluster that is gone
            opened.callback(address_file.unlink, missing_ok=True)

        def ready() -> None:
            if address_file:
                address_file.parent.mkdir(parents=True, exist_ok=True)
                new = address_file.with_name(address_file.name + ".new")
                new.write_text(address + "\n", encoding="utf-8")
                new.replace(address_file)
            say(f"a mock cluster, which forgets all at its end, listens on {address} until stopped (Ctrl-C)")
            say(f"  clients have to take it for an old broker: kafka.api.version={VERSION}")

        _produce(production, {SERVERS: address, API_VERSION: VERSION}, stop, ready)
        stop.wait()


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
