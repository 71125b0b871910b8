"""`lakehouse prove`: kill a catalog's runs on a scratch lake, run them again, and compare whole tables.

What belongs here: what is proved and where, progress, the report, the way to an object store that can be cut.
What does not: the proof (`lakehouse_assets/prove/`).
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lakehouse_assets.cli.options import catalog_option, engine_option, format_option, open_settings
from lakehouse_assets.cli.output import print_rows, say
from lakehouse_assets.errors import SettingsError

if TYPE_CHECKING:
    from lakehouse_assets.entities.catalog import Catalog
    from lakehouse_assets.entities.model import TableName
    from lakehouse_assets.prove.proof import Loss, Point, Prover, Trial, Wire
    from lakehouse_assets.settings import Settings
    from lakehouse_assets.simulators.faulty_store import FaultyProxy

COLUMNS = ("round", "table", "step", "write", "killed", "engine", "state", "seconds", "difference")
SENSORS, KAFKA, KAFKA_VERSION = "LAKEHOUSE_SENSOR_DB", "LAKEHOUSE_KAFKA", "LAKEHOUSE_KAFKA_VERSION"
KDB, KDB_PORT = "LAKEHOUSE_KDB_HOST", "LAKEHOUSE_KDB_PORT"
PRICES = 4_000
"""Messages of the topic that stands for a broker's."""
TRADES = 100
"""Trades of a day of the stand-in for a kdb+ process."""


@click.command()
@click.argument("selection", default="*")
@catalog_option
@engine_option
@click.option(
    "--root",
    metavar="URI",
    help="Where the scratch lakes stand: a directory or an object store; a place of their own is made there, and "
    "removed (default: the system's directory for temporary files; LAKEHOUSE_ROOT is not touched).",
)
@click.option("--all", "everything", is_flag=True, help="Every point, not a sample.")
@click.option("--samples", type=click.IntRange(min=1), default=20, show_default=True, help="How many points.")
@click.option("--seed", type=int, help="What chance is drawn from; printed, so that it can be given again.")
@click.option(
    "--rows", "most", type=click.IntRange(min=1), default=1000, show_default=True, help="Rows or files of a batch."
)
@format_option("table", "json", "csv")
def prove(
    selection: str,
    catalog: Path | None,
    engine: str | None,
    root: str | None,
    everything: bool,
    samples: int,
    seed: int | None,
    most: int,
    form: str,
) -> None:
    """Kill the runs of a catalog with SIGKILL, run them again, and compare every table with that of a clean run.

    \b
    lakehouse prove                                  a sample of kills, the shipped catalog on simulated sources
    lakehouse prove --catalog DIR --all              your tables, your sources, every kill there is
    lakehouse prove --catalog DIR silver.orders+     these tables (what they are made from is run, not killed)
    lakehouse prove --catalog DIR --root s3://bucket/scratch

    Sources are read, never written; of each a few batches are read. Your lake is not touched: everything happens in
    scratch lakes. Exit code 1 if a table differed or no kill was reached.
    """  # noqa: D301
    seed = random.SystemRandom().randrange(1 << 30) if seed is None else seed
    say(f"seed {seed}")
    with _prover(selection, catalog, engine, root, seed, most) as prover:
        trials = list(_trials(prover, None if everything else samples, seed))
    print_rows([trial.row() for trial in trials], COLUMNS, form)
    _conclude(trials)


def _trials(prover: Prover, samples: int | None, seed: int) -> Iterator[Trial]:
    """The clean rounds, then a trial for each point, each told when it is done."""
    from lakehouse_assets.prove.proof import sample

    points: Sequence[Point] = prover.points(lambda round_: say(f"clean run: {round_.name}"))
    chosen = points if samples is None else sample(points, samples, seed)
    say(f"{len(points)} points, {len(chosen)} of them are tried")
    for count, point in enumerate(chosen, 1):
        trial = prover.trial(point)
        where = f"{point.round.name} {point.table}: {point.step} {point.write}, {point.moment}"
        say(f"{count}/{len(chosen)} {where}: {trial.state} ({trial.seconds:.1f} s)")
        yield trial


def _conclude(trials: Sequence[Trial]) -> None:
    count = {state: sum(trial.state == state for trial in trials) for state in ("equal", "different", "not reached")}
    killed = sum(trial.killed for trial in trials)
    say(f"{killed} kills: {count['equal']} equal, {count['different']} different; {count['not reached']} not reached")
    if count["different"] or not killed:
        raise click.exceptions.Exit(1)


@contextmanager
def _prover(
    selection: str, catalog: Path | None, engine: str | None, root: str | None, seed: int, most: int
) -> Iterator[Prover]:
    from lakehouse_assets.entities.catalog import load_catalog
    from lakehouse_assets.prove.nursery import Nursery
    from lakehouse_assets.prove.proof import Proof, Prover

    with ExitStack() as opened:
        desk = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="lakehouse-prove-")))
        place = f"{root.rstrip('/')}/prove-{seed}-{os.getpid()}-{time.time_ns():x}" if root else str(desk / "lakes")
        settings = open_settings(catalog=catalog, root=place, engine=engine)
        environ = _with_prices(settings, _with_sensors(settings, desk), opened)
        environ = _with_market(settings, environ, opened)
        entities = load_catalog(settings.catalog, environ)
        tables = _runnable(entities, entities.select(selection))
        wire = opened.enter_context(_wire(settings))
        nursery = opened.enter_context(Nursery(settings.engine, environ))
        proof = Proof(settings, entities, environ, tables, place, desk, seed, most, wire, clock=datetime.now(UTC))
        prover = Prover(proof, nursery)
        opened.callback(prover.close)
        yield prover


def _with_sensors(settings: Settings, desk: Path) -> dict[str, str]:
    """The environment; for the shipped catalog without a database of sensors, with a simulated one."""
    from lakehouse_assets.settings import PACKAGED_CATALOG

    environ = dict(os.environ)
    if settings.catalog != PACKAGED_CATALOG or SENSORS in environ:
        return environ
    from lakehouse_assets.simulators.sensors import write_history

    start = datetime(2025, 5, 1, tzinfo=UTC)
    summary = write_history(desk / "sensors.db", start=start, hours=3, wal=True)
    say(f"simulated sensors: {summary}")
    return {**environ, SENSORS: str(desk / "sensors.db")}


def _with_prices(settings: Settings, environ: dict[str, str], opened: ExitStack) -> dict[str, str]:
    """The environment; for the shipped catalog without a broker, with a mock cluster that holds prices."""
    from lakehouse_assets.settings import PACKAGED_CATALOG

    if settings.catalog != PACKAGED_CATALOG or KAFKA in environ:
        return environ
    from lakehouse_assets.simulators.kafka import TOPIC, Production, produce
    from lakehouse_assets.simulators.kafka_mock import VERSION, mock_client
    from lakehouse_assets.simulators.kafka_prices import Selection

    client = opened.enter_context(mock_client(environ, TOPIC))
    summary = produce(Production(TOPIC, selection=Selection(rows=PRICES), faults=9), client)
    say(f"prices in a mock cluster: {summary}")
    return {**environ, KAFKA: client.servers, KAFKA_VERSION: VERSION}


def _with_market(settings: Settings, environ: dict[str, str], opened: ExitStack) -> dict[str, str]:
    """The environment; for the shipped catalog without a kdb+ process, with a stand-in for one."""
    from lakehouse_assets.settings import PACKAGED_CATALOG

    if settings.catalog != PACKAGED_CATALOG or KDB in environ:
        return environ
    from lakehouse_assets.simulators.kdb import KdbServer
    from lakehouse_assets.simulators.kdb_config import KdbConfig

    server = opened.enter_context(KdbServer(KdbConfig(symbols=3, rows=TRADES)))
    say(f"trades and quotes of {len(server.config.dates)} days on a stand-in for a kdb+ process")
    return {**environ, KDB: server.host, KDB_PORT: str(server.port)}


def _runnable(catalog: Catalog, tables: Sequence[TableName]) -> tuple[TableName, ...]:
    """The tables that a run writes; what is left out is told.

    Raises:
        SettingsError: none is left.
    """
    from lakehouse_assets.sources.base import FORMATS

    left_out: dict[TableName, str] = {}
    for table in catalog.order():
        entities = catalog.destinations[table]
        outside = [entity for entity in entities if entity.kind in ("landed", "extract")]
        foreign = [entity.source_format for entity in outside if entity.source_format not in FORMATS]
        above = [catalog.base(name) for name in catalog.upstreams(table) if catalog.base(name) in left_out]
        if foreign:
            left_out[table] = f"{foreign[0]} is not run by this version"
        elif any(entity.lakehouse.landed_by == "upload" for entity in entities):
            left_out[table] = "written by an uploader"
        elif above:
            left_out[table] = f"made from {above[0]}"
    for table in tables:
        if table in left_out:
            say(f"left out: {table} ({left_out[table]})")
    kept = tuple(table for table in tables if table not in left_out)
    if not kept:
        raise SettingsError("none of the tables is written by a run", fix="select others: lakehouse prove SELECTION")
    return kept


@contextmanager
def _wire(settings: Settings) -> Iterator[Wire | None]:
    """The way to the object store where it can be watched: plain HTTP; elsewhere kills go by time."""
    from lakehouse_assets.lake.storage import Storage

    endpoint = Storage.of(settings, os.environ).options.get("AWS_ENDPOINT_URL", "")
    if not settings.root.startswith("s3") or not endpoint.startswith("http://"):
        yield None
        return
    from lakehouse_assets.simulators.faulty_store import FaultyProxy

    with FaultyProxy(endpoint) as proxy:
        yield ProxyWire(proxy)


class ProxyWire:
    """A proxy before the object store, as a proof uses it."""

    def __init__(self, proxy: FaultyProxy) -> None:
        self._proxy = proxy
        self.url = proxy.url

    def writes(self) -> list[tuple[str, str]]:
        """Method and path of the requests so far that changed what is stored."""
        return [(method, path) for method, path in self._proxy.requests if method in ("PUT", "POST", "DELETE")]

    def cut(self, method: str, number: int, loss: Loss, then: Callable[[], object]) -> None:
        """Lose the n-th request of a method from now on, or its answer, and call `then`."""
        from lakehouse_assets.simulators.faulty_store import Fault

        share: dict[str, Any] = {
            "request lost": {"request": 0.0}, "request cut": {"request": 0.5}, "answer lost": {"response": 0.0}
        }[loss]  # fmt: skip
        self._proxy.at(number, Fault(call=then, **share), method=method)

    def mend(self) -> None:
        """Lose nothing any more."""
        self._proxy.heal()
