"""The edge uploader: new rows of a SQLite table are appended to a Delta table that keeps its plans beside it.

What belongs here: the work of one uploader, and the loop around it. What does not: its configuration
(`upload_config.py`), signals and printing (`cli/upload.py`), how a batch is written (`refresh.py`).

The table is one of no lake: its plans stand in `<table_path>__batches`, its quarantine in `<table_path>_quarantine`.
A node is known by `node_id` alone, so that many nodes, whatever their paths, feed one table.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event, wait_random_exponential
from tenacity.stop import stop_after_attempt, stop_any, stop_base, stop_never, stop_when_event_set

from lakehouse_assets.engines.base import open_engine
from lakehouse_assets.entities.catalog import Catalog
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import (
    IncarnationChanged,
    LakehouseError,
    SettingsError,
    SourceMissing,
    TransientError,
)
from lakehouse_assets.lake.names import FeedName, Lake
from lakehouse_assets.lake.plans import Plan, PlanBook
from lakehouse_assets.lake.storage import Storage, normalize
from lakehouse_assets.secrets import resolve
from lakehouse_assets.settings import Settings
from lakehouse_assets.sources.base import Notice
from lakehouse_assets.tables.base import Draft, Feed, Idle, Outcome, Work
from lakehouse_assets.tables.refresh import preview, refresh
from lakehouse_assets.tables.upload_config import UploadConfig

TABLE = TableName("edge", "upload")
"""The name of an uploaded table, the same for every path: a table that is moved or mounted elsewhere stays its own."""
ATTEMPTS = 6
"""How often a batch is tried when the uploader is to run once."""
LONGEST = 300.0
"""Seconds between two attempts at most."""


@dataclass(frozen=True)
class UploadWork(Work):
    """Work on one table that stands by itself."""

    table_path: str = ""
    node_id: str = ""

    @property
    def book(self) -> PlanBook:
        """The plans, beside the table."""
        return PlanBook(f"{self.table_path}__batches", self.lake.storage)

    def uri(self, table: TableName) -> str:
        """The table, and the tables beside it: its quarantine."""
        return self.table_path + table.name.removeprefix(TABLE.name)

    def feed_name(self, entity: Entity, partition: str = "") -> FeedName:
        """The node, never a path or a host."""
        return FeedName("upload", self.node_id)


def open_upload(config: UploadConfig, settings: Settings, environ: Mapping[str, str], **more: Any) -> UploadWork:
    """The work that a configuration describes; `more` sets fields of `Work`. Opens nothing yet.

    Raises:
        SettingsError: `table_path` has no place for the tables beside it, or a secret has no value.
        RootUnusable: it is in no store that there is.
    """
    path = normalize(config.table_path)
    root, _, name = path.rpartition("/")
    if not name or root.endswith(":/"):
        raise SettingsError(
            "table_path must name a directory below a root: the plans stand beside it",
            value=config.table_path,
            fix="write s3://bucket/prefix/table or /directory/table",
        )
    options = {key: resolve(value, environ) for key, value in config.storage_options.items()}
    storage = Storage(dict(Storage.of(settings, environ).options) | options)
    engine = open_engine(settings, storage)
    return UploadWork(
        Catalog((entity_of(config),)),
        Lake(root, storage),
        engine,
        table_path=path,
        node_id=config.node_id or "",
        **more,
    )


def entity_of(config: UploadConfig) -> Entity:
    """The entity that an uploader runs: its rows as received, with the node in `_source`."""
    reads = {
        "sqlite.table": config.table,
        "sqlite.cursor": config.timestamp_col,
        "sqlite.maxRowsPerBatch": str(config.batch_rows),
    }
    block = {"feed": config.node_id, "lookback": config.lookback, "source_timezone": config.source_timezone}
    return Entity(
        entity_id="upload",
        source=config.sqlite,
        source_format="sqlite",
        destination=str(TABLE),
        comment="Rows that edge nodes uploaded, as received",
        read_options={key: value for key, value in reads.items() if value is not None},
        lakehouse=block,
    )


def upload(work: UploadWork, *, rebuild: bool = False) -> Iterator[Outcome]:
    """Append what is new, batch by batch.

    Args:
        rebuild: start the table over from the database.

    Raises:
        LakehouseError: with remedies that an uploader has.
    """
    try:
        if rebuild:
            _refuse_others(work)
        yield from refresh(work, TABLE, rebuild=rebuild)
    except LakehouseError as error:
        raise of_uploader(error) from error


def what_next(work: UploadWork, *, rebuild: bool = False) -> Iterator[tuple[Feed, Plan | Draft | Idle]]:
    """What `upload` would do first; writes nothing."""
    try:
        if rebuild:
            _refuse_others(work)
        yield from preview(work, TABLE, rebuild=rebuild)
    except LakehouseError as error:
        raise of_uploader(error) from error


def nodes(work: UploadWork) -> list[str]:
    """The nodes that fed the table; one without `node_id` is an empty name."""
    engine = work.engine
    plans = engine.find(work.book.uri)
    if plans is None:
        return []
    found = engine.rows(engine.query("SELECT DISTINCT feed FROM plans", {"plans": engine.read(plans)}))
    return sorted(row["feed"] for row in found)


def _refuse_others(work: UploadWork) -> None:
    others = [repr(node) for node in nodes(work) if node != work.node_id]
    if others:
        raise SettingsError(
            f"a rebuild of {work.table_path} would remove the rows of other nodes: {', '.join(others)}",
            fix="give this node a new node_id: then its database is uploaded from the start, beside what is there",
        )


_REMEDY = re.compile(r"lakehouse run (--[a-z-]+) (?:edge\.)?upload\b")


def for_uploader(text: str) -> str:
    """`text` with the remedies of an uploader in place of those of `lakehouse run`."""
    return _REMEDY.sub(r"lakehouse upload --config FILE \1", text)


def of_uploader(error: LakehouseError) -> LakehouseError:
    """The same error with remedies that an uploader has."""
    fix = for_uploader(error.fix or "")
    if isinstance(error, IncarnationChanged):
        fix = (
            "if another node feeds this table too, give each its own node_id; if the database was replaced, bring the "
            "old one back, or give the node a new node_id (the new database is uploaded from its start, beside what is "
            "there), or start the table over: lakehouse upload --config FILE --full-refresh"
        )
    return type(error)(
        for_uploader(error.problem), value=error.value, choices=error.choices, fix=fix or None, **error.facts
    )


class Uploader:
    """Uploads once, or until it is stopped.

    Args:
        config: see `UploadConfig`.
        work: what `open_upload` gave.
        stop: set it, and the uploader ends after the batch at hand.
        say: told a line for people.
    """

    def __init__(
        self, config: UploadConfig, work: UploadWork, stop: threading.Event, say: Callable[[str], None]
    ) -> None:
        self._interval = config.interval
        self._work = replace(work, notify=lambda _, notices: self._tell(notices))
        self._stop = stop
        self._say = say
        self._rebuild = self._started = False
        self._told: set[str] = set()

    def once(self, *, rebuild: bool = False) -> None:
        """Upload what is there.

        Raises:
            LakehouseError: terminal, or transient and not gone after some attempts.
        """
        self._rebuild = rebuild
        self._until_done(lambda error: error.transient, stop_after_attempt(ATTEMPTS))

    def run(self, *, rebuild: bool = False) -> None:
        """Upload until stopped; whatever fails is said and tried again, less and less often.

        Raises:
            SourceMissing, SettingsError: at the start, what the configuration names is not there or not legal.
        """
        self._rebuild = rebuild
        while not self._stop.is_set():
            self._until_done(self._may_mend, stop_never)
            self._stop.wait(self._interval)

    def _may_mend(self, error: LakehouseError) -> bool:
        return self._started or not isinstance(error, SourceMissing | SettingsError)

    def _until_done(self, may_mend: Callable[[LakehouseError], bool], attempts: stop_base) -> None:
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, LakehouseError) and may_mend(error)),
            stop=stop_any(attempts, stop_when_event_set(self._stop)),
            wait=wait_random_exponential(multiplier=min(1.0, self._interval), max=LONGEST),
            sleep=sleep_using_event(self._stop),
            before_sleep=self._failed,
            reraise=True,
        )
        try:
            retrying(self._cycle)
        except LakehouseError as error:
            if not self._stop.is_set() or not may_mend(error):
                raise
            self._say(f"stopped while this was wrong: {error}")

    def _failed(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        kind = "transient" if isinstance(error, TransientError) else "needs somebody"
        self._say(
            f"FAILED ({kind}; attempt {state.attempt_number}, the next one in {state.upcoming_sleep:.1f} s): {error}"
        )

    def _cycle(self) -> None:
        """Upload all that is there now; a stop is heeded between batches."""
        began, batches = time.monotonic(), 0
        for outcome in upload(self._work, rebuild=self._rebuild):
            self._rebuild = False
            self._started = True
            batches += 1
            self._tell(outcome.notices)
            self._say(_told(outcome, time.monotonic() - began))
            began = time.monotonic()
            if self._stop.is_set():
                return
        self._started = True
        if not batches:
            self._say("nothing new")

    def _tell(self, notices: Sequence[Notice]) -> None:
        """Say notices, each text once."""
        for notice in notices:
            if notice.message not in self._told:
                self._told.add(notice.message)
                self._say(f"notice {notice.code}: {for_uploader(notice.message)}")


def _told(outcome: Outcome, seconds: float) -> str:
    version = outcome.commits[TABLE].version
    apart = f", {outcome.quarantined:,} of them to quarantine" if outcome.quarantined else ""
    rate = outcome.rows_in / max(seconds, 1e-9)
    return (
        f"uploaded {outcome.rows_in:,} rows{apart} (batch {outcome.plan.number}, table version {version}, "
        f"{seconds:.1f} s, {rate:,.0f} rows/s)"
    )
