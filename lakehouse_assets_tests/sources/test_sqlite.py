"""The SQLite source: the contract of sources, options, what it says of itself and of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse_assets.errors import IncarnationChanged, SettingsError
from lakehouse_assets.sources.base import Past, open_source
from lakehouse_assets.sources.sqlite import SqliteSource
from lakehouse_assets_tests.sources.contract import Case, SourceContract
from lakehouse_assets_tests.sources.sqlite_lab import Follower, entity, readings, source, values, write


class DatabaseCase(Case):
    """A table that grows, with one of several ways to tell what is new."""

    def __init__(self, folder: Path, ddl: str, **options: str) -> None:
        self.path = folder / "edge.db"
        self.ddl = ddl
        self.options = options
        self.made = 0
        write(self.path, ddl)

    def add(self, ids: Sequence[int]) -> None:
        """One row an id, all with the same time, a second after the last."""
        times = [f"2025-05-01T10:{self.made // 60:02d}:{self.made % 60:02d}" for _ in ids]
        self.made += 1
        write(self.path, ("INSERT INTO numbers (id, at) VALUES (?, ?)", list(zip(ids, times, strict=True))))

    def open(self) -> SqliteSource:
        """A source with the options of the case."""
        return source(self.path, options=self.options)

    def swap(self) -> None:
        """The file is made again."""
        self.path.unlink()
        write(self.path, self.ddl)
        self.add(range(100, 120))


class TestByRowid(SourceContract):
    """The contract, for a table that is read by its rowid."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> DatabaseCase:
        """A table with a rowid of its own."""
        return DatabaseCase(tmp_path, "CREATE TABLE numbers (id INTEGER, at TEXT)")


class TestByKey(SourceContract):
    """The contract, for a table without rowid that is read by a key."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> DatabaseCase:
        """A table with an integer key."""
        ddl = "CREATE TABLE numbers (id INTEGER PRIMARY KEY, at TEXT) WITHOUT ROWID"
        return DatabaseCase(tmp_path, ddl, cursor="id")


class TestByTimestamp(SourceContract):
    """The contract, for a table without rowid that is read by a timestamp."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> DatabaseCase:
        """A table whose rows share times."""
        return DatabaseCase(tmp_path, "CREATE TABLE numbers (id INTEGER PRIMARY KEY, at DATETIME) WITHOUT ROWID")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "edge.db"


# options


@pytest.mark.parametrize(
    ("name", "near"), [("sqlite.tabel", "sqlite.table"), ("sqlite.max_rows_per_batch", "sqlite.maxRowsPerBatch")]
)
def test_an_unknown_option_is_refused_with_the_nearest_name(path: Path, name: str, near: str) -> None:
    """An option that is misspelt is not ignored."""
    with pytest.raises(SettingsError, match=f"did you mean '{near}'"):
        SqliteSource(entity(path, read_options={name: "x"}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", "soon"),
        ("timeout", "-1"),
        ("maxRowsPerBatch", "0"),
        ("maxRowsPerBatch", "1.5"),
        ("count_check", "1"),
    ],
)
def test_an_option_with_an_impossible_value_is_refused(path: Path, name: str, value: str) -> None:
    """The message names the option and the legal values; nothing is opened for it."""
    with pytest.raises(SettingsError, match=rf"sqlite\.{name} has a value"):
        source(path, options={name: value})


def test_a_batch_ends_after_the_rows_that_the_option_says(path: Path) -> None:
    """`sqlite.maxRowsPerBatch` bounds each batch; all rows come, in order, in several."""
    follower = Follower(readings(path, 7), options={"maxRowsPerBatch": "3"})
    assert values(follower.catch_up(), "id") == list(range(1, 8))
    assert [position["rows"] for position in follower.positions] == [3, 6, 7]


def test_the_count_check_can_be_turned_off(path: Path) -> None:
    """`sqlite.count_check: false`: the audit says nothing of deleted rows; by default it does."""
    for options, codes in (({}, ["rows_missing"]), ({"count_check": "false"}, [])):
        path.unlink(missing_ok=True)
        follower = Follower(readings(path, 3), options=options)
        follower.catch_up()
        write(path, "DELETE FROM readings WHERE id = 1")
        assert list(follower.audit()) == codes


def test_a_sqlite_entity_opens_this_source(path: Path) -> None:
    """The registry of formats leads here."""
    assert isinstance(open_source(entity(path)), SqliteSource)


# what is read


def test_the_description_says_what_is_read(path: Path) -> None:
    """Path, table, cursor, journal mode, size and last rowid."""
    with source(readings(path, 3)) as one:
        assert one.describe() == {
            "kind": "sqlite",
            "path": str(path),
            "table": "readings",
            "journal_mode": "delete",
            "bytes": path.stat().st_size,
            "cursor": "id",
            "last_rowid": 3,
            "ids": "never given out twice (AUTOINCREMENT)",
        }


def test_another_way_of_reading_is_refused(path: Path) -> None:
    """Positions of a rowid and of a cursor are not mixed up when the option changes."""
    follower = Follower(readings(path, 3))
    follower.catch_up()
    with (
        source(path, options={"cursor": "t"}) as one,
        pytest.raises(IncarnationChanged, match="by its rowid before"),
    ):
        one.latest(follower.past)
    other = Follower(path, options={"cursor": "v"})
    other.catch_up()
    with source(path) as one, pytest.raises(IncarnationChanged, match="another cursor before"):
        one.latest(other.past)


def test_rows_say_of_which_feed_they_are(path: Path) -> None:
    """`_source` is the feed's name, else the entity's id; never a path, so that nodes with equal paths stay apart."""
    readings(path, 1)
    for lakehouse, expected in (({}, "readings"), ({"feed": "node-7"}, "node-7")):
        with source(path, lakehouse=lakehouse) as one:
            (batch,) = one.read(one.earliest(), one.latest(Past()))
            assert batch.rows.select(["_position", "_source"]).to_pylist() == [{"_position": "1", "_source": expected}]
            assert batch.rows.schema.field("_source").type == pa.string()
