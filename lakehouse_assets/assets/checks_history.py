"""The generated checks of a table with history: what `tables/history_checks.py` asks, and of which keys.

A verdict says in its metadata which version it was about. The next one looks at the keys that changed since, or at all
of them if the last one failed, is not known, or the table was made anew.
What belongs here: from evidence to a verdict. What does not: the questions, the other checks (`checks.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from lakehouse_assets.assets.metadata import plain
from lakehouse_assets.entities.model import Entity, TableName

if TYPE_CHECKING:
    from lakehouse_assets.assets.checks import Evidence
    from lakehouse_assets.engines.base import Handle
    from lakehouse_assets.tables.base import Outcome
    from lakehouse_assets.tables.history_checks import Findings

Judgement = tuple[bool, dict[str, Any]]
"""Whether a check passed, and its metadata."""
Judge = Callable[["Evidence", Entity, dg.AssetCheckEvaluation | None], Judgement | None]
"""Evidence, the (first) entity, the last verdict -> the new one; `None`: nothing changed since."""
CHECKED = "checked_version"
"""The version that a verdict is about: id and number of the table that was looked at."""
DESCRIBED = {
    "history_well_formed": "Rows of a key start before they end, do not overlap, differ where they touch; one is open",
    "rows_reconciled": "Rows in = valid + quarantined + dropped; each event of the log has one fate, and the "
    "quarantine holds those whose fate it is",
}


def generated(entity: Entity) -> list[str]:
    """The names of the checks that follow from `apply_changes`."""
    changes = entity.apply_changes
    periods = "history_well_formed" if changes and changes.stored_as_scd_type == 2 else "primary_key"
    return ["schema", "rows_reconciled", periods]


def unlogged(table: TableName, outcome: Outcome) -> Iterator[str]:
    """What does not add up between the rows of a batch and the facts that were committed."""
    commit = outcome.commits.get(table.changes)
    if commit is not None and not commit.skipped and commit.rows_added != outcome.rows_in:
        yield (
            f"batch {outcome.plan.number}: {outcome.rows_in} rows in, but {commit.rows_added} facts were committed to "
            f"{table.changes}"
        )


def since(last: dg.AssetCheckEvaluation | None, handle: Handle) -> int | None:
    """The version up to which all is known to be well; `None` if that is not known."""
    entry = last.metadata.get(CHECKED) if last is not None and last.passed else None
    table_id, _, version = str(entry.value if entry is not None else "").partition("@")
    known = table_id == handle.id and version.isdigit() and int(version) <= handle.version
    return int(version) if known else None


def _of_schema(evidence: Evidence, entity: Entity, _: dg.AssetCheckEvaluation | None) -> Judgement:
    """The columns are those that the declaration makes of the log's, and the declaration is that of the rows."""
    from lakehouse_assets.errors import SchemaDrift
    from lakehouse_assets.lake.schemas import holds
    from lakehouse_assets.tables.base import upstream
    from lakehouse_assets.tables.history_shape import check_drift, declared, shape_of, target_schema

    log, stored = upstream(evidence.work, entity.table.changes), evidence.handle.schema
    facts: dict[str, Any] = {"columns": len(stored)}
    try:
        shape = shape_of(entity, log.schema)
        check_drift(entity, declared(shape, log.schema), evidence.handle.properties)
    except SchemaDrift as error:
        return False, facts | {"problem": str(error)}
    wanted = {field.name.lower(): field for field in target_schema(shape, log.schema)}
    have = {field.name.lower(): field for field in stored}
    missing = [field.name for name, field in wanted.items() if name not in have]
    differing = {
        field.name: f"made as {field.type}, stored {have[name].type}"
        for name, field in wanted.items()
        if name in have and not holds(have[name].type, field.type)
    }
    facts |= {"declared": len(wanted)}
    facts |= {"missing": ", ".join(missing)} if missing else {}
    facts |= {"differing": dg.MetadataValue.json(differing)} if differing else {}
    if unknown := sorted(name for name in entity.lakehouse.columns if name.lower() not in have):
        facts["comments_without_column"] = ", ".join(unknown)
    return not missing and not differing, facts


def _of_periods(evidence: Evidence, entity: Entity, last: dg.AssetCheckEvaluation | None) -> Judgement | None:
    from lakehouse_assets.tables.base import upstream
    from lakehouse_assets.tables.history_checks import touched, well_formed
    from lakehouse_assets.tables.history_shape import shape_of

    handle, engine = evidence.handle, evidence.work.engine
    known = _start(evidence, last, handle)
    if known == handle.version:
        return None
    shape = shape_of(entity, upstream(evidence.work, entity.table.changes).schema)
    of = touched(engine, handle, shape.keys, known)
    found = well_formed(engine, shape, engine.read(handle), of)
    return _judgement(found, handle, {"primary_keys": ", ".join(shape.keys)})


def _of_fates(evidence: Evidence, entity: Entity, last: dg.AssetCheckEvaluation | None) -> Judgement | None:
    from lakehouse_assets.tables.base import upstream
    from lakehouse_assets.tables.history_checks import fates, quarantined, touched
    from lakehouse_assets.tables.history_events import History

    work = evidence.work
    log = upstream(work, entity.table.changes)
    known = _start(evidence, last, log)
    if known == log.version and not evidence.outcomes:
        return None
    history = History(work, entity, log)
    everything = history.truncates  # a truncate can decide about events of any key
    of = None if everything else touched(work.engine, log, history.shape.keys, known)
    return _judgement(fates(history, quarantined(work, entity), of), log, {})


def _start(evidence: Evidence, last: dg.AssetCheckEvaluation | None, handle: Handle) -> int | None:
    anew = any(outcome.plan.rebuild for outcome in evidence.outcomes)
    return None if anew else since(last, handle)


def _judgement(found: Findings, handle: Handle, more: Mapping[str, Any]) -> Judgement:
    facts: dict[str, Any] = {**found.counts, **found.faults, **more, CHECKED: f"{handle.id}@{handle.version}"}
    if found.examples:
        facts["examples"] = dg.MetadataValue.json([plain(row) for row in found.examples])
    return found.passed, facts


JUDGES: Mapping[str, Judge] = {
    "schema": _of_schema,
    "history_well_formed": _of_periods,
    "primary_key": _of_periods,
    "rows_reconciled": _of_fates,
}
"""Check -> how it is judged where a table has history."""
