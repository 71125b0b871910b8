"""The commands for a catalog of names: their words, and that Databricks' grammar knows them."""

from __future__ import annotations

import pyarrow as pa
import pytest
import sqlglot

from lakehouse_assets.engines import unity_sql
from lakehouse_assets.engines.unity_sql import Name

NAME: Name = ("my catalog", "silver", "a.b`c")
SQL = "`my catalog`.`silver`.`a.b``c`"
COLUMNS = pa.schema([pa.field("id", pa.int64(), metadata={"comment": "the key"}), pa.field("x.y", pa.string())])


def parsed(command: str) -> str:
    """The command, which has to be one that sqlglot knows of Databricks, not one that it lets pass."""
    tree = sqlglot.parse_one(command, dialect="databricks")
    assert not isinstance(tree, sqlglot.exp.Command)
    return command


def test_names_are_quoted_whatever_they_hold() -> None:
    """Blanks, dots and backticks stay in the part of the name in which they stand."""
    assert unity_sql.full(NAME) == SQL
    (table,) = sqlglot.parse_one(parsed(unity_sql.register(NAME, "s3://b/x")), dialect="databricks").find_all(
        sqlglot.exp.Table
    )
    assert (table.catalog, table.db, table.name) == NAME


def test_a_table_is_registered_at_its_place() -> None:
    """An external table; columns and properties are left to its log."""
    assert parsed(unity_sql.create_schema(NAME)) == "CREATE SCHEMA IF NOT EXISTS `my catalog`.`silver`"
    assert parsed(unity_sql.register(NAME, "s3://b/it's")) == (
        f"CREATE TABLE IF NOT EXISTS {SQL} USING delta LOCATION 's3://b/it\\'s'"
    )


def test_only_comments_that_differ_are_said() -> None:
    """On the table and on columns that it has; nothing is taken away."""
    said = unity_sql.comments(NAME, "old", COLUMNS, "new", {"id": "the key", "x.y": "it's\n2", "gone": "?"})
    assert [parsed(command) for command in said] == [
        f"COMMENT ON TABLE {SQL} IS 'new'",
        f"ALTER TABLE {SQL} ALTER COLUMN `x.y` COMMENT 'it\\'s\\n2'",
    ]
    assert unity_sql.comments(NAME, "same", COLUMNS, "same", {"id": "the key"}) == []
    assert unity_sql.comments(NAME, "kept", COLUMNS, None, {}) == []


def test_only_tags_that_differ_are_set() -> None:
    """Tags that others put there stay."""
    wanted = {"pii": "yes", "team": "it's", "flag": ""}
    (said,) = unity_sql.set_tags(NAME, {"pii": "yes", "other": "x"}, wanted)
    assert parsed(said) == f"ALTER TABLE {SQL} SET TAGS ('team' = 'it\\'s', 'flag' = '')"
    assert unity_sql.set_tags(NAME, wanted, wanted) == []
    (of_view,) = unity_sql.set_tags(NAME, {}, {"pii": "yes"}, "VIEW")
    assert parsed(of_view) == f"ALTER VIEW {SQL} SET TAGS ('pii' = 'yes')"


@pytest.mark.parametrize("ask", [unity_sql.tags_of, unity_sql.columns_of])
def test_unity_catalog_keeps_names_in_small_letters(ask: object) -> None:
    """Its information schema is asked for them so."""
    said = parsed(ask(("Main", "Silver", "Tab")))  # type: ignore[operator]
    assert "`Main`.information_schema." in said
    assert "'silver'" in said
    assert "'tab'" in said


def test_columns_are_read_from_the_log_where_the_catalog_knows_others() -> None:
    """The command is Databricks' own: MSCK REPAIR TABLE … SYNC METADATA."""
    known = [("ID", "bigint"), ("x.y", "string")]
    assert unity_sql.synchronize(NAME, COLUMNS, known) == []
    assert unity_sql.synchronize(NAME, COLUMNS, known[:1]) == [f"MSCK REPAIR TABLE {SQL} SYNC METADATA"]
    assert unity_sql.synchronize(NAME, COLUMNS, [("id", "int"), ("x.y", "string")]) != []


def test_nested_types_are_compared_in_one_spelling() -> None:
    """The catalog writes `struct<a:int>`, this project `STRUCT<a: INT>`."""
    columns = pa.schema([pa.field("s", pa.struct([("a", pa.int32())])), pa.field("d", pa.decimal128(12, 4))])
    assert unity_sql.synchronize(NAME, columns, [("s", "struct<a:int>"), ("d", "decimal(12,4)")]) == []


def test_a_view_has_comments_as_a_table_has() -> None:
    """On itself and on its columns, which are all named."""
    said = parsed(unity_sql.create_view(NAME, "SELECT 1 AS `a`, 2 AS `b c`", ["a", "b c"], "what", {"b c": "two"}))
    assert said == (
        f"CREATE OR REPLACE VIEW {SQL} (`a`, `b c` COMMENT 'two') COMMENT 'what' AS SELECT 1 AS `a`, 2 AS `b c`"
    )
    assert " COMMENT " not in unity_sql.create_view(NAME, "SELECT 1 AS a", ["a"], None, {})
