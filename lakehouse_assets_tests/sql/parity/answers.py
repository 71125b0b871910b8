"""The parity cases, and what Spark 4.2 (ANSI mode, UTC) answered to each.

`expressions.txt` holds a line a case: `table | expression`, or `table ~ expression` where the last digits of doubles
may differ; `?? condition` chooses the rows. `queries.txt` holds a query a line; `~` before it means the same.
`spark.jsonl` holds the answers. `python -m lakehouse_assets_tests.sql.parity.answers` asks Spark again (it needs
pyspark and Java) and writes them.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakehouse_assets.engines.spark_session import Local, open_session
from lakehouse_assets.sql import types
from lakehouse_assets.sql.dialect import to_spark
from lakehouse_assets_tests.sql.parity.tables import RUN_DATE, tables

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

HERE = Path(__file__).parent
PARAMS = {"run_date": RUN_DATE}
_LINE = re.compile(r"(\w) ([|~]) (.*?)(?: \?\? (.*))?")


@dataclass(frozen=True)
class Case:
    """A query, and whether the last digits of its doubles may differ."""

    text: str
    sql: str
    close: bool


def cases() -> list[Case]:
    """Every case of the two files."""
    found = []
    for line in (HERE / "expressions.txt").read_text("utf-8").splitlines():
        match = _LINE.fullmatch(line)
        assert match, line
        table, mark, expression, where = match.groups()
        sql = f"SELECT id, {expression} AS r FROM {table}" + (f" WHERE {where}" if where else "")
        found.append(Case(line, sql, mark == "~"))
    queries = (HERE / "queries.txt").read_text("utf-8").splitlines()
    return found + [Case(line, line.lstrip("~"), line.startswith("~")) for line in queries]


def answers() -> dict[str, dict[str, Any]]:
    """What Spark answered: the text of a case to its columns, types and rows, or to `raises`."""
    lines = (HERE / "spark.jsonl").read_bytes().splitlines()  # of bytes: U+2028 ends no line of JSON
    return {answer["case"]: answer for answer in map(json.loads, lines)}


def describe(table: pa.Table) -> dict[str, Any]:
    """A result as JSON: names, Spark types, rows in a fixed order."""
    rows = [[plain(value) for value in row.values()] for row in table.to_pylist()]
    return {
        "names": table.schema.names,
        "types": [types.spark_type(kind) for kind in table.schema.types],
        "rows": sorted(rows, key=json.dumps),
    }


def plain(value: Any) -> Any:
    """A value as JSON, exactly: doubles by their shortest text, decimals with their scale."""
    if isinstance(value, float):
        return {"f": "nan" if math.isnan(value) else repr(value)}
    if isinstance(value, Decimal):
        return {"d": format(value, "f")}
    if isinstance(value, dt.datetime):
        return {"t": value.isoformat()}
    if isinstance(value, dt.date):
        return {"t": value.isoformat()}
    if isinstance(value, bytes):
        return {"b": value.hex()}
    if isinstance(value, dict):
        return [plain(item) for item in value.values()]
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def same(left: Any, right: Any, close: bool) -> bool:
    """Whether two plain values are equal, or close where that is enough."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same(a, b, close) for a, b in zip(left, right, strict=True))
    if close and isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys() == {"f"}:
        return left == right or math.isclose(float(left["f"]), float(right["f"]), rel_tol=1e-12, abs_tol=1e-12)
    return bool(left == right)


def asked(spark: SparkSession) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Every case, and what Spark answers to it now."""
    data = tables()
    for name, table in data.items():
        spark.createDataFrame(table).createOrReplaceTempView(name)
    schemas = {name: table.schema for name, table in data.items()}
    for case in cases():
        try:
            yield case, describe(spark.sql(to_spark(case.sql, schemas, params=PARAMS)).toArrow())
        except Exception as error:
            yield case, {"raises": str(error).split("]")[0].lstrip("[").split("\n")[0][:80]}


def main() -> None:
    """Run every case on Spark and write `spark.jsonl`."""
    with (HERE / "spark.jsonl").open("w", encoding="utf-8") as stream:
        for case, answer in asked(open_session(Local())):
            stream.write(json.dumps({"case": case.text, **answer}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
