"""Casts of row transforms: tolerant, and judged by a condition beside them."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from lakehouse_assets.sql.casts import cast_checks, tolerant
from lakehouse_assets.sql.dialect import to_duckdb

ROWS = pa.table(
    {
        "id": pa.array([1, 2, 3, 4]),
        "kind": pa.array(["n", "s", "n", None]),
        "v": pa.array(["5", "five", "x", None]),
        "day": pa.array(["2024-01-31", "2024-02-30", None, "31.01.2024"]),
        "f": pa.array([1.5, 1e300, float("nan"), None]),
    }
)


def judged(item: str) -> tuple[dict[int, object], set[int]]:
    """The values that a select item gives, by id, and the ids of the rows in which one of its casts failed."""
    checks = cast_checks(item)
    failed = " OR ".join(condition for _, condition in checks) or "false"
    sql = f"SELECT id, {tolerant(item)}, coalesce({failed}, false) AS failed FROM r"
    with duckdb.connect() as connection:
        connection.register("r", ROWS)
        rows = connection.execute(to_duckdb(sql, {"r": ROWS.schema})).fetchall()
    return {row[0]: row[1] for row in rows}, {row[0] for row in rows if row[2]}


@pytest.mark.parametrize(
    ("item", "failed"),
    [
        ("CAST(v AS INT) AS n", {2, 3}),
        ("v::INT AS n", {2, 3}),
        ("CAST(f AS BIGINT) AS n", {2, 3}),
        ("to_date(day) AS d", {2, 4}),
        ("to_date(day, 'dd.MM.yyyy') AS d", {1, 2}),
        ("to_timestamp(day) AS d", {2, 4}),
        ("CAST(CAST(day AS TIMESTAMP) AS DATE) AS d", {2, 4}),
        ("CAST(v AS INT) + 1 AS n", {2, 3}),
        ("TRY_CAST(v AS INT) AS n", set()),
        ("CASE WHEN kind = 'n' THEN CAST(v AS INT) ELSE 0 END AS n", {3}),
        ("CASE kind WHEN 's' THEN CAST(v AS INT) END AS n", {2}),
        ("if(kind = 'n', CAST(v AS INT), -1) AS n", {3}),
        ("coalesce(kind, CAST(CAST(v AS INT) AS STRING)) AS n", set()),
        ("coalesce(TRY_CAST(v AS INT), CAST(v AS BIGINT)) AS n", {2, 3}),
        ("upper(v) AS n", set()),
        ("CAST('x' AS STRING) AS n", set()),
    ],
)
def test_a_failed_cast_is_told_and_does_not_stop_the_batch(item, failed):
    """Design §5: a row with a failed cast goes to quarantine, never a silent NULL; in CASE only where it is reached."""
    assert judged(item)[1] == failed


def test_a_failed_cast_gives_null_meanwhile():
    """The other columns of the row are computed all the same."""
    assert judged("CAST(v AS INT) AS n")[0] == {1: 5, 2: None, 3: None, 4: None}


def test_the_check_names_its_column():
    """The reason is `cast_failed:<column>`, so the column is the alias, or the column itself."""
    assert [column for column, _ in cast_checks("CAST(v AS INT) AS n")] == ["n"]
    assert cast_checks("v") == []


def test_one_check_a_column_however_many_casts():
    """A select item with several casts fails for one reason."""
    assert len(cast_checks("CAST(v AS INT) + CAST(f AS INT) AS n")) == 1


def test_tolerant_keeps_the_rest_as_it_is():
    """Only casts change."""
    assert tolerant("upper(v) AS n") == "UPPER(v) AS n"
    assert tolerant("CAST(to_date(day) AS STRING) AS n") == "TRY_CAST(TRY_TO_DATE(day) AS STRING) AS n"


@pytest.mark.parametrize("kind", ["INT", "BIGINT", "DECIMAL(18,6)", "DECIMAL(38,0)", "DATE"])
def test_blanks_around_a_text_do_not_count(kind):
    """Spark skips blanks around numbers and dates; within, or of another kind, they make the cast fail."""
    value = "2024-01-05" if kind == "DATE" else "-5"
    around = [f"{left}{value}{right}" for left in ("", *" \t\n\r\f\v", "  ") for right in ("", *" \t\n\r\f\v", "\v ")]
    wrong = [f"\xa0{value}", f"{value}\u2003", f"{value[:1]} {value[1:]}", f"{value}_", "", " "]
    texts = pa.table({"x": [*around, *wrong]})
    with duckdb.connect() as connection:
        connection.register("r", texts)
        sql = to_duckdb(f"SELECT x, TRY_CAST(x AS {kind}) AS v FROM r", {"r": texts.schema})
        found = dict(connection.execute(sql).fetchall())
    assert {found[text] for text in around} == {found[value]} != {None}
    assert {found[text] for text in wrong} == {None}
