"""Tables by three-level names: what is registered, what is refused, and that a write is the same by either way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.engines.spark import SparkEngine
from lakehouse_assets.engines.spark_names import Found, Names, Registry, Target, fault_of, place_of
from lakehouse_assets.errors import ForeignTable, LakeError, SettingsError
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.lake.values import Card, TableSpec
from lakehouse_assets.settings import Settings
from lakehouse_assets_tests.engines.bench import KV, Table

CATALOG = "spark_catalog"
"""The catalog of names that a session of this machine has; it lives as long as the session."""
_layers = itertools.count()


# without a session


def test_names_follow_from_places() -> None:
    """`<root>/<layer>/<table>` is `<catalog>.<layer>.<table>`; what stands elsewhere has no name."""
    names = Names("main", "s3://bucket/lake")
    assert names.name_of("s3://bucket/lake/silver/t") == ("main", "silver", "t")
    assert names.name_of("s3://bucket/lake/silver/deep/t") is None
    assert names.name_of("s3://bucket/lake2/silver/t") is None
    assert names.name_of("s3://bucket/lake") is None


@pytest.mark.parametrize("given", [None, ""])
def test_without_a_catalog_tables_go_by_their_paths(given: str | None) -> None:
    """An empty text is what a variable without a value gives."""
    assert Names.of(Settings(unity_catalog=given)) is None


def test_no_table_of_unity_catalog_stands_in_a_volume() -> None:
    """It is refused before anything is written there."""
    with pytest.raises(SettingsError, match="can stand in a volume") as caught:
        Names.of(Settings(unity_catalog="main", root="/Volumes/main/ops/lake"))
    assert caught.value.value == "/Volumes/main/ops/lake"


@pytest.mark.parametrize(
    ("location", "uri"),
    [
        ("file:/tmp/a%20b/silver/t", "/tmp/a b/silver/t"),
        ("file:///tmp/silver/t/", "/tmp/silver/t"),
        ("s3://bucket/silver/t", "s3a://bucket/silver/t"),
        ("abfss://c@a.dfs.core.windows.net/silver/t", "abfss://c@a.dfs.core.windows.net/silver/t"),
    ],
)
def test_a_place_is_known_in_every_spelling(location: str, uri: str) -> None:
    """Catalogs write locations otherwise than this project."""
    assert place_of(location) == place_of(uri)
    assert Found({"Type": "EXTERNAL", "Location": location}).is_at(uri)
    assert not Found({"Type": "EXTERNAL", "Location": f"{location.rstrip('/')}2"}).is_at(uri)


@pytest.mark.parametrize(
    ("said", "kind", "fix"),
    [
        ("[CATALOG_NOT_FOUND] The catalog `main` not found", SettingsError, "LAKEHOUSE_UNITY_CATALOG"),
        ("PERMISSION_DENIED: User does not have CREATE TABLE on Schema 'main.silver'", LakeError, "GRANT"),
    ],
)
def test_errors_of_the_catalog_say_what_to_do(said: str, kind: type[Exception], fix: str) -> None:
    """A name that is not known, a right that is missing; any other error stays as it is."""
    error = fault_of(("main", "silver", "t"), LakeError(said))
    assert type(error) is kind
    assert fix in str(error.fix)
    other = LakeError("something else")
    assert fault_of(("main", "silver", "t"), other) is other


class Calls:
    """Stands in for a frame, or a session: takes down which methods are called last, and with what."""

    def __init__(self) -> None:
        self.last: tuple[str, tuple[Any, ...]] = ("", ())

    def __getattr__(self, name: str) -> Any:
        """A method that is an attribute as well: `frame.write.mode("append")`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return _Call(self, name)


class _Call:
    def __init__(self, calls: Calls, name: str) -> None:
        self._calls, self._name = calls, name

    def __call__(self, *given: Any, **_: Any) -> Calls:
        self._calls.last = (self._name, given)
        return self._calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._calls, name)


def test_rows_are_read_and_appended_by_the_name() -> None:
    """Where there is one; lineage and grants go by it."""
    for target, read, append in (
        (Target("/lake/silver/t"), ("load", ("/lake/silver/t",)), ("save", ("/lake/silver/t",))),
        (Target("/lake/silver/t", "`m`.`s`.`t`"), ("table", ("`m`.`s`.`t`",)), ("saveAsTable", ("`m`.`s`.`t`",))),
    ):
        session, frame = Calls(), Calls()
        target.read(session, versionAsOf=3)  # type: ignore[arg-type]
        target.append(frame, {})  # type: ignore[arg-type]
        assert (session.last, frame.last) == (read, append)
    assert Target("/lake/silver/t").sql == "delta.`/lake/silver/t`"
    assert Target("/lake/silver/t", "`m`.`s`.`t`").sql == "`m`.`s`.`t`"


# with a session


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A root whose path has to be quoted."""
    return str(tmp_path / "a lake.v1")


@pytest.fixture
def named(spark: SparkEngine, root: str) -> Iterator[SparkEngine]:
    """An engine that names its tables, in the session of all tests."""
    assert spark.spark  # it is open from here on, and is taken
    engine = SparkEngine(Storage(), names=Names(CATALOG, root))
    yield engine
    engine.close()


@pytest.fixture
def layer() -> str:
    """A schema that no other test has."""
    return f"names{next(_layers)}"


OWN = {"lakehouse.writers": "spark", "delta.enableChangeDataFeed": "true"}


def test_a_table_is_written_by_its_name(named: SparkEngine, root: str, layer: str) -> None:
    """Every kind of write, and numbers fence them as they do by path; what the name shows is what the path holds."""
    uri = f"{root}/{layer}/t"
    columns = pa.schema([("k", pa.int64()), ("a.b", pa.string()), ("p", pa.string())])
    named.create(uri, TableSpec(columns, ("p",), OWN, "what"))
    table = Table(named, uri)
    handle, number = table.open(), table.next()
    rows = table.relation([(1, "a", "x"), (2, "b", "y")])
    named.append(handle, rows, number)
    assert named.append(table.open(), rows, number).skipped
    before = table.version
    table.merge([(2, "B", "y"), (3, "c", "y")], [(1, None, None)])
    assert [row[3] for row in table.moved(before)[1]].count("delete") == 1
    table.replace((9, "z", "x"), partitions=[{"p": "x"}])
    named.add_columns(table.open(), [pa.field("n", pa.int64())])
    assert table.rows() == [(2, "B", "y", None), (3, "c", "y", None), (9, "z", "x", None)]
    table.replace((5, "e", "x", 1))
    by_name = named.spark.sql(f"SELECT * FROM {CATALOG}.{layer}.t").collect()
    assert [tuple(row) for row in by_name] == table.rows() == [(5, "e", "x", 1)]
    assert table.open().foreign_commits(0, table.version) == []
    (last,) = named.spark.sql(f"DESCRIBE HISTORY {CATALOG}.{layer}.t LIMIT 1").collect()
    assert last["operation"] == "WRITE"  # and not CREATE OR REPLACE TABLE
    assert Registry(Names(CATALOG, root), lambda: named.spark).writable(uri).sql == f"`{CATALOG}`.`{layer}`.`t`"
    (detail,) = named.spark.sql(f"DESCRIBE DETAIL {CATALOG}.{layer}.t").collect()
    assert (detail["partitionColumns"], detail["description"]) == (["p"], "what")


def test_a_rebuild_keeps_name_and_clustering(named: SparkEngine, root: str, layer: str) -> None:
    """With other columns, too: name and path show the same table."""
    uri = f"{root}/{layer}/t"
    named.create(uri, TableSpec(KV, (), OWN, cluster_by=("k",)))
    table = Table(named, uri)
    table.append((1, "a"))
    columns = pa.schema([("k", pa.int64()), ("w", pa.string())])
    named.rebuild(table.open(), table.relation([(2, "x")], columns), columns, table.next())
    (detail,) = named.spark.sql(f"DESCRIBE DETAIL {CATALOG}.{layer}.t").collect()
    assert detail["clusteringColumns"] == ["k"]
    assert [tuple(row) for row in named.spark.table(f"{CATALOG}.{layer}.t").collect()] == table.rows() == [(2, "x")]


def test_a_table_of_the_other_engine_is_registered_when_it_is_written(
    named: SparkEngine, root: str, layer: str
) -> None:
    """Or when it is published; to read it needs no name."""
    uri = f"{root}/{layer}/t"
    embedded = EmbeddedEngine(Storage())
    embedded.create(uri, TableSpec(KV, (), {}))
    theirs = Table(embedded, uri)
    theirs.append((1, "a"))
    embedded.close()
    ours = Table(named, uri, first=2)
    assert ours.rows() == [(1, "a")]
    assert not named.spark.catalog.tableExists(f"{CATALOG}.{layer}.t")
    ours.append((2, "b"))
    assert named.spark.table(f"{CATALOG}.{layer}.t").count() == 2
    assert not ours.compact().skipped
    assert len(named.vacuum(ours.open(), 0)) == 2
    assert ours.rows() == [(1, "a"), (2, "b")]


def test_a_name_that_is_another_table_s_is_refused(named: SparkEngine, root: str, layer: str, tmp_path: Path) -> None:
    """Before anything is made or written; the error names both places."""
    other = str(tmp_path / "elsewhere")
    EmbeddedEngine(Storage()).create(other, TableSpec(KV, (), {}))
    named.spark.sql(f"CREATE SCHEMA {CATALOG}.{layer}")
    named.spark.sql(f"CREATE TABLE {CATALOG}.{layer}.t USING delta LOCATION '{other}'")
    uri = f"{root}/{layer}/t"
    with pytest.raises(ForeignTable, match=r"in the catalog, and the table of this lake stands at") as caught:
        named.create(uri, TableSpec(KV, (), {}))
    assert other in str(caught.value)
    assert uri in str(caught.value)
    assert not Path(uri).exists()
    EmbeddedEngine(Storage()).create(uri, TableSpec(KV, (), {}))
    table = Table(named, uri)
    with pytest.raises(ForeignTable):
        table.append((1, "a"))
    assert (table.number, table.rows()) == (0, [])


def test_comments_may_change_and_move_nobody(named: SparkEngine, root: str, layer: str) -> None:
    """A commit of ours that changes no row; said again, it changes nothing."""
    uri = f"{root}/{layer}/t"
    named.create(uri, TableSpec(KV, (), {}, "old"))
    table = Table(named, uri)
    table.append((1, "a"))
    before = table.version
    card = Card(uri, "new", {"v": "it's"}, {"pii": "yes"})
    assert named.publish(card) == []
    handle = table.open()
    assert (handle.comment, handle.schema.field("v").metadata) == ("new", {b"comment": b"it's"})
    assert table.moved(before) == ("none", [])
    assert handle.foreign_commits(before, handle.version) == []
    assert named.publish(card) == []
    assert table.version == handle.version


def test_a_view_answers_over_names(named: SparkEngine, root: str, layer: str) -> None:
    """It is made once its tables are registered, follows its query, and is refused in words where it cannot be."""
    uri, view = f"{root}/{layer}/t", f"{CATALOG}.{layer}.big"
    card = Card(f"{root}/{layer}/big", "large", {"v": "what"}, {}, f"SELECT v FROM {layer}.t WHERE k > 1",
                {f"{layer}.t": uri})  # fmt: skip
    assert named.publish(card) == []
    assert not named.spark.catalog.tableExists(view)
    named.create(uri, TableSpec(KV, (), {}))
    Table(named, uri).append((1, "a"), (2, "b"), (3, "c"))
    assert named.publish(card) == []
    assert sorted(row["v"] for row in named.spark.table(view).collect()) == ["b", "c"]
    changed = Card(card.uri, "large", {}, {}, f"SELECT v FROM {layer}.t WHERE k > 2", card.inputs)
    assert named.publish(changed) == []
    assert [row["v"] for row in named.spark.table(view).collect()] == ["c"]
    (told,) = named.publish(Card(card.uri, query=f"SELECT :run_date AS d FROM {layer}.t", inputs=card.inputs))
    assert "run_date" in told


def test_a_catalog_that_the_session_does_not_know_is_named(spark: SparkEngine, root: str) -> None:
    """The variable is named, and nothing is made."""
    assert spark.spark
    engine = SparkEngine(Storage(), names=Names("nowhere", root))
    with pytest.raises(SettingsError, match="knows no catalog 'nowhere'"):
        engine.create(f"{root}/silver/t", TableSpec(KV, (), {}))
    assert not Path(f"{root}/silver/t").exists()
    engine.close()
