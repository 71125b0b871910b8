"""from_json: strict, the same on both engines, told like a cast that failed, and read once a row."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest

from lakehouse_assets.errors import SqlError
from lakehouse_assets.sql.casts import cast_checks, tolerant
from lakehouse_assets.sql.dialect import faults, row_faults, to_duckdb, to_spark
from lakehouse_assets.sql.functions_json import members
from lakehouse_assets.sql.parse import parse_expression
from lakehouse_assets_tests.sql.parity.json_texts import (
    DEEPEST,
    EDGES,
    LONGEST_NAME,
    MEMBERS,
    SCHEMA,
    corpus,
    expected,
)

TEXTS = {"t": pa.schema([("id", pa.int64()), ("x", pa.string()), ("value", pa.binary())])}
READ = f"SELECT id, from_json(x, '{SCHEMA}') AS r FROM t"


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB in UTC."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def rows(texts: list[str | None]) -> pa.Table:
    """A table of texts, also as bytes."""
    found = [None if text is None else text.encode() for text in texts]
    return pa.table({"id": range(len(texts)), "x": pa.array(texts, pa.string()), "value": pa.array(found, pa.binary())})


def read(connection: duckdb.DuckDBPyConnection, sql: str, texts: list[str | None]) -> list[tuple[object, ...]]:
    """What a query over `t` gives on DuckDB, by id and without it."""
    connection.register("t", rows(texts))
    found = connection.execute(to_duckdb(sql, TEXTS)).fetchall()
    return [row[1:] for row in sorted(found, key=lambda row: row[0])]


def test_a_text_is_an_object_by_the_grammar_or_null(connection: duckdb.DuckDBPyConnection) -> None:
    """RFC 8259 to the letter, numbers as written: what Python's strict reader finds, over edges and random texts."""
    texts = corpus(4000, seed=7)
    found = read(connection, READ, texts)
    wrong = []
    for text, (row,) in zip(texts, found, strict=True):
        ours = None if row is None else [row[name] for name in MEMBERS]
        if ours != expected(text):
            wrong.append((text, ours, expected(text)))
    assert not wrong, f"{len(wrong)}: (text, DuckDB, expected) {wrong[:3]!r:.2000}"
    assert sum(row is not None for (row,) in found) > 2000


def test_the_edges_have_both_kinds(connection: duckdb.DuckDBPyConnection) -> None:
    """The oracle itself is right about texts whose answer is written here."""
    assert [expected(text) for text in ('{"a":1.10}', ' {"a" : "x\\u0000"}', '{"a":"1"} x', '{"a":NaN}', "[]", "")] == [
        ["1.10", None, None],
        ["x\0", None, None],
        None,
        None,
        None,
        None,
    ]
    assert 40 < sum(expected(text) is not None for text in EDGES) < len(EDGES) - 60


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a":1.10}', "1.10"),
        ('{"a":-0}', "-0"),
        ('{"a":12345678901234567890.123}', "12345678901234567890.123"),
        ('{"a":true}', "true"),
        ('{"a":null}', None),
        ('{"b":[1,2]}', None),
        ('{"a":"\\ud83e\\udd26"}', "🤦"),
    ],
)
def test_a_member_is_text_as_written(connection: duckdb.DuckDBPyConnection, text: str, value: str | None) -> None:
    """Numbers and words keep their spelling, escapes are resolved, NULL stands for null and for what is not there."""
    assert read(connection, READ, [text]) == [({"a": value, "Adj Close": None, "Date": None},)]


@pytest.mark.parametrize("name", ["a/b", "a~b", "~1", "0", "-", "$.a", "a.b", "*", "é", "a'b"])
def test_any_name_may_be_a_member(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """No letter of a name means anything: not in a path, not in a pattern."""
    texts: list[str | None] = [f'{{"{name}":{value}}}' for value in ('"x"', "1.50", "[1]", "{}", "null")]
    written = name.replace("'", "\\'")
    found = read(connection, f"SELECT id, from_json(x, '`{written}` STRING') AS r FROM t", texts)
    assert [row for (row,) in found] == [{name: "x"}, {name: "1.50"}, None, None, {name: None}]


@pytest.mark.parametrize("text", ['{"a":{}}', '{"a":[1]}', '{"a":"x","a":"x"}', '{"z":1,"z":1,"a":"x"}'])
def test_what_has_no_one_text_is_null(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    """A declared member that is nested, and a name that comes twice, make the whole NULL."""
    assert read(connection, READ, [text]) == [(None,)]


def test_the_limits_are_the_same_on_both_engines(connection: duckdb.DuckDBPyConnection) -> None:
    """Spark's reader ends somewhere, so both end before."""
    deep = ['{"b":' + "[" * depth + "]" * depth + "}" for depth in (DEEPEST - 1, DEEPEST)]
    long = ['{"' + "k" * size + '":1}' for size in (LONGEST_NAME - 3, LONGEST_NAME - 2)]
    found = read(connection, READ, [*deep, *long])
    assert [row is None for (row,) in found] == [False, True, False, True]


def test_names_with_blanks_and_quotes(connection: duckdb.DuckDBPyConnection) -> None:
    """A name in backticks is the name in the text, letter by letter; a field is found in either case."""
    call = "from_json(x, '`Adj Close` STRING, `q\"x` STRING')"
    texts: list[str | None] = ['{"Adj Close":"1","q\\"x":2}', '{"Adj Close":"1","q\\"x":"2"}', '{"adj close":"1"}']
    found = read(connection, f'SELECT id, {call}.`adj close` AS a, {call}.`q"x` AS q FROM t', texts)
    assert found == [("1", "2"), ("1", "2"), (None, None)]
    assert members("`Adj Close` STRING, b: string, `c``d` STRING") == ["Adj Close", "b", "c`d"]


@pytest.mark.parametrize(
    "schema",
    [
        "a INT",
        "a STRING, b DECIMAL(18,6)",
        "a ARRAY<STRING>",
        "a STRUCT<b: STRING>",
        "a STRING NOT NULL",
        "a",
        "a VARCHAR(3)",
    ],
)
def test_other_types_are_refused(schema: str) -> None:
    """When the catalog is loaded, with the way to write it."""
    (found,) = row_faults(parse_expression(f"from_json(x, '{schema}').a", "an item"))
    assert "is not STRING" in found
    assert "declare it STRING and CAST it: a cast that fails is told" in found


@pytest.mark.parametrize(
    "schema", ["", " ", ",", "a STRING,", "a STRING b STRING", "a STRING, A STRING", "a STRING, , b STRING"]
)
def test_a_schema_that_is_none_is_refused(schema: str) -> None:
    """An empty list, a missing member, a name that comes twice."""
    with pytest.raises(SqlError):
        members(schema)


def test_the_schema_must_be_a_literal() -> None:
    """The members are the columns, so they are known before there are rows."""
    assert "must be a literal" in faults(parse_expression("from_json(x, y)", "an item"))[0]


def test_get_json_object_points_to_from_json() -> None:
    """It stays refused: its lenient paths differ."""
    assert "from_json" in faults(parse_expression("get_json_object(x, '$.a')", "an item"))[0]


def test_a_text_that_is_no_object_is_a_failed_cast(connection: duckdb.DuckDBPyConnection) -> None:
    """Design §5: it is told for each column made of it; a NULL text and an absent member are NULL and no fault."""
    item = "CAST(from_json(CAST(value AS STRING), 'n STRING').n AS DECIMAL(18,6)) AS n"
    ((column, failed),) = cast_checks(item)
    texts: list[str | None] = ['{"n":"1.5"}', '{"n":2.50}', '{"n":"x"}', "junk", None, "{}", '{"n":{}}', '{"n":null}']
    found = read(connection, f"SELECT id, {tolerant(item)}, coalesce({failed}, false) AS failed FROM t", texts)
    assert column == "n"
    assert found == [
        (Decimal("1.5"), False),
        (Decimal("2.5"), False),
        (None, True),
        (None, True),
        (None, False),
        (None, False),
        (None, True),
        (None, False),
    ]


def test_bytes_that_are_no_text_are_a_failed_cast(connection: duckdb.DuckDBPyConnection) -> None:
    """Bytes are judged before the text is."""
    item = "from_json(CAST(value AS STRING), 'n STRING').n AS n"
    ((_, failed),) = cast_checks(item)
    broken = pa.table({"id": [0, 1], "value": pa.array([b'{"n":"\xff"}', b'{"n":"1"}'], pa.binary())})
    connection.register("t", broken)
    sql = to_duckdb(f"SELECT id, {tolerant(item)}, coalesce({failed}, false) AS f FROM t", {"t": broken.schema})
    assert sorted(connection.execute(sql).fetchall()) == [(0, None, True), (1, "1", False)]


def test_many_columns_and_checks_read_a_text_once(connection: duckdb.DuckDBPyConnection) -> None:
    """However often a select list and its checks name the same call, DuckDB reads the text once, before it filters."""
    items = [f"CAST(from_json(x, '{SCHEMA}').`{name}` AS BIGINT) AS c{i}" for i, name in enumerate(MEMBERS)]
    checks = [f"{failed} AS f{i}" for i, item in enumerate(items) for _, failed in cast_checks(item)]
    connection.register("t", rows(['{"a":"1"}']))
    sql = to_duckdb(f"SELECT {', '.join([*map(tolerant, items), *checks])} FROM t", TEXTS)
    ((_, plan),) = connection.execute(f"EXPLAIN SELECT * FROM ({sql}) WHERE NOT (f0 OR f1 OR f2)").fetchall()
    assert sql.count("json_keys") > 10
    assert plan.count("json_transform") == plan.count("FILTER") == 1


def test_a_settled_condition_is_the_condition(connection: duckdb.DuckDBPyConnection) -> None:
    """For both engines; for Spark nothing else is left of it."""
    assert read(connection, "SELECT id, settled(id > 0) AS r FROM t", ["a", "b"]) == [(False,), (True,)]
    assert to_spark("SELECT settled(id > 0) AS r FROM t", TEXTS) == "SELECT (id > 0) AS r FROM t"


@pytest.mark.parametrize("seed", [1])
def test_spark_and_duckdb_read_the_same(connection: duckdb.DuckDBPyConnection, spark, seed: int) -> None:
    """Design §7.4: edges, long texts and random ones give equal structs on both engines."""
    texts = corpus(3000, seed)
    ours = [row for (row,) in read(connection, READ, texts)]
    found = spark.rows(spark.query(READ, {"t": spark.from_arrow(rows(texts))}))
    theirs = [row["r"] for row in sorted(found, key=lambda row: row["id"])]
    wrong = [(text, a, b) for text, a, b in zip(texts, ours, theirs, strict=True) if a != b]
    assert not wrong, f"{len(wrong)}: (text, DuckDB, Spark) {wrong[:3]!r:.2000}"
