"""Questions over every Delta table below a root."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import deltalake
import pyarrow as pa
import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.errors import CatalogError, RootUnusable, SqlError
from lakehouse_assets.lake.names import Lake
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.serve.query import ask, first, list_tables


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake with two tables that no catalog declares, and things that are no tables."""
    for name, values in (("bronze/orders", [3, 1, 2]), ("silver/orders_quarantine", [9])):
        deltalake.write_deltalake(tmp_path / "lake" / name, pa.table({"id": values}))
    (tmp_path / "lake" / "bronze" / "notes").mkdir()
    (tmp_path / "lake" / "bronze" / "readme.txt").write_text("no table")
    return Lake(str(tmp_path / "lake"))


def answer(lake: Lake, sql: str) -> list[dict]:
    """The rows of an answer."""
    engine = EmbeddedEngine(Storage())
    return engine.rows(ask(lake, engine, sql, lambda: datetime(2026, 3, 1, 23, tzinfo=UTC)))


def test_every_delta_table_is_found(lake: Lake) -> None:
    """Two levels below the root, what has a Delta log is a table, catalog or not."""
    root = lake.root
    assert list_tables(lake) == {
        "bronze.orders": f"{root}/bronze/orders",
        "silver.orders_quarantine": f"{root}/silver/orders_quarantine",
    }


def test_tables_are_asked_by_layer_and_name(lake: Lake) -> None:
    """`layer.table` in FROM and JOIN, with or without alias, in CTEs."""
    sql = (
        "WITH q AS (SELECT id FROM silver.orders_quarantine) "
        "SELECT sum(o.id) + max(q.id) AS n FROM bronze.orders o CROSS JOIN q"
    )
    assert answer(lake, sql) == [{"n": 15}]


def test_names_of_tables_ignore_case(lake: Lake) -> None:
    """As in Spark, `Bronze.ORDERS` is `bronze.orders`."""
    assert answer(lake, "SELECT count(*) AS n FROM Bronze.ORDERS") == [{"n": 3}]


def test_an_unknown_table_names_the_nearest(lake: Lake) -> None:
    """The error lists the tables of the lake and points at the nearest."""
    with pytest.raises(CatalogError, match=r"silver.orders_quarantine(.|\n)*did you mean 'bronze.orders'"):
        answer(lake, "SELECT * FROM bronze.order")


@pytest.mark.parametrize(
    "name", ["orders", "bronze.notes", "`..`.orders", "bronze.`../bronze/orders`", "x.bronze.orders"]
)
def test_a_name_that_is_no_table_is_refused(lake: Lake, name: str) -> None:
    """No layer, no Delta log, a path: none of these is a table, and no name leads out of the lake."""
    with pytest.raises(CatalogError, match="no such table"):
        answer(lake, f"SELECT * FROM {name}")


@pytest.mark.parametrize(
    "sql", ["DROP TABLE bronze.orders", "INSERT INTO bronze.orders VALUES (1)", "SELECT 1; SELECT 2", "SHOW TABLES", ""]
)
def test_only_a_select_is_allowed(lake: Lake, sql: str) -> None:
    """Nothing but one query."""
    with pytest.raises(SqlError):
        answer(lake, sql)


def test_a_function_outside_the_dialect_names_the_nearest(lake: Lake) -> None:
    """A function that the two engines do not share is refused, with the nearest legal one."""
    with pytest.raises(SqlError, match=r"(?i)date_trun\b(.|\n)*date_trunc"):
        answer(lake, "SELECT date_trun('DAY', :run_date) AS d FROM bronze.orders")


def test_the_clock_is_the_run_date(lake: Lake) -> None:
    """`now()` is refused and points at `:run_date`, which is today in UTC."""
    with pytest.raises(SqlError, match=":run_date"):
        answer(lake, "SELECT now() AS t")
    assert answer(lake, "SELECT CAST(:run_date AS STRING) AS d") == [{"d": "2026-03-01"}]


def test_a_few_rows_of_a_table(lake: Lake) -> None:
    """LIMIT without ORDER BY, which a transform may not use, is fine for a look."""
    assert len(answer(lake, "SELECT * FROM bronze.orders LIMIT 2")) == 2


def test_two_columns_of_one_name_are_refused(lake: Lake) -> None:
    """A row of the answer is an object: its names must differ."""
    for sql in (
        "SELECT id, id + 1 AS ID FROM bronze.orders",
        "SELECT * FROM bronze.orders a CROSS JOIN silver.orders_quarantine b",
    ):
        with pytest.raises(SqlError, match="made twice"):
            answer(lake, sql)


def test_an_unknown_column_is_named(lake: Lake) -> None:
    """A column that is not there is named."""
    with pytest.raises(SqlError, match="idd"):
        answer(lake, "SELECT idd FROM bronze.orders")


def test_first_keeps_the_order(lake: Lake) -> None:
    """The first rows of an answer are the first in its order."""
    engine = EmbeddedEngine(Storage())
    found = first(engine, ask(lake, engine, "SELECT id FROM bronze.orders ORDER BY id DESC"), 2)
    assert [row["id"] for row in engine.rows(found)] == [3, 2]


def test_a_root_that_is_not_there_is_named(tmp_path: Path) -> None:
    """No lake at the root: said as such."""
    with pytest.raises(RootUnusable, match="there is no lake at"):
        answer(Lake(str(tmp_path / "nowhere")), "SELECT * FROM bronze.orders")
