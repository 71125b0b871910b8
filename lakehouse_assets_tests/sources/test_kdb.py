"""A kdb+ table read whole and by date: the contract of a source, what is there, what is read, what is refused."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pytest

from lakehouse_assets.errors import SchemaDrift, SourceBusy, SourceError, SourceMissing, TypeRefused
from lakehouse_assets.sources.base import FORMATS, Fingerprint, PartitionedSource, Past, Source, open_source
from lakehouse_assets.sources.kdb import KdbSource
from lakehouse_assets_tests.sources.contract import Case, SourceContract
from lakehouse_assets_tests.sources.kdb_desk import ONE, THREE, TWO, Desk, Office, table
from lakehouse_assets_tests.sources.kdb_wire import Wire

KINDS = {"sym": "symbol", "time": "timestamp", "price": "float", "size": "long"}
NANOSECOND = 1_704_189_600_000_000_000


def trades(count: int, first: int = 0, kinds: dict[str, str] | None = None) -> pa.Table:
    """Rows that differ from each other."""
    numbers = range(first, first + count)
    return table(
        kinds or KINDS,
        sym=[f"s{number % 3}" for number in numbers],
        time=[NANOSECOND + number * 1001 for number in numbers],
        price=[number / 4 for number in numbers],
        size=list(numbers),
        venue=["v"] * count,
    )


@pytest.fixture
def office() -> Iterator[Office]:
    """A process with `trade` on disk: seven rows, none, and two."""
    desk = Desk()
    desk.stored["trade"] = {ONE: trades(7), TWO: trades(0), THREE: trades(2, 100)}
    with Wire(desk.serve) as wire:
        made = Office(desk, wire)
        yield made
        made.close()


class KdbCase(Case):
    """A table `t`, in memory or by date; two rows of a date."""

    secrets = ("hunter2",)

    def __init__(self, office: Office, **options: object) -> None:
        self.office = office
        self.options = options
        self.rows: list[int] = []
        self._put()

    def _put(self) -> None:
        days = [ONE + dt.timedelta(days=at // 2) for at in range(len(self.rows))]
        self.office.desk.tables["t"] = table({"id": "long", "date": "date"}, id=self.rows, date=days)

    def add(self, ids: Sequence[int]) -> None:
        """More rows, at the end."""
        self.rows += ids
        self._put()

    def open(self) -> Source:
        """A fresh source."""
        return self.office.open("t", user="u", password="${secret:KDB_WORD}", **self.options)

    def swap(self) -> None:
        """Other rows in their place."""
        self.rows = [value + 1000 for value in self.rows]
        self._put()


class TestWhole(SourceContract):
    """The contract of a table that is read whole."""

    @pytest.fixture(params=[{"sliceRows": 1}, {"partition": "date"}], ids=str)
    def case(self, request: pytest.FixtureRequest, office: Office, monkeypatch: pytest.MonkeyPatch) -> KdbCase:
        """An empty table."""
        monkeypatch.setenv("KDB_WORD", "hunter2")
        return KdbCase(office, **request.param)


def read(source: KdbSource, key: dt.date) -> pa.Table:
    """A date as extracted."""
    return pa.Table.from_batches(source.read_partition(str(key)), source.columns_of(str(key)))


def test_the_registry_opens_it(office: Office) -> None:
    """`source_format: kdb` is read by a partitioned source."""
    assert FORMATS["kdb"] == "lakehouse_assets.sources.kdb:KdbSource"
    assert isinstance(open_source(office.entity()), PartitionedSource)


def test_a_fingerprint_is_a_text() -> None:
    """Rows and checksum with a colon, read back equal; anything else is refused."""
    assert str(Fingerprint(7, "ab")) == "7:ab"
    assert Fingerprint.parse("7:ab") == Fingerprint(7, "ab")
    for wrong in ("7", "x:ab", ":ab", "-1:ab"):
        with pytest.raises(SourceError, match="colon"):
            Fingerprint.parse(wrong)


def test_every_date_has_its_rows(office: Office) -> None:
    """Dates in their order with their number of rows, those without rows included."""
    assert list(office.open(partition="date").partitions().items()) == [
        ("2024-01-02", "7"), ("2024-01-03", "0"), ("2024-01-04", "2"),
    ]  # fmt: skip


def test_a_table_in_memory_has_dates_too(office: Office) -> None:
    """A table with a date column is extracted by that; the column is left out."""
    office.desk.tables["t"] = table({"d": "date", "n": "long"}, d=[TWO, ONE, TWO], n=[1, 2, 3])
    source = office.open("t", partition="d")
    assert source.partitions() == {"2024-01-02": "1", "2024-01-03": "2"}
    assert read(source, TWO).to_pydict() == {"n": [1, 3], "_row": [0, 1]}


def test_rows_without_a_date_are_refused(office: Office) -> None:
    """Rows that belong to no partition would be lost in silence."""
    office.desk.tables["t"] = table({"d": "date", "n": "long"}, d=[None, ONE], n=[1, 2])
    with pytest.raises(SourceError, match="rows without a d belong to no partition"):
        office.open("t", partition="d").partitions()


@pytest.mark.parametrize("slice_rows", [1, 3, 7, 250])
def test_a_date_is_read_in_slices(office: Office, slice_rows: int) -> None:
    """Every row once, in stored order, with its number; no batch is longer than a slice."""
    source = office.open(partition="date", sliceRows=slice_rows)
    batches = list(source.read_partition("2024-01-02"))
    assert [batch.num_rows for batch in batches] == [min(slice_rows, 7 - at) for at in range(0, 7, slice_rows)]
    rows = pa.Table.from_batches(batches)
    assert rows.column("_row").to_pylist() == rows.column("size").to_pylist() == list(range(7))
    assert rows.schema.equals(source.columns_of("2024-01-02"))


def test_columns_are_those_that_the_lake_holds(office: Office) -> None:
    """K26: microseconds beside all nanoseconds, the row number last, and q's types in the metadata."""
    columns = office.open(partition="date").columns_of("2024-01-04")
    assert [f"{of.name} {of.type}" for of in columns] == [
        "sym string", "time timestamp[us, tz=UTC]", "time_ns int64", "price double", "size int64", "_row int64",
    ]  # fmt: skip
    assert columns.field("time").metadata == {b"kdb.type": b"timestamp"}
    assert read(office.open(partition="date"), ONE).column("time_ns").to_pylist()[1] == NANOSECOND + 1001


def test_an_empty_date_has_columns_and_no_batch(office: Office) -> None:
    """A date without rows is there, and is no error."""
    source = office.open(partition="date")
    assert list(source.read_partition("2024-01-03")) == []
    assert source.columns_of("2024-01-03").equals(source.columns_of("2024-01-02"))
    assert source.fingerprint("2024-01-03").rows == 0


def test_dates_may_differ_in_their_columns(office: Office) -> None:
    """Each date has its own columns, whatever the newest has; together they are refused by name."""
    office.desk.stored["trade"][TWO] = trades(3, kinds={"sym": "symbol", "size": "int", "venue": "symbol"})
    source = office.open(partition="date")
    assert [f"{of.name} {of.type}" for of in source.columns_of("2024-01-03")] == [
        "sym string", "size int32", "venue string", "_row int64",
    ]  # fmt: skip
    assert read(source, TWO).num_rows == 3
    with pytest.raises(SchemaDrift, match="date 2024-01-03 has other columns than the newest date.*venue"):
        list(source.read(source.earliest(), source.latest(Past())))


def test_the_fingerprint_tells_a_correction(office: Office) -> None:
    """Equal for equal rows, whoever asks; another value changes it, though the number of rows stays."""
    source = office.open(partition="date")
    before = source.fingerprint("2024-01-02")
    assert before == office.open(partition="date").fingerprint("2024-01-02")
    office.desk.stored["trade"][ONE] = trades(7, 1)
    after = source.fingerprint("2024-01-02")
    assert (before.rows, after.rows) == (7, 7)
    assert before != after


@pytest.mark.parametrize(
    "into", [trades(7, 1), trades(6), trades(9), trades(0)], ids=["values", "fewer", "more", "none"]
)
def test_a_date_that_changes_between_slices_is_refused(office: Office, into: pa.Table) -> None:
    """What was read of it must not be used: it is of two states."""
    source = office.open(partition="date", sliceRows=3)
    batches = source.read_partition("2024-01-02")
    next(batches)
    office.desk.stored["trade"][ONE] = into
    with pytest.raises(SourceBusy, match="date 2024-01-02 changed while it was read"):
        list(batches)


def test_a_date_that_vanishes_while_it_is_read_changed(office: Office) -> None:
    """Trying again says then that there is no such date."""
    source = office.open(partition="date", sliceRows=3)
    batches = source.read_partition("2024-01-02")
    next(batches)
    del office.desk.stored["trade"][ONE]
    with pytest.raises(SourceBusy, match="changed while it was read"):
        list(batches)


def test_columns_that_change_between_slices_are_a_change(office: Office) -> None:
    """Another type in a later slice is told as what it is: the date was written anew."""
    source = office.open(partition="date", sliceRows=3)
    batches = source.read_partition("2024-01-02")
    next(batches)
    office.desk.stored["trade"][ONE] = trades(7, kinds={**KINDS, "size": "int"})
    with pytest.raises(SourceBusy, match="changed while it was read"):
        list(batches)


def test_slices_of_other_types_are_refused_by_name(office: Office) -> None:
    """Where the date did not change, its rows are not of one type: the column is named."""
    other = trades(3, kinds={**KINDS, "size": "int"})
    office.desk.before = lambda name, given: other if name == "SLICE" and given[3] == 3 else None
    source = office.open(partition="date", sliceRows=3)
    with pytest.raises(
        SourceError, match=r"rows 3 to 6 of date 2024-01-02: they have size \(int\) where .* size \(long\)"
    ):
        list(source.read_partition("2024-01-02"))


def test_a_slice_that_is_too_short_is_refused(office: Office) -> None:
    """Fewer rows than the date says, again and again: never a short extract."""
    office.desk.before = lambda name, given: trades(1) if name == "SLICE" and given[3] == 3 else None
    with pytest.raises(SourceError, match="1 rows came"):
        list(office.open(partition="date", sliceRows=3).read_partition("2024-01-02"))


@pytest.mark.parametrize("ask", ["fingerprint", "columns_of", "read_partition"])
@pytest.mark.parametrize("key", ["2024-01-05", "yesterday"])
def test_an_unknown_partition_is_named(office: Office, ask: str, key: str) -> None:
    """The error says which dates are near."""
    source = office.open(partition="date")
    with pytest.raises(SourceMissing, match=f"no such partition.*{key}") as told:
        list(getattr(source, ask)(key))
    assert told.value.choices == (("YYYY-MM-DD",) if key == "yesterday" else ("2024-01-02", "2024-01-03", "2024-01-04"))


def test_an_unknown_table_is_named(office: Office) -> None:
    """The error names the server and the tables that are there."""
    office.desk.tables["quote"] = trades(1)
    with pytest.raises(SourceMissing, match=r"127\.0\.0\.1:\d+ has no such table \(got 'trades'\)") as told:
        office.open("trades").schema()
    assert told.value.choices == ("quote", "trade")
    assert "did you mean 'trade'" in str(told.value)


def test_a_user_s_text_never_is_q(office: Office) -> None:
    """Names travel as parameters: every question is one of the constants."""
    office.desk.tables["t"] = trades(1)
    source = office.open("t")
    list(source.read(source.earliest(), source.latest(Past())))
    assert set(office.desk.asked) <= {"TABLES", "META", "PARTITION_FIELD", "WHOLE_FINGERPRINT", "WHOLE_SLICE"}


@pytest.mark.parametrize(
    ("column", "error", "told"),
    [
        ("dte", SourceMissing, "no such column"),
        ("n", SourceError, "no date: `meta` shows 'j'"),
    ],
)
def test_the_partition_column_is_judged(office: Office, column: str, error: type[Exception], told: str) -> None:
    """It has to be a date column of the table."""
    office.desk.tables["t"] = table({"d": "date", "n": "long"}, d=[ONE], n=[1])
    with pytest.raises(error, match=told):
        office.open("t", partition=column).partitions()


def test_another_column_than_that_on_disk_is_refused(office: Office) -> None:
    """A database has one partition column."""
    with pytest.raises(SourceError, match="partitioned by another column") as told:
        office.open(partition="time").partitions()
    assert told.value.choices == ("date",)


def test_partitions_that_are_no_dates_are_refused(office: Office) -> None:
    """A database by month is not read date by date, and not as one piece either."""
    office.desk.field = "month"
    with pytest.raises(SourceError, match="'month' is no date"):
        office.open().latest(Past())


def test_a_database_on_disk_is_read_whole_date_by_date(office: Office) -> None:
    """Without `kdb.partition` its dates stand in a column, and no question asks for more than a slice of one."""
    source = office.open(sliceRows=2)
    assert source.partitions() == {}
    rows = pa.Table.from_batches([batch.rows for batch in source.read(source.earliest(), source.latest(Past()))])
    assert rows.column_names == ["date", "sym", "time", "time_ns", "price", "size", "_position", "_source"]
    assert rows.column("date").to_pylist() == [ONE] * 7 + [THREE] * 2
    assert rows.column("_position").to_pylist()[6:] == ["2024-01-02#6", "2024-01-04#0", "2024-01-04#1"]
    assert set(rows.column("_source").to_pylist()) == {"trades"}


def test_a_table_that_changed_since_the_plan_is_refused(office: Office) -> None:
    """A recorded position is read as it was, or not at all."""
    source = office.open()
    end = source.latest(Past())
    assert source.holds(source.earliest(), end)
    office.desk.stored["trade"][ONE] = trades(7, 1)
    assert not source.holds(source.earliest(), end)
    with pytest.raises(SourceBusy, match="not that which was to be read"):
        list(source.read(source.earliest(), end))


@pytest.mark.parametrize("table_name", ["trade", "t"])
def test_a_table_that_changes_while_it_is_read_whole_is_refused(office: Office, table_name: str) -> None:
    """By date and as one piece: what was read is of two states, though the plan was of one."""
    office.desk.tables["t"] = trades(4)
    source = office.open(table_name, sliceRows=2)
    batches = source.read(source.earliest(), source.latest(Past()))
    next(batches)
    office.desk.stored["trade"][THREE] = trades(2, 50)
    office.desk.tables["t"] = trades(4, 1)
    with pytest.raises(SourceBusy, match="changed while it was read"):
        list(batches)


def test_a_whole_read_asks_for_each_fingerprint_twice(office: Office) -> None:
    """The process goes through all rows for one: once before, once after, however many slices there are."""
    office.desk.tables["t"] = trades(9)
    source = office.open("t", sliceRows=1)
    end = source.latest(Past())
    office.desk.asked.clear()
    list(source.read(source.earliest(), end))
    assert office.desk.asked.count("WHOLE_FINGERPRINT") == 2


def test_rows_tell_a_type_that_meta_does_not(office: Office) -> None:
    """Lists of lists: `meta` shows a blank for them, the first rows say what they are."""
    office.desk.tables["t"] = table({"deep": "long list list"}, deep=[[[1], [2, 3]], []])
    office.desk.before = lambda name, _: (
        table({"c": "symbol", "t": "char"}, c=["deep"], t=[None]) if name == "META" else None
    )
    source = office.open("t", sliceRows=1)
    rows = [batch.rows for batch in source.read(source.earliest(), source.latest(Past()))]
    assert pa.Table.from_batches(rows).column("deep").to_pylist() == [[[1], [2, 3]], []]


def test_lists_without_elements_have_the_type_of_the_others(office: Office) -> None:
    """A column of lists of which a slice, or the whole date, holds no element: typed by other rows, else by `meta`."""
    kinds = {"words": "char vector", "sizes": "long list"}
    rows = table(kinds, words=["a", "", "b"], sizes=[[], [], [1, 2]])
    office.desk.stored["trade"] = {ONE: rows, TWO: rows.slice(0, 0), THREE: rows.slice(0, 2)}
    office.desk.before = partial(_unsaid, office.desk)
    source = office.open(partition="date", sliceRows=1)
    expected = ["words string", "sizes list<item: int64>", "_row int64"]
    for day in (ONE, TWO, THREE):
        assert [f"{of.name} {of.type}" for of in source.columns_of(str(day))] == expected
    assert read(source, ONE).column("sizes").to_pylist() == [[], [], [1, 2]]


def _unsaid(desk: Desk, name: str, given: list[Any]) -> pa.Table | None:
    """The slices whose lists have no element: q sends such rows as general lists, which say no type."""
    found = desk.answer(name, given) if name == "SLICE" else None
    if found is None or any(found.column("sizes").to_pylist()):
        return None
    return found.set_column(1, "sizes", pa.array([[]] * found.num_rows, pa.list_(pa.null())))


def test_lists_of_which_nothing_says_the_type_are_refused(office: Office) -> None:
    """No row and no `meta` tells: the column is named, and no type is guessed."""
    office.desk.tables["t"] = table({"words": "char vector"})
    office.desk.before = lambda name, _: (
        table({"c": "symbol", "t": "char"}, c=["words"], t=[None]) if name == "META" else None
    )
    with pytest.raises(TypeRefused, match="the lists in column 'words'"):
        office.open("t").schema()


def test_a_column_of_the_project_s_own_name_is_refused(office: Office) -> None:
    """`_row` of the source would be lost under that of the extract."""
    office.desk.tables["t"] = table({"_row": "long"}, _row=[1])
    with pytest.raises(TypeRefused, match="'_row' has a name of the project's own"):
        office.open("t").schema()


def test_a_value_that_is_not_held_is_named_with_its_row_in_the_date(office: Office) -> None:
    """K27: an infinity in the second slice: the number is that of the row in its date, not in the slice."""
    infinite = pa.Table.from_arrays(
        [*trades(3).columns[:3], pa.chunked_array([pa.array([1, 2**63 - 1, 2])])], schema=trades(0).schema
    )
    office.desk.before = lambda name, given: infinite if name == "SLICE" and given[3] == 3 else None
    with pytest.raises(TypeRefused, match="row 4 of column 'size'") as told:
        list(office.open(partition="date", sliceRows=3).read_partition("2024-01-02"))
    assert told.value.facts["row"] == 4
    assert "127.0.0.1" in str(told.value)


def test_infinities_may_be_null(office: Office) -> None:
    """K27: `kdb.infinities: null`."""
    office.desk.tables["t"] = table({"n": "long"}, n=[1, 2**63 - 1])
    source = office.open("t", infinities="null")
    (batch,) = source.read(source.earliest(), source.latest(Past()))
    assert batch.rows.column("n").to_pylist() == [1, None]


def test_nanoseconds_may_be_refused(office: Office) -> None:
    """K26: with `kdb.nanoseconds: refuse` there is no second column, and a part of a microsecond is named by its row."""
    source = office.open(partition="date", sliceRows=1, nanoseconds="refuse")
    assert source.columns_of("2024-01-02").names == ["sym", "time", "price", "size", "_row"]
    with pytest.raises(TypeRefused, match="row 1 of column 'time' has parts of a microsecond"):
        list(source.read_partition("2024-01-02"))


def test_whole_microseconds_pass(office: Office) -> None:
    """K26: without parts of a microsecond nothing is refused, in lists neither; a column `time_ns` may stand beside."""
    kinds = {"time": "timestamp", "time_ns": "long", "times": "timestamp list"}
    office.desk.tables["t"] = table(kinds, time=[NANOSECOND, None], time_ns=[1, 2], times=[[NANOSECOND], [None, 0]])
    source = office.open("t", nanoseconds="refuse")
    (batch,) = source.read(source.earliest(), source.latest(Past()))
    assert batch.rows.schema.names[:3] == ["time", "time_ns", "times"]
    assert batch.rows.column("time").null_count == 1


def test_the_description_tells_what_is_there(office: Office) -> None:
    """Server, table, columns and dates, for people."""
    found = office.open(partition="date").describe()
    assert found["kind"] == "kdb"
    assert found["server"] == f"127.0.0.1:{office.wire.port}"
    assert found["columns"] == {"date": "d", "sym": "s", "time": "p", "price": "f", "size": "j"}
    assert (found["rows"], found["dates"], found["first"], found["last"]) == (9, 3, "2024-01-02", "2024-01-04")


def test_one_source_has_one_connection(office: Office) -> None:
    """Discovery, fingerprints and slices go over the same."""
    source = office.open(partition="date", sliceRows=1)
    source.describe()
    for key in source.partitions():
        list(source.read_partition(key))
    assert office.wire.connections == 1


def test_a_source_that_was_closed_looks_again(office: Office) -> None:
    """What was found is forgotten with the connection: other columns, other dates."""
    office.desk.tables["t"] = table({"n": "long"}, n=[1])
    source = office.open("t")
    assert source.schema().names == ["n"]
    office.desk.tables["t"] = table({"m": "symbol"}, m=["a"])
    source.close()
    assert source.schema().names == ["m"]
    assert source.describe()["columns"] == {"m": "s"}
