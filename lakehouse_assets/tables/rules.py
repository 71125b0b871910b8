"""Rules: how rows are selected, judged and sorted into valid, quarantined and dropped.

A recipe is what an entity says about its rows; the plan records it in full, so that a replay judges by the rules of
its batch. NULL is broken, a failed cast always goes to quarantine, `expect_all_or_fail` stops before any write.
What does not belong here: where the rows come from and where they go.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.engines.base import Engine, Relation
from lakehouse_assets.entities.model import Entity, TableName
from lakehouse_assets.entities.transforms import output_name
from lakehouse_assets.errors import ExpectationFailed
from lakehouse_assets.lake.plans import Plan
from lakehouse_assets.lake.values import Commit
from lakehouse_assets.sql import casts
from lakehouse_assets.sql.expand import quoted, text_literal
from lakehouse_assets.sql.parse import parse_expression, render
from lakehouse_assets.tables.base import Outcome, Verdict

EXAMPLES = 3
"""How many rows are shown for a broken rule."""
UPSTREAM = "_upstream"
"""The quarantine's column with the upstream row as received."""
SUSPECT, KEPT_OUT = "__lakehouse_suspect", "__lakehouse_kept_out"
"""Flags of a row that is sifted: a verdict speaks against it; it does not go to the target."""
FAILED, MALFORMED = "cast_failed:", "malformed_json:"
"""Reasons that no rule names: a value did not fit the column that follows; the column that follows holds no JSON."""
_EVENTS = ("sequence_by", "where", "apply_as_deletes", "apply_as_truncates")
"""The fields of `apply_changes` that look at one event."""
_ACTIONS = ("expect_all", "expect_all_or_drop", "expect_all_or_fail")


@dataclass(frozen=True)
class Recipe:
    """What an entity says about its rows.

    Attributes:
        select: the select list.
        rules: name to SQL, by action.
        quarantine: whether broken rows are kept.
        rescue: whether values that do not fit are kept beside their row; recorded, because a row of which a replay
            thought otherwise would be in the quarantine and in the table.
        changes: what `apply_changes` says about single events.
    """

    select: tuple[str, ...] = ()
    rules: Mapping[str, Mapping[str, str]] | None = None
    quarantine: bool = False
    rescue: bool = False
    changes: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, entity: Entity) -> Recipe:
        """The recipe of an entity as it stands now."""
        rules = {action: dict(getattr(entity.expectations, action)) for action in _ACTIONS}
        rescue = entity.lakehouse.evolution == "rescue"
        changes = {name: getattr(entity.apply_changes, name) for name in _EVENTS} if entity.apply_changes else None
        return cls(tuple(entity.select_expr), rules, entity.is_quarantined, rescue, changes)

    @classmethod
    def recorded(cls, recipe: Mapping[str, Any]) -> Recipe:
        """The recipe that a plan recorded."""
        more = {name: recipe[name] for name in ("rescue", "changes") if name in recipe}
        return cls(tuple(recipe["select"]), recipe["rules"], recipe["quarantine"], **more)

    def record(self) -> dict[str, Any]:
        """The recipe as a plan records it."""
        known = {"select": list(self.select), "rules": self.rules, "quarantine": self.quarantine}
        known |= {"rescue": True} if self.rescue else {}
        return known | ({"changes": dict(self.changes)} if self.changes else {})

    @property
    def passes_all(self) -> bool:
        """Whether every row passes as it is: nothing is selected or judged."""
        return not self.select and self.judges_nothing

    @property
    def may_stop(self) -> bool:
        """Whether a row may stop the batch before anything is written."""
        return bool((self.rules or {}).get("expect_all_or_fail"))

    @property
    def judges_nothing(self) -> bool:
        """Whether no row can be kept out: there is no rule, and no cast that could fail."""
        return not any((self.rules or {}).values()) and not any(casts.cast_checks(item) for item in self.select)

    def selected(self, engine: Engine, rows: Relation) -> Relation:
        """`rows` with the columns that the select list makes of them, unjudged."""
        return engine.query(f"SELECT {', '.join(self.select) or '*'} FROM upstream", {"upstream": rows})

    def named(self) -> set[str]:
        """The columns, in lower case, that the select list names; `*` stands for all others."""
        names = {output_name(parse_expression(item, "a select item"))[0] for item in self.select}
        return {name.lower() for name in names if name}

    def reads(self, column: str, upstream: pa.Schema) -> list[str]:
        """The upstream columns of which the select list makes `column`; all of them where it names none."""
        item = next(item for item in self.select for made, _ in casts.cast_checks(item) if made == column)
        tree = parse_expression(item, "a select item")
        read = {part.name.lower() for node in tree.find_all(exp.Column) for part in node.parts}
        return [name for name in upstream.names if name.lower() in read] or upstream.names

    def texts(self) -> dict[str, list[str]]:
        """The reasons that a text is no JSON -> the columns, in lower case, that the select list makes of it."""
        found: dict[str, list[str]] = {}
        for item in self.select:
            for reason in _texts(item):
                found.setdefault(reason, []).extend(name.lower() for name, _ in casts.cast_checks(item))
        return found

    def unmade(self, columns: Iterable[str]) -> dict[str, list[str]]:
        """Column -> the reasons that say of a row that it has no value for it."""
        texts = self.texts()
        return {
            name: [FAILED + name, *(reason for reason, made in texts.items() if name.lower() in made)]
            for name in columns
        }

    def listed(self) -> list[tuple[str, str, str]]:
        """(action, name, SQL) of every rule."""
        rules = self.rules or {}
        return [(action, name, sql) for action in _ACTIONS for name, sql in rules.get(action, {}).items()]


@functools.lru_cache(maxsize=256)
def _texts(item: str) -> Mapping[str, str]:
    """The reasons that a text which a select item reads is no JSON -> the condition, in Spark SQL."""
    found: dict[str, str] = {}
    for node in parse_expression(item, "a select item").find_all(exp.Anonymous):
        if str(node.this).lower() == "from_json" and node.expressions:
            read = next(node.expressions[0].find_all(exp.Column), None)
            if read is None or node.find_ancestor(exp.Lambda):  # it is not judged
                continue
            for _, condition in casts.cast_checks(render(node)):
                reason = MALFORMED + ".".join(part.name for part in read.parts)
                known = found.get(reason, condition)
                found[reason] = known if known == condition else f"{known} OR {condition}"
    return found


def _text_flags(recipe: Recipe) -> dict[str, tuple[str, str]]:
    """The flag that tells of a text which is no JSON -> the reason and the condition.

    It is that of a cast which asks for nothing else, where there is one: to look twice is dear.
    """
    found: dict[str, dict[str, None]] = {}
    for item in recipe.select:
        for reason, condition in _texts(item).items():
            found.setdefault(reason, {})[condition] = None
    asked = {failed: i for i, (_, failed) in enumerate(c for item in recipe.select for c in casts.cast_checks(item))}
    flags = {}
    for i, (reason, conditions) in enumerate(found.items()):
        condition = " OR ".join(conditions)
        flags[f"_cast_{asked[condition]}" if condition in asked else f"_text_{i}"] = (reason, condition)
    return flags


def selection(recipe: Recipe, upstream: pa.Schema, *, texts: bool = False) -> tuple[str, list[str]]:
    """The Spark SQL that makes the columns out of `upstream`, and the columns that have casts.

    Beside the columns a row gets a flag `_cast_i` for each of these casts, and itself as received (`UPSTREAM`).

    Args:
        texts: the flags that tell of each reason of `recipe.texts()`, too.
    """
    checks = [check for item in recipe.select for check in casts.cast_checks(item)]
    items = [casts.tolerant(item) for item in recipe.select] or ["*"]
    items += [f"coalesce({failed}, false) AS _cast_{i}" for i, (_, failed) in enumerate(checks)]
    flags = _text_flags(recipe).items() if texts else ()
    items += [f"coalesce({malformed}, false) AS {flag}" for flag, (_, malformed) in flags if flag.startswith("_text_")]
    if UPSTREAM not in upstream.names:
        fields = ", ".join(f"{text_literal(name)}, {quoted(name)}" for name in upstream.names)
        items.append(f"named_struct({fields}) AS {UPSTREAM}")
    return f"SELECT {', '.join(items)} FROM upstream", [column for column, _ in checks]


@dataclass(frozen=True)
class Held:
    """Judged rows while they are counted and split.

    Attributes:
        suspects: all rows that a rule or a cast speaks against, and maybe others.
    """

    rows: Relation
    suspects: Relation


class Judged:
    """The rows of a batch with every verdict on them, ready to be counted and split.

    Args:
        rows: the upstream rows, of which nothing is read before the relation is used.
        upstream: the columns of the rows as received, if `rows` are not as received any more.
    """

    def __init__(self, engine: Engine, recipe: Recipe, rows: Relation, upstream: pa.Schema | None = None) -> None:
        self._engine = engine
        self.recipe = recipe
        found = engine.schema(rows)
        self.upstream = found if upstream is None else upstream
        self._rules = recipe.listed()
        selected, self._casts = selection(recipe, found, texts=True)
        self._texts = {reason: flag for flag, (reason, _) in _text_flags(recipe).items()}
        self._reasons = self._speaking()
        broken = [f"NOT coalesce(({sql}), false) AS _broken_{i}" for i, (_, _, sql) in enumerate(self._rules)]
        sql = f"SELECT {', '.join(['*', *broken])} FROM ({selected}) AS selected"
        self.relation = engine.query(sql, {"upstream": rows})
        hidden = {UPSTREAM, *self.flags()}
        self.schema = pa.schema([f for f in engine.schema(self.relation) if f.name not in hidden])

    def flags(self) -> list[str]:
        """The columns of `relation` that tell of each text, cast and rule whether the row speaks against it."""
        flags = [flag for flag in self._texts.values() if flag.startswith("_text_")]
        flags += [f"_cast_{i}" for i in range(len(self._casts))]
        return flags + [f"_broken_{i}" for i in range(len(self._rules))]

    def _speaking(self) -> list[tuple[str, str, str]]:
        """Condition on the flags, reason and action, of all that may speak against a row.

        Where a text is no JSON, that is the reason: what is made of it, and the rules over that, are none of their own.
        """
        made, texts = self.recipe.texts(), dict[str, str]()
        for reason, flag in self._texts.items():
            reached = [f"_cast_{i}" for i, column in enumerate(self._casts) if column.lower() in made[reason]]
            texts[reason] = flag if flag in reached else f"({flag} AND ({' OR '.join(reached)}))"

        def unless(flag: str, read: set[str]) -> str:
            behind = [texts[reason] for reason, columns in made.items() if not read.isdisjoint(columns)]
            return f"({flag} AND NOT ({' OR '.join(behind)}))" if behind else flag

        found = [(condition, reason, "cast") for reason, condition in texts.items()]
        for i, column in enumerate(self._casts):
            found.append((unless(f"_cast_{i}", {column.lower()}), FAILED + column, "cast"))
        for i, (action, name, sql) in enumerate(self._rules):
            looks = parse_expression(sql, f"rule {name!r}").find_all(exp.Column) if texts else ()
            read = {part.name.lower() for node in looks for part in node.parts}
            found.append((unless(f"_broken_{i}", set() if action == "expect_all_or_fail" else read), name, action))
        return found

    @contextmanager
    def held(self, *, again: bool) -> Iterator[Held]:
        """The rows, computed once and kept; or, where they can be read `again`, only those that a verdict is against.

        A select list and rules look at one row at a time, so reading twice gives the same, and costs less than keeping
        all rows with what they were made of.
        """
        if not again:
            with self._engine.held(self.relation) as rows:
                yield Held(rows, rows)
            return
        flagged = f"SELECT * FROM judged WHERE {' OR '.join(self.flags()) or 'false'}"
        with self._engine.held(self._engine.query(flagged, {"judged": self.relation})) as suspects:
            yield Held(self.relation, suspects)

    def sifted(self) -> Relation:
        """Every row, with its flags, and `SUSPECT`; as received only where a flag is set."""
        flags = self.flags()
        suspect = " OR ".join(flags) or "false"
        columns = ", ".join([*map(quoted, self.schema.names), *flags])
        kept_out = f"({self._quarantined()}) OR ({self._dropped()})"
        if UPSTREAM in self._engine.schema(self.relation).names:
            columns += f", CASE WHEN {suspect} THEN {UPSTREAM} END AS {UPSTREAM}"
        sql = f"SELECT {columns}, {suspect} AS {SUSPECT}, {kept_out} AS {KEPT_OUT} FROM judged"
        return self._engine.query(sql, {"judged": self.relation})

    def count(self, held: Held, rows: int | None = None) -> Counts:
        """How many rows there are, and how many broke which rule.

        Args:
            rows: how many there are, where that is known.

        Raises:
            ExpectationFailed: a row broke an `expect_all_or_fail` rule.
        """
        sums = [f"count_if({condition}) AS n_{i}" for i, (condition, *_) in enumerate(self._reasons)]
        fates = [f"count_if({self._quarantined()}) AS quarantined", f"count_if({self._dropped()}) AS dropped"]
        whole = self._sums(held.rows, ["count(*) AS rows_in"]) if rows is None else {"rows_in": rows}
        row = whole | self._sums(held.suspects, [*fates, *sums])
        verdicts = [self._verdict(held, row, i) for i, (*_, action) in enumerate(self._reasons) if action != "cast"]
        verdicts += [
            Verdict(name, "cast", row[f"n_{i}"], row["rows_in"])
            for i, (_, name, action) in enumerate(self._reasons)
            if action == "cast"
        ]
        failed = [v for v in verdicts if v.action == "expect_all_or_fail" and not v.passed]
        if failed:
            raise ExpectationFailed(
                "; ".join(
                    f"{v.broken} of {v.rows} rows broke the rule {v.rule!r}, e.g. {v.examples[0]}" for v in failed
                ),
                fix="mend the rows upstream or the rule in the catalog, then run again: nothing was written",
                verdicts=verdicts,
            )
        return Counts(row["rows_in"], row["quarantined"], row["dropped"], tuple(verdicts))

    def _sums(self, rows: Relation, sums: Sequence[str]) -> dict[str, Any]:
        return self._engine.rows(self._engine.query(f"SELECT {', '.join(sums)} FROM judged", {"judged": rows}))[0]

    def _verdict(self, held: Held, row: Mapping[str, Any], index: int) -> Verdict:
        condition, name, action = self._reasons[index]
        broken = row[f"n_{index}"]
        examples: Sequence[Mapping[str, Any]] = ()
        if broken:
            columns = ", ".join(quoted(f) for f in self.schema.names)
            sql = f"SELECT {columns} FROM judged WHERE {condition} LIMIT {EXAMPLES}"
            examples = self._engine.rows(self._engine.query(sql, {"judged": held.suspects}), EXAMPLES)
        return Verdict(name, action, broken, row["rows_in"], tuple(examples))  # type: ignore[arg-type]

    def valid(self, held: Held, counts: Counts) -> Relation:
        """The rows that go to the target."""
        columns = ", ".join(quoted(name) for name in self.schema.names)
        sql = f"SELECT {columns} FROM judged"
        if counts.valid < counts.rows_in:
            sql += f" WHERE NOT ({self._quarantined()}) AND NOT ({self._dropped()})"
        return self._engine.query(sql, {"judged": held.rows})

    def broken(self, held: Held, extra: Mapping[str, str], params: Mapping[str, object]) -> Relation:
        """The rows that go to quarantine, with `_reasons`, `_upstream` and `extra` (SQL expressions by column)."""
        cases = ", ".join(f"CASE WHEN {flag} THEN {text_literal(name)} END" for flag, name in self.reasons().items())
        reasons = f"filter(array({cases}), reason -> reason IS NOT NULL)" if cases else "array('')"
        columns = [quoted(name) for name in self.schema.names]
        columns += [f"{reasons} AS _reasons", UPSTREAM]
        columns += [f"{sql} AS {name}" for name, sql in extra.items()]
        sql = f"SELECT {', '.join(columns)} FROM judged WHERE {self._quarantined()}"
        return self._engine.query(sql, {"judged": held.suspects}, params)

    def reasons(self) -> dict[str, str]:
        """Condition on the flags -> the reason that it is."""
        return {condition: name for condition, name, _ in self._reasons}

    def deciding(self) -> list[str]:
        """The conditions that keep a row out of the target; the others are only counted."""
        actions = (
            ("cast", "expect_all", "expect_all_or_drop") if self.recipe.quarantine else ("cast", "expect_all_or_drop")
        )
        return [condition for condition, _, action in self._reasons if action in actions]

    def dropped(self) -> str:
        """The condition that a row is dropped."""
        return self._dropped()

    def _quarantined(self) -> str:
        flags = [f"_cast_{i}" for i in range(len(self._casts))]
        if self.recipe.quarantine:
            flags += self._broken_by("expect_all", "expect_all_or_drop")
        return " OR ".join(flags) or "false"

    def _dropped(self) -> str:
        if self.recipe.quarantine or not (flags := self._broken_by("expect_all_or_drop")):
            return "false"
        return f"NOT ({self._quarantined()}) AND ({' OR '.join(flags)})"

    def _broken_by(self, *actions: str) -> list[str]:
        return [f"_broken_{i}" for i, (action, _, _) in enumerate(self._rules) if action in actions]


@dataclass(frozen=True)
class Counts:
    """rows_in = valid + quarantined + dropped."""

    rows_in: int
    quarantined: int
    dropped: int
    verdicts: tuple[Verdict, ...]

    @property
    def valid(self) -> int:
        """Rows that go to the target."""
        return self.rows_in - self.quarantined - self.dropped

    def outcome(self, plan: Plan, commits: Mapping[TableName, Commit], unfit: int) -> Outcome:
        """What a batch of these rows did; `unfit` more of it, which did not fit their columns, went to quarantine."""
        quarantined = self.quarantined + unfit
        return Outcome(plan, commits, self.rows_in + unfit, self.valid, quarantined, self.dropped, self.verdicts)
