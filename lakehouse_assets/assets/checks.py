"""Asset checks: one for each expectation of an entity, and those that follow from what the entity declares.

    schema               the columns are those that the entity declares                            blocking
    primary_key          query tables and SCD1: no key is NULL or there twice                      blocking
    rows_reconciled      rows in = valid + quarantined + dropped, and that is what was committed   blocking
    history_well_formed  SCD2: the rows of a key can be a history                                  blocking
    values_fit           landed and conformed tables: no value failed to fit its column
    source_audit         landed tables: nothing came late, vanished or was rewritten in the source
    lag                  tables of a topic: not too many messages wait to be read
    freshness            where the entity says how old its data may be

All are evaluated in the step that writes the table. A check of rows that finds no new rows repeats its last verdict:
what was wrong with the table's rows is still wrong with them.
What does not belong here: judging rows (`tables/rules.py`), judging tables with history (`checks_history.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg

from lakehouse_assets.assets import checks_history
from lakehouse_assets.assets.metadata import plain
from lakehouse_assets.assets.naming import asset_key, check_names
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.errors import ExpectationFailed, LakehouseError
from lakehouse_assets.lake.schemas import holds

if TYPE_CHECKING:
    from lakehouse_assets.engines.base import Handle
    from lakehouse_assets.sources.base import Notice
    from lakehouse_assets.tables.base import Outcome, Verdict, Work

Action = Literal["expect_all", "expect_all_or_drop", "expect_all_or_fail"]
EXAMPLES = 3
INFORMING = frozenset({"replayed", "recipe_changed", "option_unneeded", "pruned"})
"""Codes of notices that tell something without saying that table and source differ."""
GENERATED = {
    "schema": "The columns are those that the entity declares",
    "primary_key": "No primary key is NULL or there twice",
    "rows_reconciled": "Rows in = valid + quarantined + dropped, and that is what was committed",
    "history_well_formed": checks_history.DESCRIBED["history_well_formed"],
    "values_fit": "No value failed to fit its column (such rows go to quarantine, or are rescued)",
    "source_audit": "Nothing came late, vanished or was rewritten in the source",
    "lag": "Not too many messages wait in the topic (looked at by a sensor, too)",
    "freshness": "The table took in new data not too long ago",
}
_BLOCKING = ("schema", "primary_key", "rows_reconciled", "history_well_formed")
_MEANING = {
    "expect_all": "a row that breaks it is kept and counted",
    "expect_all_or_drop": "a row that breaks it is dropped and counted",
    "expect_all_or_fail": "a row that breaks it stops the run before anything is written",
}
_WARN, _ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


@dataclass(frozen=True)
class Evidence:
    """What a step knows when it evaluates its checks.

    Attributes:
        outcomes: the batches that were made; none if nothing was new.
        notices: what the source said, beside those of the batches.
        newest: when the last batch with new data was planned.
        lag: what waits in the sources; `None` where they cannot tell, or could not be asked.
    """

    work: Work
    handle: Handle
    instance: dg.DagsterInstance
    outcomes: Sequence[Outcome]
    notices: Sequence[Notice] = ()
    newest: datetime | None = None
    lag: int | None = None


@dataclass(frozen=True)
class Rule:
    """An expectation, with the name of its check."""

    name: str
    check: str
    action: Action
    sql: str
    severity: dg.AssetCheckSeverity


@dataclass(frozen=True)
class Checks:
    """The checks of one destination."""

    table: TableName
    feeds: tuple[Entity, ...]
    rules: tuple[Rule, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(_rules(self.feeds[0])))

    @property
    def _has_history(self) -> bool:
        return self.feeds[0].kind == "history"

    def generated(self) -> list[str]:
        """The names of the checks that follow from the entity."""
        head = self.feeds[0]
        if head.kind == "extract":  # a file is whole, or it is not there
            return []
        found = checks_history.generated(head) if self._has_history else ["schema", "rows_reconciled"]
        found += ["primary_key"] if head.kind == "query" and head.primary_keys else []
        found += ["values_fit"] if head.kind in ("landed", "conformed") else []
        found += ["source_audit"] if head.kind == "landed" else []
        found += ["lag"] if any(feed.source_format == "kafka" for feed in self.feeds) else []
        return found + (["freshness"] if head.lakehouse.freshness else [])

    def specs(self) -> list[dg.AssetCheckSpec]:
        """What Dagster has to know of them beforehand."""
        rules = [
            dg.AssetCheckSpec(
                rule.check,
                asset=asset_key(self.table),
                blocking=rule.action == "expect_all_or_fail",
                description=f"{rule.sql}: {self._meaning(rule)}",
                metadata={"rule": rule.name, "sql": rule.sql, "action": rule.action},
            )
            for rule in self.rules
        ]
        described = GENERATED | checks_history.DESCRIBED if self._has_history else GENERATED
        generated = [
            dg.AssetCheckSpec(
                name, asset=asset_key(self.table), blocking=name in _BLOCKING, description=described[name]
            )
            for name in self.generated()
        ]
        return [*rules, *generated]

    def _meaning(self, rule: Rule) -> str:
        kept = self.feeds[0].is_quarantined and rule.action != "expect_all_or_fail"
        return "a row that breaks it goes to quarantine" if kept else _MEANING[rule.action]

    def results(self, evidence: Evidence) -> Iterator[dg.AssetCheckResult]:
        """The verdict of every check."""
        for rule in self.rules:
            verdicts = [
                v for o in evidence.outcomes for v in o.verdicts if v.rule == rule.name and v.action == rule.action
            ]
            yield self._of_rule(rule, verdicts) if verdicts else self._repeated(evidence, rule.check)
        for name in self.generated():
            if self._has_history and name in checks_history.JUDGES:
                yield self._of_history(evidence, name)
                continue
            judge = _JUDGES[name]
            yield judge(self, evidence) if evidence.outcomes or name in _OF_TABLE else self._repeated(evidence, name)

    def unjudged(self) -> Iterator[dg.AssetCheckResult]:
        """The verdicts on a table that is not there, because nothing was there to make it of: they pass, and say so."""
        for check in (*(rule.check for rule in self.rules), *self.generated()):
            yield self._result(check, True, _WARN, {"rows_judged": 0, "note": "there is no table yet"})

    def refused(self, error: ExpectationFailed) -> Iterator[dg.AssetCheckResult]:
        """The verdicts that stopped a batch before anything was written."""
        verdicts: Sequence[Verdict] = error.facts.get("verdicts", ())
        for rule in self.rules:
            broken = [v for v in verdicts if v.rule == rule.name and v.action == rule.action and not v.passed]
            if rule.action == "expect_all_or_fail" and broken:
                yield self._of_rule(rule, broken)
        if not verdicts and "primary_key" in self.generated() and not self._has_history:
            yield self._result("primary_key", False, _ERROR, {"problem": error.problem})

    def _result(
        self, check: str, passed: bool, severity: dg.AssetCheckSeverity, metadata: Mapping[str, Any]
    ) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            passed=passed, asset_key=asset_key(self.table), check_name=check, severity=severity, metadata=metadata
        )

    def _of_rule(self, rule: Rule, verdicts: Sequence[Verdict]) -> dg.AssetCheckResult:
        broken, rows = sum(v.broken for v in verdicts), sum(v.rows for v in verdicts)
        examples = [plain(row) for v in verdicts for row in v.examples][:EXAMPLES]
        facts: dict[str, Any] = {"rows_judged": rows, "rows_broken": broken}
        if examples:
            facts["examples"] = dg.MetadataValue.json(examples)
        return self._result(rule.check, broken == 0, rule.severity, facts)

    def _repeated(self, evidence: Evidence, check: str) -> dg.AssetCheckResult:
        """The last verdict, because no row was judged since; a check without one passes and says why."""
        last = self._last(evidence, check)
        if last is None:
            return self._result(check, True, _WARN, {"rows_judged": 0, "note": "no new rows in this run"})
        facts = {**last.metadata, "note": "no new rows in this run: the verdict of the last batch stands"}
        return self._result(check, last.passed, last.severity, facts)

    def _last(self, evidence: Evidence, check: str) -> dg.AssetCheckEvaluation | None:
        """The last verdict of a check that was reported."""
        key = dg.AssetCheckKey(asset_key(self.table), check)
        records = evidence.instance.event_log_storage.get_asset_check_execution_history(key, limit=20)
        return next((r.evaluation for r in records if isinstance(r.evaluation, dg.AssetCheckEvaluation)), None)

    def _of_history(self, evidence: Evidence, check: str) -> dg.AssetCheckResult:
        """A verdict on a table with history; what keeps it from being found, and will again, is one that failed."""
        try:
            found = checks_history.JUDGES[check](evidence, self.feeds[0], self._last(evidence, check))
        except LakehouseError as error:
            if error.transient:
                raise
            return self._result(check, False, _ERROR, {"problem": str(error)})
        if found is None:
            return self._repeated(evidence, check)
        passed, facts = found
        if check == "rows_reconciled":
            faults, of_batches = self._batches(evidence)
            passed, facts = passed and not faults, of_batches | facts
        return self._result(check, passed, _ERROR, facts)

    def _schema(self, evidence: Evidence) -> dg.AssetCheckResult:
        stored = {name.lower(): evidence.handle.schema.field(name).type for name in evidence.handle.schema.names}
        declared = _declared(self.feeds)
        missing = [name for name in declared if name.lower() not in stored]
        differing = {
            name: f"declared {kind}, stored {stored[name.lower()]}"
            for name, kind in declared.items()
            if kind is not None and name.lower() in stored and not holds(stored[name.lower()], kind)
        }
        comments = {name for feed in self.feeds for name in feed.lakehouse.columns}
        facts: dict[str, Any] = {"columns": len(stored), "declared": len(declared)}
        facts |= {"missing": ", ".join(missing)} if missing else {}
        facts |= {"differing": dg.MetadataValue.json(differing)} if differing else {}
        if unknown := sorted(name for name in comments if name.lower() not in stored):
            facts["comments_without_column"] = ", ".join(unknown)
        return self._result("schema", not missing and not differing, _ERROR, facts)

    def _primary_key(self, evidence: Evidence) -> dg.AssetCheckResult:
        keys = [f"`{name}`" for name in self.feeds[0].primary_keys]
        engine = evidence.work.engine
        stored = {"stored": engine.read(evidence.handle)}
        null = f"SELECT count(*) AS n FROM stored WHERE {' OR '.join(f'{key} IS NULL' for key in keys)}"
        grouped = f"SELECT {', '.join(keys)} FROM stored GROUP BY {', '.join(keys)} HAVING count(*) > 1"
        nulls = engine.rows(engine.query(null, stored))[0]["n"]
        doubles = engine.rows(engine.query(f"SELECT count(*) AS n FROM ({grouped}) AS doubled", stored))[0]["n"]
        facts = {"keys_null": nulls, "keys_doubled": doubles, "primary_keys": ", ".join(self.feeds[0].primary_keys)}
        return self._result("primary_key", not nulls and not doubles, _ERROR, facts)

    def _rows_reconciled(self, evidence: Evidence) -> dg.AssetCheckResult:
        faults, facts = self._batches(evidence)
        return self._result("rows_reconciled", not faults, _ERROR, facts)

    def _batches(self, evidence: Evidence) -> tuple[list[str], dict[str, Any]]:
        """What does not add up in the batches of a run, and the metadata that says so."""
        faults = [fault for outcome in evidence.outcomes for fault in _unreconciled(self.table, outcome)]
        facts: dict[str, Any] = {"rows_in": sum(outcome.rows_in for outcome in evidence.outcomes)}
        return faults, facts | ({"faults": dg.MetadataValue.json(faults)} if faults else {})

    def _values_fit(self, evidence: Evidence) -> dg.AssetCheckResult:
        failed: dict[str, int] = {}
        for verdict in (v for o in evidence.outcomes for v in o.verdicts if v.action == "cast"):
            failed[verdict.rule] = failed.get(verdict.rule, 0) + verdict.broken
        broken = sum(failed.values())
        if not self.feeds[0].is_quarantined:  # nothing else sends a row to quarantine
            broken = broken or sum(outcome.quarantined for outcome in evidence.outcomes)
        rows = sum(outcome.rows_in for outcome in evidence.outcomes)
        facts: dict[str, Any] = {"rows_in": rows, "values_unfit": broken, **failed}
        if broken:
            facts["quarantine"] = str(self.table.quarantine)
        return self._result("values_fit", not broken, _WARN, facts)

    def _source_audit(self, evidence: Evidence) -> dg.AssetCheckResult:
        told = dict.fromkeys([*(n for o in evidence.outcomes for n in o.notices), *evidence.notices])
        found = [notice for notice in told if notice.code not in INFORMING]
        facts = {notice.code: notice.message for notice in told}
        return self._result("source_audit", not found, _WARN, facts)

    def _lag(self, evidence: Evidence) -> dg.AssetCheckResult:
        passed, severity, facts = self.judge_lag(evidence.lag)
        return self._result("lag", passed, severity, facts)

    def judge_lag(self, waiting: int | None) -> tuple[bool, dg.AssetCheckSeverity, dict[str, Any]]:
        """Whether so many messages may wait; without limits any number may."""
        limits = next((feed.lakehouse.lag for feed in self.feeds if feed.lakehouse.lag), None)
        if waiting is None:
            return True, _WARN, {"note": "the source could not be asked"}
        warn, fail = (limits.warn, limits.fail) if limits else (None, None)
        late, early = fail is not None and waiting > fail, warn is not None and waiting > warn
        given = {name: number for name, number in (("warn", warn), ("fail", fail)) if number is not None}
        return not (late or early), _ERROR if late else _WARN, {"lag": waiting, **given}

    def _freshness(self, evidence: Evidence) -> dg.AssetCheckResult:
        limits = self.feeds[0].lakehouse.freshness
        if limits is None or evidence.newest is None:
            return self._result("freshness", True, _WARN, {"note": "no batch was made yet"})
        age = evidence.work.clock() - evidence.newest
        late = limits.fail_delta is not None and age > limits.fail_delta
        early = limits.warn_delta is not None and age > limits.warn_delta
        facts = {"newest_batch": evidence.newest.isoformat(), "age_hours": round(age.total_seconds() / 3600, 2)}
        facts |= {name: text for name, text in (("warn", limits.warn), ("fail", limits.fail)) if text}
        return self._result("freshness", not (late or early), _ERROR if late else _WARN, facts)


_JUDGES = {
    "schema": Checks._schema,
    "primary_key": Checks._primary_key,
    "rows_reconciled": Checks._rows_reconciled,
    "values_fit": Checks._values_fit,
    "source_audit": Checks._source_audit,
    "lag": Checks._lag,
    "freshness": Checks._freshness,
}
_OF_TABLE = ("schema", "source_audit", "lag", "freshness")
"""Checks that have something to look at when no row is new."""


def _rules(entity: Entity) -> Iterator[Rule]:
    names = check_names(entity.expectations.rules, GENERATED)
    actions: tuple[Action, ...] = ("expect_all", "expect_all_or_drop", "expect_all_or_fail")
    for action in actions:
        for name, sql in getattr(entity.expectations, action).items():
            said = entity.lakehouse.severity.get(name, "error" if action == "expect_all_or_fail" else "warn")
            yield Rule(name, names[name], action, sql, _ERROR if said == "error" else _WARN)


def _declared(feeds: Sequence[Entity]) -> dict[str, Any]:
    """The columns that the entities name, with their Arrow types where these are declared."""
    from lakehouse_assets.sql.parse import parse_expression
    from lakehouse_assets.sql.types import arrow_schema

    found: dict[str, Any] = {}
    for feed in feeds:
        found |= dict.fromkeys([*feed.primary_keys, *feed.partition_cols])
        names = [parse_expression(item, str(feed.table)).alias_or_name for item in feed.select_expr]
        found |= dict.fromkeys(name for name in names if name and name != "*")
        if feed.source_schema and not feed.select_expr:
            found |= {f.name: f.type for f in arrow_schema(feed.source_schema)}
    return found


def _unreconciled(table: TableName, outcome: Outcome) -> Iterator[str]:
    """What does not add up in a batch: the counts, and the counts against the rows that were committed."""
    number, parts = outcome.plan.number, outcome.valid + outcome.quarantined + outcome.dropped
    if outcome.rows_in != parts:
        yield f"batch {number}: {outcome.rows_in} rows in, but {parts} valid, quarantined or dropped"
    yield from checks_history.unlogged(table, outcome)
    if outcome.plan.mode != "append":
        return
    for name, rows in ((table, outcome.valid), (table.quarantine, outcome.quarantined)):
        commit = outcome.commits.get(name)
        if commit is not None and not commit.skipped and commit.rows_added != rows:
            yield f"batch {number}: {rows} rows for {name}, but {commit.rows_added} were committed"
