"""Both engines answer alike: what Spark answered is what DuckDB answers, value for value and type for type."""

from __future__ import annotations

import duckdb
import pytest
from sqlglot import exp

from lakehouse_assets.sql.dialect import FUNCTIONS, to_duckdb
from lakehouse_assets.sql.parse import parse_query
from lakehouse_assets_tests.sql.parity.answers import PARAMS, answers, cases, describe, same
from lakehouse_assets_tests.sql.parity.tables import tables

ANSWERS = answers()
CASES = cases()


@pytest.fixture(scope="module")
def engine():
    """A DuckDB with the parity tables, and their schemas."""
    data = tables()
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, table in data.items():
            connection.register(name, table)
        yield connection, {name: table.schema for name, table in data.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_duckdb_answers_what_spark_answered(engine, case):
    """Design §7.4: an expression of the portable dialect gives equal values, types and names on both engines."""
    connection, schemas = engine
    expected = ANSWERS[case.text]
    sql = to_duckdb(case.sql, schemas, params=PARAMS)
    if "raises" in expected:
        with pytest.raises(duckdb.Error):
            connection.execute(sql).fetchall()
        return
    found = describe(connection.execute(sql).to_arrow_table())
    assert found["types"] == expected["types"]
    assert found["names"] == expected["names"]
    assert len(found["rows"]) == len(expected["rows"])
    wrong = [
        (ours, theirs)
        for ours, theirs in zip(found["rows"], expected["rows"], strict=True)
        if not same(ours, theirs, case.close)
    ]
    assert not wrong, f"(DuckDB, Spark): {wrong[:5]}\n{sql}"


def test_every_allowed_function_has_a_case():
    """Design §1: every function that is allowed is covered by a parity case."""
    called = {
        str(call.this).lower() for case in CASES for call in parse_query(case.sql, "case").find_all(exp.Anonymous)
    }
    assert set(FUNCTIONS) - called == set()
