"""Rules: how rows are selected, judged and sorted into valid, quarantined and dropped.

A recipe is what an entity says about its rows; the plan records it in full, so that a replay judges by the rules of
its batch. NULL is broken, a failed cast always goes to quarantine, `expect_all_or_fail` stops before any write.
What does not belong here: where the rows come from and where they go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lakehouse_assets.engines.base import Engine, Relation
from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import ExpectationFailed
from lakehouse_assets.sql import casts
from lakehouse_assets.sql.expand import text_literal
from lakehouse_assets.tables.base import Verdict

EXAMPLES = 3
"""How many rows are shown for a broken rule."""
UPSTREAM = "_upstream"
"""The quarantine's column with the upstream row as received."""
_ACTIONS = ("expect_all", "expect_all_or_drop", "expect_all_or_fail")


@dataclass(frozen=True)
class Recipe:
    """What an entity says about its rows: the select list, the rules by action, and whether broken rows are kept."""

    select: tuple[str, ...] = ()
    rules: Mapping[str, Mapping[str, str]] | None = None
    quarantine: bool = False

    @classmethod
    def of(cls, entity: Entity) -> Recipe:
        """The recipe of an entity as it stands now."""
        rules = {action: dict(getattr(entity.expectations, action)) for action in _ACTIONS}
        return cls(tuple(entity.select_expr), rules, entity.is_quarantined)

    @classmethod
    def recorded(cls, recipe: Mapping[str, Any]) -> Recipe:
        """The recipe that a plan recorded."""
        return cls(tuple(recipe["select"]), recipe["rules"], recipe["quarantine"])

    def record(self) -> dict[str, Any]:
        """The recipe as a plan records it."""
        return {"select": list(self.select), "rules": self.rules, "quarantine": self.quarantine}

    @property
    def passes_all(self) -> bool:
        """Whether every row passes as it is: nothing is selected or judged."""
        return not self.select and not any((self.rules or {}).values())

    def listed(self) -> list[tuple[str, str, str]]:
        """(action, name, SQL) of every rule."""
        rules = self.rules or {}
        return [(action, name, sql) for action in _ACTIONS for name, sql in rules.get(action, {}).items()]


class Judged:
    """The rows of a batch with every verdict on them, ready to be counted and split.

    Args:
        rows: the upstream rows, of which nothing is read before the relation is used.
    """

    def __init__(self, engine: Engine, recipe: Recipe, rows: Relation) -> None:
        self._engine = engine
        self.recipe = recipe
        self.upstream = engine.schema(rows)
        self._rules = recipe.listed()
        self._casts = [check for item in recipe.select for check in casts.cast_checks(item)]
        self.relation = engine.query(self._sql(), {"upstream": rows})
        hidden = {UPSTREAM, *self._flags()}
        self.schema = pa.schema([f for f in engine.schema(self.relation) if f.name not in hidden])

    def _flags(self) -> list[str]:
        return [f"_cast_{i}" for i in range(len(self._casts))] + [f"_broken_{i}" for i in range(len(self._rules))]

    def _sql(self) -> str:
        items = [casts.tolerant(item) for item in self.recipe.select] or ["*"]
        items += [f"coalesce({failed}, false) AS _cast_{i}" for i, (_, failed) in enumerate(self._casts)]
        if not any(f.name == UPSTREAM for f in self.upstream):
            fields = ", ".join(f"{text_literal(name)}, {_quoted(name)}" for name in self.upstream.names)
            items.append(f"named_struct({fields}) AS {UPSTREAM}")
        selected = f"SELECT {', '.join(items)} FROM upstream"
        broken = [f"NOT coalesce(({sql}), false) AS _broken_{i}" for i, (_, _, sql) in enumerate(self._rules)]
        return f"SELECT {', '.join(['*', *broken])} FROM ({selected}) AS selected"

    def count(self, held: Relation) -> Counts:
        """How many rows there are, and how many broke which rule.

        Raises:
            ExpectationFailed: a row broke an `expect_all_or_fail` rule.
        """
        sums = [f"count_if({flag}) AS {flag}" for flag in self._flags()]
        fates = [f"count_if({self._quarantined()}) AS quarantined", f"count_if({self._dropped()}) AS dropped"]
        sql = f"SELECT {', '.join(['count(*) AS rows_in', *fates, *sums])} FROM judged"
        row = self._engine.rows(self._engine.query(sql, {"judged": held}))[0]
        verdicts = [self._verdict(held, row, i, rule) for i, rule in enumerate(self._rules)]
        verdicts += [
            Verdict(f"cast_failed:{column}", "cast", row[f"_cast_{i}"], row["rows_in"])
            for i, (column, _) in enumerate(self._casts)
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

    def _verdict(self, held: Relation, row: Mapping[str, Any], index: int, rule: tuple[str, str, str]) -> Verdict:
        action, name, _ = rule
        broken = row[f"_broken_{index}"]
        examples: Sequence[Mapping[str, Any]] = ()
        if broken:
            columns = ", ".join(_quoted(f) for f in self.schema.names)
            sql = f"SELECT {columns} FROM judged WHERE _broken_{index} LIMIT {EXAMPLES}"
            examples = self._engine.rows(self._engine.query(sql, {"judged": held}), EXAMPLES)
        return Verdict(name, action, broken, row["rows_in"], tuple(examples))  # type: ignore[arg-type]

    def valid(self, held: Relation) -> Relation:
        """The rows that go to the target."""
        columns = ", ".join(_quoted(name) for name in self.schema.names)
        sql = f"SELECT {columns} FROM judged WHERE NOT ({self._quarantined()}) AND NOT ({self._dropped()})"
        return self._engine.query(sql, {"judged": held})

    def broken(self, held: Relation, extra: Mapping[str, str], params: Mapping[str, object]) -> Relation:
        """The rows that go to quarantine, with `_reasons`, `_upstream` and `extra` (SQL expressions by column)."""
        names = [f"cast_failed:{column}" for column, _ in self._casts] + [name for _, name, _ in self._rules]
        cases = ", ".join(
            f"CASE WHEN {flag} THEN {text_literal(name)} END" for flag, name in zip(self._flags(), names, strict=True)
        )
        reasons = f"filter(array({cases}), reason -> reason IS NOT NULL)" if cases else "array('')"
        columns = [_quoted(name) for name in self.schema.names]
        columns += [f"{reasons} AS _reasons", UPSTREAM]
        columns += [f"{sql} AS {name}" for name, sql in extra.items()]
        sql = f"SELECT {', '.join(columns)} FROM judged WHERE {self._quarantined()}"
        return self._engine.query(sql, {"judged": held}, params)

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


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
