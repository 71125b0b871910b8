"""The sensor of extracts: which days the source has new or otherwise than they were extracted.

A day that the source has and the lake has not is noticed at the next tick. Of the others row counts are compared first,
then checksums, for which the source has to read the day: for a few seconds a tick, day after day, and the next tick
goes on there. So a correction is noticed however old its day is. Days that follow each other are requested as one run;
days that failed before are requested apart from the others, later and later, and after some failures no more.
What belongs here: looking and requesting. What does not: reading rows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, cast

import dagster as dg

from lakehouse_assets.assets.naming import asset_key, digest
from lakehouse_assets.assets.partitions import partitions_of
from lakehouse_assets.assets.resources import LakehouseResource, Project
from lakehouse_assets.assets.step import Destination
from lakehouse_assets.automation.jobs import selection
from lakehouse_assets.automation.sensors import (
    BACKOFF_SECONDS,
    FAILURES,
    INTERVAL_SECONDS,
    TABLE_TAG,
    TICK_SECONDS,
    active_assets,
)
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import LakehouseError

if TYPE_CHECKING:
    from lakehouse_assets.sources.base import PartitionedSource
    from lakehouse_assets.tables.base import Work

PARTITIONS = "partitions"
FIRST_TAG, LAST_TAG = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
SAID_TAG = "lakehouse/said"
"""The tag that says what a source said of the days of a run, and what was extracted of them before."""
REQUESTS = 10
"""Runs that one tick requests of one table at most; a run is about days that follow each other."""
GAP_DAYS = 10
"""How many days may lie between two days of one run: weekends and holidays, of which the source has nothing."""
CHECKSUM_SECONDS = 5.0
"""How long a tick has checksums made at the sources."""
FAILED_RUNS = 50
"""How many failed runs are remembered."""
_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE)


def build_partition_sensors(
    project: Project, written: Mapping[TableName, Destination], status: dg.DefaultSensorStatus
) -> list[dg.SensorDefinition]:
    """The sensor of the extracts that have partitions; none where there is no extract."""
    extracts = [
        made
        for table, made in written.items()
        if made.feeds[0].kind == "extract" and partitions_of(project.catalog, table) is not None
    ]
    return [_sensor(project, extracts, status)] if extracts else []


def _sensor(project: Project, extracts: Sequence[Destination], status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    @dg.sensor(
        name=PARTITIONS,
        asset_selection=selection(extracts),  # they may differ in their days, and then no job has them all
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=status,
        description="Requests runs over days that a source has new, or otherwise than they were extracted",
    )
    def partitions(context: dg.SensorEvaluationContext, lakehouse: LakehouseResource) -> dg.SensorResult:
        with lakehouse.open(project) as work:
            return PartitionTick(work, context.instance, context.log.error).run(extracts, context.cursor)

    return partitions


@dataclass(frozen=True)
class Seen:
    """What a tick saw of an extract.

    Attributes:
        behind: day -> what was extracted of it, and what the source says of it now.
        order: all days that the source has, in order.
        outside: days that the source has and the graph has not.
        after: the days after which the comparison of row counts, and of checksums, goes on.
    """

    behind: Mapping[str, str]
    order: Sequence[str]
    outside: Sequence[str]
    after: tuple[str, str]


@dataclass(frozen=True)
class PartitionTick:
    """One tick: `cursor` says with which day of each extract the comparison goes on."""

    work: Work
    instance: dg.DagsterInstance
    log: Callable[[str], object]
    seconds: float = TICK_SECONDS
    checksum_seconds: float = CHECKSUM_SECONDS
    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time

    def run(self, extracts: Sequence[Destination], cursor: str | None) -> dg.SensorResult:
        """Look at every extract, each for its share of the time."""
        after: dict[str, list[str]] = json.loads(cursor) if cursor else {}
        active = active_assets(self.instance)
        requests: list[dg.RunRequest] = []
        told: list[str] = []
        for made in extracts:
            name = str(made.table)
            if asset_key(made.table) in active:
                told.append(f"{name}: a run is active")
                continue
            try:
                seen = self._look(made, after.get(name, ["", ""]), len(extracts))
            except Exception as error:  # one broken source must not stop the others
                self.log(f"{name}: {type(error).__name__}: {error}")
                told.append(f"{name}: its source cannot be read ({type(error).__name__})")
                continue
            after[name] = list(seen.after)
            asked = list(self._requests(made, seen))
            requests += [one for one in asked if isinstance(one, dg.RunRequest)][:REQUESTS]
            told += [f"{name}: {one}" for one in (*asked, _outside(seen)) if isinstance(one, str) and one]
        skip = None if requests else "; ".join(told) or "nothing new"
        return dg.SensorResult(run_requests=requests, skip_reason=skip, cursor=json.dumps(after))

    def _look(self, made: Destination, after: Sequence[str], among: int) -> Seen:
        """Compare what the source says with what was extracted."""
        from lakehouse_assets.tables.extract import extracts_of

        entity, until = _in_time(made.feeds[0], self.seconds / among), self.monotonic() + self.seconds / among
        store, days = extracts_of(self.work, entity), partitions_of(self.work.catalog, made.table)
        assert days is not None
        with self.work.open_source(entity) as opened:
            source = cast("PartitionedSource", opened)
            offered = source.partitions()
            order = [key for key in offered if days.has_partition_key(key)]
            held = set(store.partitions())
            behind = {key: f" {offered[key]}" for key in order if key not in held}
            prints: dict[str, str] = {}
            counted, summed = after
            for key in self._turn([key for key in order if key in held], counted, until):
                counted, old = key, store.find(key)
                prints[key] = old.fingerprint if old else ""
                if old is None or str(old.rows) != offered[key]:
                    behind[key] = f"{prints[key]} {offered[key]}"
            same = [key for key in order if key in prints and key not in behind]
            for key in self._turn(same, summed, min(until, self.monotonic() + self.checksum_seconds / among)):
                summed = key
                try:
                    now = str(source.fingerprint(key))
                except LakehouseError as error:  # what was found is requested, and the next tick goes on behind it
                    self.log(f"{made.table}: {key} could not be compared: {error}")
                    break
                if now != prints[key]:
                    behind[key] = f"{prints[key]} {now}"
        return Seen(behind, order, [key for key in offered if not days.has_partition_key(key)], (counted, summed))

    def _turn(self, days: Sequence[str], after: str, until: float) -> Iterator[str]:
        """The days behind the one with which the last tick ended, then the others; at least one, until it is time."""
        for day in [day for day in days if day > after] + [day for day in days if day <= after]:
            yield day
            if self.monotonic() >= until:
                return

    def _requests(self, made: Destination, seen: Seen) -> Iterator[dg.RunRequest | str]:
        """Runs over the days that are behind: those that failed before apart from the others."""
        failed = self._failed(str(made.table))
        suspect = {day for day in seen.behind if any(first <= day <= last for first, last in failed)}
        for apart in (False, True):
            wanted = {day for day in seen.behind if (day in suspect) == apart}
            for days in in_a_row(seen.order, wanted):
                yield self._request(made, days, seen.behind)

    def _failed(self, table: str) -> list[tuple[str, str]]:
        """The ranges of days of the last runs that failed."""
        wanted = dg.RunsFilter(tags={TABLE_TAG: table}, statuses=[dg.DagsterRunStatus.FAILURE])
        runs = self.instance.get_runs(wanted, limit=FAILED_RUNS)
        return [(run.tags[FIRST_TAG], run.tags[LAST_TAG]) for run in runs if {FIRST_TAG, LAST_TAG} <= set(run.tags)]

    def _request(self, made: Destination, days: Sequence[str], behind: Mapping[str, str]) -> dg.RunRequest | str:
        """A run over days that follow each other; asked for once, and again when it has ended in vain."""
        table, span = str(made.table), days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        said = digest(json.dumps([(day, behind[day]) for day in days]))
        ended = self.instance.get_run_records(
            dg.RunsFilter(tags={TABLE_TAG: table, SAID_TAG: said}, statuses=list(_ENDED)), limit=FAILURES
        )
        attempts = len(ended)
        if attempts >= FAILURES:
            self.log(f"{table}: {attempts} runs over {span} ended in vain; nothing more is requested of it")
            return f"{span}: gave up after {attempts} runs: see their errors, mend the cause and materialize it by hand"
        if attempts:
            last = max(record.end_time or record.update_timestamp.timestamp() for record in ended)
            wait = last + BACKOFF_SECONDS * 2 ** (attempts - 1) - self.now()
            if wait > 0:
                return f"{span}: waits {wait:.0f} s after {attempts} runs that ended in vain"
        return dg.RunRequest(
            run_key=f"{table}:{days[0]}:{days[-1]}:{said}:{attempts}",
            asset_selection=[asset_key(made.table)],
            tags={TABLE_TAG: table, SAID_TAG: said, FIRST_TAG: days[0], LAST_TAG: days[-1]},
        )


def _in_time(entity: Entity, seconds: float) -> Entity:
    """The entity, with a time limit for an answer of its source: one that stalls must not hold up the others."""
    name = "kdb.timeout"
    limit = min(seconds, float(entity.read_options.get(name, seconds)))
    return entity.model_copy(update={"read_options": {**entity.read_options, name: f"{limit:g}"}})


def _outside(seen: Seen) -> str:
    """Which days nobody asks for, because the graph has not got them."""
    if not seen.outside:
        return ""
    first, last = seen.outside[0], seen.outside[-1]
    span = first if first == last else f"from {first} to {last}"
    return (
        f"{len(seen.outside)} day(s) of its source ({span}) are left out: they are not among the days of the table, "
        "which begin with `partitions: start`"
    )


def in_a_row(order: Sequence[str], wanted: set[str]) -> list[list[str]]:
    """The wanted days in groups that follow each other in `order` and in time: a run takes a range of days."""
    groups: list[list[str]] = []
    before = ""
    for day in order:
        if day in wanted:
            if groups and groups[-1][-1] == before and _days(before, day) <= GAP_DAYS:
                groups[-1].append(day)
            else:
                groups.append([day])
        before = day
    return groups


def _days(first: str, last: str) -> int:
    return (date.fromisoformat(last) - date.fromisoformat(first)).days
