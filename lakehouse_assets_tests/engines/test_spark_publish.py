"""What is said to a catalog of names, and what not: with a session that takes the commands down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse_assets.engines.spark_names import Found, Names, Registry
from lakehouse_assets.engines.spark_publish import in_unity, say_table, say_view
from lakehouse_assets.errors import ForeignTable
from lakehouse_assets.lake.delta import DeltaTable, create_table
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Card, TableSpec

NAME = ("main", "silver", "t")
SQL = "`main`.`silver`.`t`"
QUERY = "SELECT 1 AS a"


class Session:
    """Takes commands down; questions are answered from `tags` and `columns`."""

    def __init__(self, tags: Mapping[str, str] | None = None, columns: Sequence[tuple[str, str]] = ()) -> None:
        self.said: list[str] = []
        self._tags, self._columns = tags or {}, columns

    def __call__(self, command: str) -> Sequence[tuple[str, str]]:
        """Take a command down, or answer a question."""
        if command.startswith("SELECT"):
            return list(self._tags.items()) if "table_tags" in command else self._columns
        self.said.append(command)
        return []


@pytest.fixture
def handle(tmp_path: Path) -> DeltaTable:
    """A table with a comment."""
    return create_table(str(tmp_path / "t"), Storage(), TableSpec(pa.schema([("a", pa.int64())]), comment="old"))


def test_tags_are_said_to_unity_catalog_only(handle: DeltaTable) -> None:
    """Spark itself has no such command; comments it has."""
    card = Card(handle.uri, "new", {"a": "one"}, {"pii": "yes"})
    comments = [f"COMMENT ON TABLE {SQL} IS 'new'", f"ALTER TABLE {SQL} ALTER COLUMN `a` COMMENT 'one'"]
    elsewhere, unity = Session(), Session(columns=[("a", "bigint")])
    say_table(elsewhere, NAME, handle, card, unity=False)
    say_table(unity, NAME, handle, card, unity=True)
    assert elsewhere.said == comments
    assert unity.said == [*comments, f"ALTER TABLE {SQL} SET TAGS ('pii' = 'yes')"]


def test_what_is_known_is_not_said_again(handle: DeltaTable) -> None:
    """A run with nothing to say makes no commit and no entry in an audit log."""
    session = Session({"pii": "yes"}, [("a", "bigint")])
    say_table(session, NAME, handle, Card(handle.uri, "old", {}, {"pii": "yes"}), unity=True)
    assert session.said == []


def test_columns_that_came_past_the_catalog_are_read_from_the_log(handle: DeltaTable) -> None:
    """A rebuild by path, or another engine, may have changed them."""
    session = Session(columns=[("b", "string")])
    say_table(session, NAME, handle, Card(handle.uri), unity=True)
    assert session.said == [f"MSCK REPAIR TABLE {SQL} SYNC METADATA"]


VIEW = {"Type": "VIEW", "View Text": "SELECT  1\nAS a", "Comment": "what"}


@pytest.mark.parametrize(
    ("found", "made"),
    [
        (None, True),
        (VIEW, False),
        (VIEW | {"View Text": "SELECT 2 AS a"}, True),
        (VIEW | {"Comment": "other"}, True),
    ],
)
def test_a_view_is_made_where_it_is_not_as_it_should_be(found: dict[str, str] | None, made: bool) -> None:
    """Its query and its comment are compared with what is there."""
    session = Session()
    card = Card("/lake/silver/t", "what", {}, {"pii": "yes"}, QUERY)
    say_view(session, NAME, None if found is None else Found(found), QUERY, ["a"], card, unity=False)
    assert session.said == ([f"CREATE OR REPLACE VIEW {SQL} (`a`) COMMENT 'what' AS {QUERY}"] if made else [])


def test_a_view_has_tags(handle: DeltaTable) -> None:
    """Those that it lacks."""
    session = Session({"pii": "no"})
    say_view(session, NAME, Found(VIEW), QUERY, ["a"], Card("", "what", {}, {"pii": "yes"}, QUERY), unity=True)
    assert session.said == [f"ALTER VIEW {SQL} SET TAGS ('pii' = 'yes')"]


def test_a_table_is_not_replaced_by_a_view() -> None:
    """The error says how to give up the name."""
    with pytest.raises(ForeignTable, match="is a table in the catalog") as caught:
        say_view(Session(), NAME, Found({"Type": "EXTERNAL"}), QUERY, ["a"], Card("", query=QUERY), unity=False)
    assert caught.value.fix == f"DROP TABLE {SQL}"


@pytest.mark.parametrize(
    ("catalog", "runtime", "expected"),
    [
        ("main", "15.4", True),
        ("main", None, False),
        ("spark_catalog", "15.4", False),
        ("hive_metastore", "15.4", False),
    ],
)
def test_unity_catalog_is_known_by_the_runtime_and_the_catalog(
    monkeypatch: pytest.MonkeyPatch, catalog: str, runtime: str | None, expected: bool
) -> None:
    """A Databricks Runtime without Unity Catalog has `hive_metastore` only."""
    if runtime:
        monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", runtime)

    def session() -> None:
        raise AssertionError("nothing is asked of the session")

    assert in_unity(Registry(Names(catalog, "/lake"), session)) is expected  # type: ignore[arg-type]
    assert not in_unity(Registry(None, session))  # type: ignore[arg-type]
