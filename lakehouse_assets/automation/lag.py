"""Lag: one sensor for each topic, which tells how many of its messages wait, whether a run is due or not.

It reports what it sees as an observation of the source and as a verdict of the check `lag` of the table, and requests
nothing: that is what the sensor `sources` does. What was reported and has not changed is not reported again.
What does not belong here: counting (`sources`), limits (`assets/checks.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from lakehouse_assets.assets import metadata
from lakehouse_assets.assets.naming import asset_key, distinct, source_key
from lakehouse_assets.assets.resources import LakehouseResource, Project
from lakehouse_assets.assets.step import Destination
from lakehouse_assets.assets.watch import look
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import LakehouseError
from lakehouse_assets.sources.kafka_options import topic_of

if TYPE_CHECKING:
    from lakehouse_assets.tables.base import Work

INTERVAL_SECONDS = 30
Seen = dict[str, int | None]
"""Id of an entity -> what waited for it when it was reported last; `None`: nobody could tell."""


def build_lag_sensors(
    project: Project, written: Mapping[TableName, Destination], status: dg.DefaultSensorStatus
) -> list[dg.SensorDefinition]:
    """A sensor for each topic that a catalog lands."""
    topics: dict[str, list[Destination]] = {}
    for made in written.values():
        for topic in dict.fromkeys(topic_of(feed) for feed in made.feeds
                                   if feed.source_format == "kafka"):  # fmt: skip
            topics.setdefault(topic, []).append(made)
    return [_sensor(project, topic, made, status) for topic, made in sorted(topics.items())]


def _sensor(
    project: Project, topic: str, tables: Sequence[Destination], status: dg.DefaultSensorStatus
) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"lag_{distinct(topic)}",
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=status,
        description=f"Tells how many messages of the topic {topic} wait to be read",
    )
    def lag(context: dg.SensorEvaluationContext, lakehouse: LakehouseResource) -> dg.SensorResult:
        seen: Seen = json.loads(context.cursor) if context.cursor else {}
        events: list[dg.AssetObservation | dg.AssetCheckEvaluation] = []
        broken: list[str] = []
        with lakehouse.open(project) as work:
            for made in tables:
                try:
                    events += _told(work, made, topic, seen)
                except LakehouseError as error:  # one broker that does not answer must not silence the others
                    context.log.error(str(error))
                    broken.append(error.problem)
                    events += _outage(made, error, seen)
        skip = None if events else "; ".join(broken) or "nothing new to tell"
        return dg.SensorResult(asset_events=events, skip_reason=skip, cursor=json.dumps(seen))

    return lag


def _outage(made: Destination, error: LakehouseError, seen: Seen) -> Iterator[dg.AssetCheckEvaluation]:
    """A verdict that the topic cannot be looked at, once for each outage."""
    ids = [feed.entity_id for feed in made.feeds if feed.source_format == "kafka"]
    if all(seen.get(name, 0) is None for name in ids):
        return
    seen.update(dict.fromkeys(ids))
    yield dg.AssetCheckEvaluation(
        asset_key=asset_key(made.table), check_name="lag", passed=False, severity=dg.AssetCheckSeverity.WARN,
        metadata={"problem": error.problem, "next": error.fix or ""},
    )  # fmt: skip


def _told(
    work: Work, made: Destination, topic: str, seen: Seen
) -> Iterator[dg.AssetObservation | dg.AssetCheckEvaluation]:
    """What is new to tell of the feeds of a table that read the topic."""
    waiting, moved = 0, False
    for feed in made.feeds:
        if feed.source_format != "kafka" or topic_of(feed) != topic:
            continue
        found = look(work, feed, describe=True)
        count = found.waiting or 0
        waiting += count
        if seen.get(feed.entity_id) != count:
            seen[feed.entity_id], moved = count, True
            yield dg.AssetObservation(source_key(feed), metadata=metadata.of_source(found, work.clock()))
    if moved:
        passed, severity, facts = made.checks.judge_lag(waiting)
        yield dg.AssetCheckEvaluation(
            asset_key=asset_key(made.table), check_name="lag", passed=passed, severity=severity, metadata=facts
        )
