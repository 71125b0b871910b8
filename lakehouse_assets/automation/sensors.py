"""Sensors: what moved in the outside world, and what others wrote into the lake.

`sources` asks the source of each landed table for its newest position and requests a run where the table is behind.
`commits` reports commits that no run of Dagster made (the command line, an uploader at the edge), so that downstream
tables follow. Both take turns: a tick looks at as many tables as its time allows and goes on there the next time.
What belongs here: looking and requesting. What does not: reading or writing rows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import dagster as dg

from lakehouse_assets.assets import metadata
from lakehouse_assets.assets.factory import is_external
from lakehouse_assets.assets.naming import asset_key, digest
from lakehouse_assets.assets.partitions import event, moved, partitions_of, recorded, rows_of, versions
from lakehouse_assets.assets.resources import LakehouseResource, Project
from lakehouse_assets.assets.step import Destination
from lakehouse_assets.assets.watch import Look, look, watchable
from lakehouse_assets.automation.jobs import selection
from lakehouse_assets.entities.catalog import Catalog
from lakehouse_assets.entities.model import TableName

if TYPE_CHECKING:
    from lakehouse_assets.tables.base import Work

SOURCES, COMMITS = "sources", "commits"
INTERVAL_SECONDS = 30
TICK_SECONDS = 30.0
"""How long a tick looks; Dagster gives up on one after 60 s."""
DAYS = 100
"""How many days of a table a tick reports at most."""
FAILURES = 5
"""After so many failed runs over the same batch nothing more is requested: somebody has to look."""
BACKOFF_SECONDS = 60.0
"""How long to wait after the first failed run; twice as long after each further one."""
TABLE_TAG, BATCH_TAG = "lakehouse/table", "lakehouse/batch"
ACTIVE = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
T = TypeVar("T")


def build_sensors(
    project: Project, written: Mapping[TableName, Destination], status: dg.DefaultSensorStatus
) -> list[dg.SensorDefinition]:
    """The sensors of a catalog; none where there is nothing to look at."""
    watched = [written[table] for table in watchable(project.catalog) if table in written]
    found = [_source_sensor(project, watched, status)] if watched else []
    tables = stored(project.catalog, written)
    return [*found, _commit_sensor(project, tables, status)] if tables else found


def _source_sensor(
    project: Project, watched: Sequence[Destination], status: dg.DefaultSensorStatus
) -> dg.SensorDefinition:
    @dg.sensor(
        name=SOURCES,
        target=selection(watched),
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=status,
        description="Requests a run where the source of a landed table has something new",
    )
    def sources(context: dg.SensorEvaluationContext, lakehouse: LakehouseResource) -> dg.SensorResult:
        with lakehouse.open(project) as work:
            return SourceTick(work, context.instance, context.log.error).run(watched, context.cursor)

    return sources


def _commit_sensor(
    project: Project, tables: Sequence[TableName], status: dg.DefaultSensorStatus
) -> dg.SensorDefinition:
    @dg.sensor(
        name=COMMITS,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=status,
        description="Reports commits that no run of Dagster made, so that downstream tables follow",
    )
    def commits(context: dg.SensorEvaluationContext, lakehouse: LakehouseResource) -> dg.SensorResult:
        with lakehouse.open(project) as work:
            return CommitTick(work, context.instance, context.log.error).run(tables, context.cursor)

    return commits


def stored(catalog: Catalog, written: Mapping[TableName, Destination]) -> list[TableName]:
    """Every asset of the graph that is a table of the lake."""
    uploaded = [
        table for table, feeds in catalog.destinations.items() if is_external(feeds) and feeds[0].kind != "view"
    ]
    return [*uploaded, *(output for made in written.values() for output in made.outputs)]


@dataclass(frozen=True)
class Turn:
    """Takes turns over several ticks: as many as the time allows, then on from there."""

    seconds: float = TICK_SECONDS
    monotonic: Callable[[], float] = time.monotonic

    def take(self, items: Sequence[T], cursor: str | None) -> Iterator[tuple[str, T]]:
        """The items of this tick, each with the cursor from which the next tick goes on after it; at least one."""
        first = int(json.loads(cursor).get("next", 0)) if cursor else 0
        until = self.monotonic() + self.seconds
        for step in range(len(items)):
            at = (first + step) % len(items)
            yield json.dumps({"next": (at + 1) % len(items)}), items[at]
            if self.monotonic() >= until:
                return


@dataclass(frozen=True)
class SourceTick:
    """One tick of the sensor that looks at sources."""

    work: Work
    instance: dg.DagsterInstance
    log: Callable[[str], object]
    now: Callable[[], float] = time.time
    turn: Turn = Turn()

    def run(self, watched: Sequence[Destination], cursor: str | None) -> dg.SensorResult:
        """Look at the tables whose turn it is, and request runs where one is behind."""
        active = active_assets(self.instance)
        requests: list[dg.RunRequest] = []
        told: list[str] = []
        after = cursor
        for after, made in self.turn.take(watched, cursor):  # noqa: B007 - the last one is used
            found = self._look(made, active)
            if isinstance(found, dg.RunRequest):
                requests.append(found)
            elif found:
                told.append(f"{made.table}: {found}")
        if requests:
            return dg.SensorResult(run_requests=requests, cursor=after)
        return dg.SensorResult(skip_reason="; ".join(told) or "nothing new", cursor=after)

    def _look(self, made: Destination, active: set[dg.AssetKey]) -> dg.RunRequest | str:
        if active & {asset_key(output) for output in made.outputs}:
            return "a run is active"
        try:
            looks = [look(self.work, feed) for feed in made.feeds]
        except Exception as error:  # one broken source, in whatever way, must not stop the others
            self.log(f"{made.table}: {type(error).__name__}: {error}")
            return f"its source cannot be read ({type(error).__name__})"
        if not any(one.is_behind for one in looks):
            return ""
        return self._request(made, looks)

    def _request(self, made: Destination, looks: Sequence[Look]) -> dg.RunRequest | str:
        table = str(made.table)
        batch = digest(json.dumps([(one.feed, one.number) for one in looks]))
        latest = digest(json.dumps([one.latest for one in looks], sort_keys=True))
        failed = self.instance.get_run_records(
            dg.RunsFilter(tags={TABLE_TAG: table, BATCH_TAG: batch}, statuses=[dg.DagsterRunStatus.FAILURE]),
            limit=FAILURES,
        )
        attempts = len(failed)
        if attempts >= FAILURES:
            self.log(
                f"{table}: {attempts} runs over the same batch failed; nothing more is requested until one succeeds"
            )
            return f"gave up after {attempts} failed runs: see their errors, mend the cause and materialize it by hand"
        if attempts:
            ended = max(record.end_time or record.update_timestamp.timestamp() for record in failed)
            wait = ended + BACKOFF_SECONDS * 2 ** (attempts - 1) - self.now()
            if wait > 0:
                return f"waits {wait:.0f} s after {attempts} failed runs"
        return dg.RunRequest(
            run_key=f"{table}:{batch}:{latest}:{attempts}",
            asset_selection=[asset_key(output) for output in made.outputs],
            tags={TABLE_TAG: table, BATCH_TAG: batch},
        )


@dataclass(frozen=True)
class CommitTick:
    """One tick of the sensor that looks for commits of others."""

    work: Work
    instance: dg.DagsterInstance
    log: Callable[[str], object]
    turn: Turn = Turn()

    def run(self, tables: Sequence[TableName], cursor: str | None) -> dg.SensorResult:
        """Report the tables whose data differs from what was reported last.

        A table is opened before the runs are listed: what a run committed by then is either reported by it already,
        or the run is still active and its table is left for the next tick. So nothing is reported twice.
        """
        opened: dict[TableName, metadata.State] = {}
        days: dict[TableName, Mapping[str, str]] = {}
        after = cursor
        for after, table in self.turn.take(tables, cursor):  # noqa: B007 - the last one is used
            key = asset_key(table)
            try:
                if partitions_of(self.work.catalog, table) is not None:
                    days[table] = versions(self.work, table)
                    continue
                found = metadata.state(self.work, table, metadata.recorded_version(self.instance, key))
            except Exception as error:  # one broken table must not stop the others
                self.log(f"{table}: {type(error).__name__}: {error}")
                continue
            if found is not None:
                opened[table] = found
        active = active_assets(self.instance)
        events = [
            self._event(table, found)
            for table, found in opened.items()
            if asset_key(table) not in active
            and found.data_version != metadata.recorded_version(self.instance, asset_key(table))
        ]
        for table, now in days.items():
            if asset_key(table) not in active:
                events += self._days(table, now)
        skip = None if events else "nothing that others wrote"
        return dg.SensorResult(asset_events=events, skip_reason=skip, cursor=after)

    def _days(self, table: TableName, now: Mapping[str, str]) -> Iterator[dg.AssetMaterialization]:
        """The days of a table that others made; of very many some wait for the next tick."""
        definition = partitions_of(self.work.catalog, table)
        assert definition is not None
        found = [key for key in moved(now, recorded(self.instance, table)) if definition.has_partition_key(key)]
        rows = rows_of(self.work, table, found[:DAYS]) if found else {}
        for key in found[:DAYS]:
            facts = {"dagster/partition_row_count": rows.get(key, 0)}
            yield event(self.work.catalog, table, key, now[key], **facts)

    def _event(self, table: TableName, found: metadata.State) -> dg.AssetMaterialization:
        comments = {
            name: text
            for feed in self.work.catalog.destinations[self.work.catalog.base(table)]
            for name, text in feed.lakehouse.columns.items()
        }
        facts = metadata.of_table(self.work, found.handle, comments)
        return dg.AssetMaterialization(
            asset_key(table),
            description="Committed outside Dagster",
            metadata=facts,
            tags={metadata.DATA_VERSION: found.data_version},
        )


def active_assets(instance: dg.DagsterInstance) -> set[dg.AssetKey]:
    """The assets that runs which have not ended yet are going to write."""
    found: set[dg.AssetKey] = set()
    for record in instance.get_run_records(dg.RunsFilter(statuses=list(ACTIVE))):
        run = record.dagster_run
        if run.asset_selection:
            found |= set(run.asset_selection)
            continue
        planned = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
        found |= {
            entry.dagster_event.asset_key for entry in planned if entry.dagster_event and entry.dagster_event.asset_key
        }
    return found
