"""Rescue: values without a place in the table stay with their row, in `_rescued_data`.

`_rescued_data` is NULL, or a JSON object of texts: name -> the value as received, for fields that the table does not
have and for values that do not fit their column (which is NULL then); and `_source` and `_position`, where the row
came from. A value that is nested, and one that a select item made of several columns, is an object or its JSON text.

    {"humidity":"47","temperature":"'n/a'","_source":"edge","_position":"1207"}

The text is made here for every engine; rows without anything to rescue do not pass through.
What does not belong here: which columns have no place (`evolution.py`), rules (`rules.py`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.engines.base import Engine, Relation
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import TypeRefused
from lakehouse_assets.sources.base import ROW_FIELDS, Notice
from lakehouse_assets.sources.files_casts import cast_values
from lakehouse_assets.sources.files_texts import Patterns
from lakehouse_assets.sources.files_values import received
from lakehouse_assets.sql.expand import quoted
from lakehouse_assets.tables.base import Verdict
from lakehouse_assets.tables.evolution import Fit, as_sql, settle, shaped
from lakehouse_assets.tables.rows import together
from lakehouse_assets.tables.rules import UPSTREAM, Judged, Recipe, selection

RESCUED = pa.field("_rescued_data", pa.string())
"""The column with the values that have no other place."""
FAILED = "cast_failed:"
"""How the reason begins that names a column which a value does not fit."""
ORIGIN = tuple(field.name for field in ROW_FIELDS)

Texts = dict[int, dict[str, object]]
"""Number of a row in its batch -> name -> text, or texts by upstream column."""


class Rescue:
    """Brings rows into the columns of a table, and keeps what has no place there beside them.

    Attributes:
        columns: what rows have afterwards: those of the fit, and `RESCUED`.
        failed: how many values did not fit, by column.
    """

    def __init__(self, fit: Fit, who: TableName) -> None:
        self.fit, self.who = fit, who
        self.columns = pa.schema([*fit.columns, RESCUED])
        self.failed: Counter[str] = Counter()

    def rows(
        self, batch: pa.RecordBatch, failed: Texts | None = None, origin: Mapping[str, pa.Array] | None = None
    ) -> pa.RecordBatch:
        """A batch in the table's columns.

        Args:
            batch: rows as found; may have `RESCUED` from further up.
            failed: values that are known not to have fitted.
            origin: `_source` and `_position` of the rows, if the batch lacks them.
        """
        texts: Texts = {row: dict(values) for row, values in (failed or {}).items()}
        self.failed.update(name for values in texts.values() for name in values)
        arrays = []
        for field in self.fit.columns:
            name = self.fit.sources[field.name]
            values = batch.column(name)
            if name in self.fit.narrow:
                values, misfits = _tried(values, field.type)
                self.failed[name] += _take(texts, name, batch.column(name), misfits)
            else:
                values = shaped(values, field.type)
            arrays.append(values)
        for name in self.fit.unknown:
            _take(texts, name, batch.column(name), batch.column(name).is_valid())
        known = dict(zip(batch.schema.names, batch.columns, strict=True))
        rescued = _objects(texts, batch.num_rows, known.get(RESCUED.name), {**(origin or {}), **known})
        return pa.RecordBatch.from_arrays([*arrays, rescued], schema=self.columns)

    def misfits(self, misfits: pa.RecordBatch, kept: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        """The misfits of a source that have no typed row and stay as they are, and the typed rows of the others."""
        reasons = misfits.column("_reasons").to_pylist()
        typed = [all(reason.startswith(FAILED) for reason in row) for row in reasons]  # as the contract of `Batch` says
        texts = misfits.column("_upstream").filter(pa.array(typed, pa.bool_())).to_pylist()
        named = [
            [reason.removeprefix(FAILED) for reason in row] for row, fits in zip(reasons, typed, strict=True) if fits
        ]
        failed = {row: _received(json.loads(text), named[row]) for row, text in enumerate(texts)}
        return misfits.filter(pc.invert(pa.array(typed, pa.bool_()))), self.rows(kept, failed)

    def verdicts(self, rows: int) -> list[Verdict]:
        """How many values did not fit, for each column where that happened."""
        return [Verdict(f"{FAILED}{name}", "cast", count, rows) for name, count in sorted(self.failed.items()) if count]

    def notices(self) -> tuple[Notice, ...]:
        """What a person should know: fields that nobody declared."""
        if not self.fit.unknown:
            return ()
        names = ", ".join(self.fit.unknown)
        return (Notice("rescued", f"{self.who} has no columns for {names}: their values are in {RESCUED.name}"),)


def refuse_own(columns: pa.Schema, who: TableName) -> None:
    """Raise `TypeRefused` if a source has fields under names that a rescued row needs for itself."""
    for name in columns.names:
        if name.lower() in (RESCUED.name, *ORIGIN):
            raise TypeRefused(
                f"{who}: the source has a field under a name that a rescued row needs for itself",
                value=name,
                fix="rename it at the source, or choose another `lakehouse: {evolution: …}`",
            )


def _tried(values: pa.Array, to: pa.DataType) -> tuple[pa.Array, pa.Array]:
    """Values as type `to` as far as they fit, and which of them did not, or not whole."""
    try:
        found, failed = cast_values(values, to, Patterns())
    except LookupError:
        return pa.nulls(len(values), to), values.is_valid()
    if pa.types.is_nested(to):  # it may have fields that the table's column lacks
        return found, values.is_valid()
    return found, pa.repeat(False, len(values)) if failed is None else pc.fill_null(failed, False)


def _take(texts: Texts, name: str, values: pa.Array, rows: pa.Array) -> int:
    """Add the values of some rows to the texts; how many there were."""
    at = pc.indices_nonzero(rows)
    for row, value in zip(at.to_pylist(), values.take(at).to_pylist(), strict=True):
        texts.setdefault(row, {})[name] = received(value)
    return len(at)


def _received(values: Mapping[str, str | None], names: Sequence[str]) -> dict[str, object]:
    """The values under some names of a row as received, which may spell them in another case."""
    lower = {name.lower(): value for name, value in values.items()}
    return {name: values.get(name, lower.get(name.lower())) for name in names}


def _objects(texts: Texts, size: int, before: pa.Array | None, known: Mapping[str, pa.Array]) -> pa.Array:
    """The texts of each row as JSON, with where it came from; what was rescued further up stays, inside if need be."""
    rows = sorted(texts)
    if not rows:
        return pa.nulls(size, pa.string()) if before is None else before
    found: list[str | None] = [None] * size if before is None else before.to_pylist()
    at = pa.array(rows, pa.int64())
    origin = {name: known[name].take(at).to_pylist() for name in ORIGIN if name in known}
    for place, row in enumerate(rows):
        inner = {} if found[row] is None else {RESCUED.name: found[row]}
        whence = {name: origin[name][place] for name in reversed(ORIGIN) if name in origin}
        found[row] = json.dumps({**texts[row], **inner, **whence}, ensure_ascii=False, separators=(",", ":"))
    return pa.array(found, pa.string())


@contextmanager
def judged(
    engine: Engine,
    recipe: Recipe,
    rows: Relation,
    table: pa.Schema | None,
    known: Collection[str] | None,
    who: TableName,
    source: str,
) -> Iterator[tuple[Judged, Rescue]]:
    """Rows selected, brought into the table's columns with the rest rescued, and then judged by the rules.

    Args:
        table: the table's columns; `None` where they are free.
        known: see `settle`.
        source: what is read, for rows that do not say where they came from.
    """
    upstream = engine.schema(rows)
    if RESCUED.name in upstream.names and recipe.select and not recipe.named() & {"*", RESCUED.name}:
        recipe = replace(recipe, select=(*recipe.select, RESCUED.name))
    sql, casts = selection(recipe, upstream)
    selected = engine.query(sql, {"upstream": rows})
    flags = [f"_cast_{i}" for i in range(len(casts))]
    found = pa.schema([f for f in engine.schema(selected) if f.name not in (UPSTREAM, RESCUED.name, *flags)])
    rescue = Rescue(settle(found, table, "rescue", who, known), who)
    flagged = " OR ".join(
        [*flags, *(f"{quoted(name)} IS NOT NULL" for name in (*rescue.fit.unknown, *rescue.fit.narrow))]
    )
    with ExitStack() as stack:
        held = stack.enter_context(engine.held(selected)) if flagged else selected
        fitting = engine.query(_fitting(rescue.fit, engine.schema(selected), flagged), {"selected": held})
        if flagged:
            apart = engine.query(f"SELECT * FROM selected WHERE {flagged}", {"selected": held})
            columns = pa.schema([*rescue.columns, engine.schema(apart).field(UPSTREAM)])
            reads = [recipe.reads(column, upstream) for column in casts]
            rescued = _apart(engine, apart, rescue, list(zip(casts, reads, strict=True)), columns, source)
            fitting = together(engine, fitting, engine.from_arrow(pa.RecordBatchReader.from_batches(columns, rescued)))
        yield Judged(engine, replace(recipe, select=()), fitting, upstream), rescue


def _fitting(fit: Fit, found: pa.Schema, flagged: str) -> str:
    """The SQL of the rows that fit as they are, in the table's columns."""
    items = []
    for field in fit.columns:
        name = fit.sources[field.name]
        have = None if name in fit.narrow else found.field(name).type
        items.append(f"{as_sql(quoted(name), have, field.type)} AS {quoted(field.name)}")
    items.append(RESCUED.name if RESCUED.name in found.names else f"CAST(NULL AS STRING) AS {RESCUED.name}")
    where = f" WHERE NOT ({flagged})" if flagged else ""
    return f"SELECT {', '.join([*items, UPSTREAM])} FROM selected{where}"


def _apart(
    engine: Engine,
    flagged: Relation,
    rescue: Rescue,
    casts: Sequence[tuple[str, Sequence[str]]],
    columns: pa.Schema,
    source: str,
) -> Iterator[pa.RecordBatch]:
    """The rows of which something is rescued."""
    for batch in engine.batches(flagged):
        row = batch.column(UPSTREAM)
        upstream = dict(zip([f.name for f in row.type], row.flatten(), strict=True))
        failed: Texts = {}
        for index, (column, names) in enumerate(casts):
            at = pc.indices_nonzero(batch.column(f"_cast_{index}"))
            values = [upstream[name].take(at).to_pylist() for name in names]
            for place, number in enumerate(at.to_pylist()):
                texts = {name: received(found[place]) for name, found in zip(names, values, strict=True)}
                failed.setdefault(number, {})[column] = texts[names[0]] if len(names) == 1 else texts
        origin = {name: upstream[name] for name in ORIGIN if name in upstream}
        origin = origin or {"_source": pa.repeat(pa.scalar(source), batch.num_rows)}
        rows = rescue.rows(batch, failed, origin)
        yield pa.RecordBatch.from_arrays([*rows.columns, row], schema=columns)
