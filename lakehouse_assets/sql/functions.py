"""The table of functions that transforms may call, and the call that each of them translates.

What belongs here: the record of a function, the helpers its translation uses, the table itself.
What does not: the single functions (`functions_*.py`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.sql import coerce, typed
from lakehouse_assets.sql.typed import Typed, refused, show

if TYPE_CHECKING:
    from lakehouse_assets.sql.expressions import Translator

LIST = "docs/functions.md lists what there is"
"""Where a person finds the table of functions."""
CLOCK = (
    "current_date",
    "current_timestamp",
    "current_timezone",
    "now",
    "curdate",
    "localtimestamp",
    "getdate",
    "sysdate",
)
RANDOM = (
    "rand",
    "random",
    "randn",
    "randstr",
    "uniform",
    "uuid",
    "shuffle",
    "monotonically_increasing_id",
    "spark_partition_id",
)
SESSION = ("current_user", "user", "session_user", "current_catalog", "current_database", "current_schema", "version",
           "input_file_name", "input_file_block_start")  # fmt: skip


@dataclass
class Call:
    """One call of a function, while it is translated.

    Attributes:
        name: the function, in lower case.
        args: its arguments, translated.
        node: the call in the tree.
        translator: what translates.
        suffix: FILTER and OVER of an aggregate or window function, as DuckDB SQL.
        distinct: whether DISTINCT stands before the arguments.
        ignore_nulls: whether IGNORE NULLS was given.
    """

    name: str
    args: list[Typed]
    node: exp.Anonymous
    translator: Translator
    suffix: str = ""
    distinct: bool = False
    ignore_nulls: bool = False

    def expect(self, least: int, most: int | None = None) -> None:
        """Refuse the call unless the number of arguments is right."""
        most = least if most is None else most
        if not least <= len(self.args) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise refused(f"{self.name}() takes {wanted} arguments here, not {len(self.args)}")

    def number(self, index: int) -> Typed:
        """An argument that must be a number."""
        return self._must(index, "a number", typed.is_number)

    def double(self, index: int) -> Typed:
        """A numeric argument as DOUBLE."""
        value = self.number(index)
        return value if value.type is None else coerce.cast(value, typed.DOUBLE, safe=True)

    def integer(self, index: int, kind: pa.DataType = typed.INT) -> Typed:
        """An integral argument as `kind`."""
        value = self._must(index, "an integer", typed.is_integral)
        return coerce.widen(value, kind)

    def string(self, index: int) -> Typed:
        """An argument that must be text."""
        return self._must(index, "STRING", lambda kind: kind == typed.STRING)

    def text(self, index: int) -> Typed:
        """An argument as text, where Spark turns it into text and both engines write it alike."""
        value = self.args[index]
        if value.type is None or value.type == typed.STRING:
            return value
        return coerce.cast(value, typed.STRING, safe=True)

    def boolean(self, index: int) -> Typed:
        """An argument that must be BOOLEAN."""
        return self._must(index, "BOOLEAN", lambda kind: kind == typed.BOOL)

    def date(self, index: int) -> Typed:
        """A date, or the day of a timestamp in UTC."""
        value = self._moment(index)
        return value if value.type is None else coerce.cast(value, typed.DATE, safe=True)

    def timestamp(self, index: int) -> Typed:
        """A timestamp, or the start of a date in UTC."""
        value = self._moment(index)
        if value.type is None or typed.is_timestamp(value.type):
            return value
        return coerce.cast(value, typed.TIMESTAMP, safe=True)

    def array(self, index: int) -> Typed:
        """An argument that must be ARRAY."""
        return self._must(index, "ARRAY", typed.is_list)

    def literal(self, index: int) -> str:
        """An argument that must be a literal: its text."""
        found = self.args[index].literal
        if found is None:
            raise refused(f"{self.name}(): argument {index + 1} must be a literal", "write the value itself")
        return found

    def whole(self, index: int) -> int:
        """An argument that must be an integer literal."""
        found = self.literal(index)
        if not found.lstrip("-").isdigit():
            raise refused(f"{self.name}(): argument {index + 1} must be an integer literal, not {found!r}")
        return int(found)

    def alike(self, indices: Sequence[int] | None = None) -> tuple[list[Typed], pa.DataType | None]:
        """Arguments brought to their least common type, and that type."""
        chosen = list(range(len(self.args))) if indices is None else list(indices)
        kind = typed.common_of(self.args[i].type for i in chosen)
        return [coerce.widen(self.args[i], kind) for i in chosen], kind

    def aggregate(self, sql: str) -> str:
        """An aggregate call of DuckDB with the FILTER and OVER of this one."""
        return f"{sql}{self.suffix}"

    def give(self, sql: str, kind: pa.DataType | None) -> Typed:
        """The result: DuckDB SQL and its type."""
        return Typed(sql, kind, self.node)

    def give_cast(self, sql: str, kind: pa.DataType) -> Typed:
        """The result where DuckDB gives another type than Spark."""
        return Typed(f"CAST({sql} AS {typed.duckdb_name(kind)})", kind, self.node)

    def _moment(self, index: int) -> Typed:
        value = self.args[index]
        if value.type == typed.STRING and value.literal is not None:
            return self.translator.moment_literal(value)
        return self._must(index, "DATE or TIMESTAMP", lambda kind: kind == typed.DATE or typed.is_timestamp(kind))

    def _must(self, index: int, wanted: str, holds: Callable[[pa.DataType], bool]) -> Typed:
        value = self.args[index]
        if value.type is None or value.type == typed.NULL or holds(value.type):
            return value
        raise refused(f"{self.name}(): argument {index + 1} must be {wanted}, not {show(value.type)}", "write the CAST")


@dataclass(frozen=True)
class Function:
    """A function that both engines share.

    Attributes:
        note: what it does, and what was bridged.
        build: its translation.
        kind: what it works on: one row, a group, or a window.
    """

    note: str
    build: Callable[[Call], Typed]
    kind: Literal["row", "group", "window"] = "row"


@cache
def table() -> Mapping[str, Function]:
    """Every function that transforms may call, by name in lower case."""
    from lakehouse_assets.sql import (
        functions_group,
        functions_json,
        functions_nested,
        functions_number,
        functions_text,
        functions_time,
    )

    found: dict[str, Function] = {}
    for module in (functions_number, functions_text, functions_time, functions_nested, functions_json, functions_group):
        found.update(module.FUNCTIONS)
    return dict(sorted(found.items()))


INSTEAD = {
    "to_json": "keep the columns, or build the text with concat",
    "get_json_object": "use from_json(text, 'name STRING, …'), and take its members",
    "window": "use date_trunc('hour', ts), or timestamp_seconds(unix_seconds(ts) div 900 * 900) for 15 minutes",
    "max_by": "number the rows with row_number() OVER (… ORDER BY …) and keep the first",
    "min_by": "number the rows with row_number() OVER (… ORDER BY …) and keep the first",
    "any_value": "use min or max: which value it picks is not defined",
    "first": "use first_value(…) OVER (… ORDER BY …), or min: which value it picks is not defined",
    "last": "use last_value(…) OVER (… ORDER BY …), or max: which value it picks is not defined",
    "collect_list": "the order of its elements is not defined",
    "collect_set": "the order of its elements is not defined",
    "array_agg": "the order of its elements is not defined",
    "approx_count_distinct": "use count(DISTINCT …)",
    "bround": "use round: halves away from zero",
    "explode": "use LATERAL VIEW explode(…) in a query",
    "posexplode": "use LATERAL VIEW posexplode(…) in a query",
    "initcap": "use upper and lower",
    "xxhash64": "use md5 or sha2",
    "hash": "use md5 or sha2",
    "unix_date": "use datediff(d, DATE '1970-01-01')",
    "months_between": "use datediff, or year and month",
    "from_unixtime": "use date_format(timestamp_seconds(n), pattern)",
}
"""Functions that are refused -> what to write in their place."""


def lookup(name: str) -> Function:
    """The function of that name.

    Raises:
        SqlError: there is none; the message says what to use instead, or the nearest name.
    """
    known = table()
    lower = name.lower()
    if lower in known:
        return known[lower]
    if lower in CLOCK:
        raise refused(
            f"{lower}() reads the clock, so a replay would give another answer", "use :run_date, the day of the plan"
        )
    if lower in RANDOM:
        raise refused(
            f"{lower}() gives another answer each time, so a replay would differ",
            "use a column, :run_date or md5 of the keys",
        )
    if lower in SESSION:
        raise refused(f"{lower}() depends on who runs the query and where", "leave it out")
    near = difflib.get_close_matches(lower, known, n=1, cutoff=0.6)
    hint = INSTEAD.get(lower) or (f"did you mean {near[0]}()?" if near else LIST)
    raise refused(f"the function {lower}() is not in the part of Spark SQL that both engines share", hint)
