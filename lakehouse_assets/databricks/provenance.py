"""What a launched step and the instance that launched it must tell each other, because the cluster has no instance.

Down: the last materialization of each output and the last verdict of each check, so that a run with nothing new keeps
the version of the data. Up: which data the step read and which materialization a check judged; on the cluster Dagster
knows neither, and notes `INITIAL` and `NULL`, so that a launched asset would never turn stale.
What belongs here: this repair, which leans on Dagster's own modules. What does not: launching.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from dagster import AssetKey, DagsterEventType, DagsterInstance
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluation,
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    DataVersion,
    compute_logical_data_version,
)
from dagster._core.events.log import EventLogEntry
from dagster._core.execution.context.system import StepExecutionContext
from dagster._core.execution.plan.execute_step import _build_data_version_tags, _get_input_provenance_data
from dagster_shared.record import copy as record_copy
from dagster_shared.record import is_record


def history(step: StepExecutionContext) -> list[EventLogEntry]:
    """What the step may ask its instance for: per output the last materialization, per check the last verdict."""
    made = map(step.instance.get_latest_materialization_event, sorted(step.get_output_asset_keys(), key=str))
    found = [event for event in made if event]
    for check in sorted(step.assets_def.check_keys, key=str) if step.assets_def else ():
        found.extend(_verdict(step.instance, check))
    return found


def _verdict(instance: DagsterInstance, check: Any) -> Iterator[EventLogEntry]:
    for record in instance.event_log_storage.get_asset_check_execution_history(check, limit=20):
        if isinstance(record.evaluation, AssetCheckEvaluation) and record.event is not None:
            yield record.event
            return


class Provenance:
    """What the step reads, noted before it is sent away; put into its events when they come back."""

    def __init__(self, step: StepExecutionContext) -> None:
        step.fetch_external_input_asset_version_info()
        self._step = step

    def mended(self, entry: EventLogEntry) -> EventLogEntry:
        """The entry as the same step would have written it here."""
        event = entry.dagster_event
        if event is None:
            return entry
        if event.event_type is DagsterEventType.ASSET_MATERIALIZATION:
            return _with(entry, materialization=self._materialization(event.event_specific_data))
        if event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION:
            return _judged(entry, self._target(event.event_specific_data))
        return entry

    def stored(self, entry: EventLogEntry) -> None:
        """Forget what was known of an output that has been materialized by now."""
        event = entry.dagster_event
        if event is not None and event.event_type is DagsterEventType.ASSET_MATERIALIZATION and event.asset_key:
            self._step.wipe_input_asset_version_info(event.asset_key)

    def _materialization(self, data: Any) -> Any:
        found = data.materialization
        tags = dict(found.tags)
        read = _get_input_provenance_data(found.asset_key, self._step)
        given = tags.get(DATA_VERSION_IS_USER_PROVIDED_TAG) == "true"
        version = DataVersion(tags[DATA_VERSION_TAG])
        if not given:
            inputs = {key: info["data_version"] for key, info in read.items()}
            version = compute_logical_data_version(tags[CODE_VERSION_TAG], inputs)
        return _copy(found, tags=tags | _build_data_version_tags(version, tags[CODE_VERSION_TAG], read, given))

    def _target(self, evaluation: Any) -> AssetCheckEvaluationTargetMaterializationData | None:
        return target_of(self._step.instance, evaluation.asset_key)


def target_of(instance: DagsterInstance, key: AssetKey) -> AssetCheckEvaluationTargetMaterializationData | None:
    """The materialization that a check of an asset judges now."""
    record = next(iter(instance.get_asset_records([key])), None)
    last = record.asset_entry.last_materialization_record if record else None
    if last is None:
        return None
    return AssetCheckEvaluationTargetMaterializationData(
        storage_id=last.storage_id, run_id=last.run_id, timestamp=last.timestamp
    )


def _judged(entry: EventLogEntry, target: Any) -> EventLogEntry:
    event = entry.dagster_event
    data = _copy(event.event_specific_data, target_materialization_data=target)  # type: ignore[union-attr]
    return _copy(entry, dagster_event=_copy(event, event_specific_data=data))


def _with(entry: EventLogEntry, **changed: Any) -> EventLogEntry:
    event = entry.dagster_event
    data = _copy(event.event_specific_data, **changed)  # type: ignore[union-attr]
    return _copy(entry, dagster_event=_copy(event, event_specific_data=data))


def _copy(thing: Any, **changed: Any) -> Any:
    if is_record(thing):
        return record_copy(thing, **changed)
    if hasattr(thing, "_replace"):
        return thing._replace(**changed)
    found = copy.copy(thing)
    for name, value in changed.items():
        setattr(found, name, value)
    return found
