"""What the kdb+ stand-in understands, and what is in its database: dates, corrections, columns that change."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakehouse_assets.errors import SettingsError
from lakehouse_assets.simulators.kdb_answers import Answers
from lakehouse_assets.simulators.kdb_config import KdbConfig
from lakehouse_assets.simulators.kdb_database import Database, digest, narrowed
from lakehouse_assets.sources import kdb_queries as q
from lakehouse_assets.sources import qipc

FIRST, SECOND, LAST = (dt.date(2018, 12, day) for day in (19, 20, 21))
NEW = dt.date(2018, 12, 24)
SMALL: dict[str, Any] = {"rows": 500, "quotes": 2, "nulls": 0.02, "symbols": 8}


def answers(**options: Any) -> Answers:
    """A database of three small dates, to be asked."""
    return Answers(Database(KdbConfig(**(SMALL | options))))


def ask(of: Answers, text: str, *parameters: Any) -> Any:
    """What a query gives, after the way over the wire and back."""
    query = qipc.decode(b"".join(qipc.encode((text, *parameters))))
    return qipc.decode(b"".join(qipc.encode(of.answer(query))))


def refused(of: Answers, text: str, *parameters: Any) -> str:
    """The text of the error that a query gives."""
    with pytest.raises(qipc.QServerError) as caught:
        ask(of, text, *parameters)
    return caught.value.text


def printed(of: Answers, day: dt.date, table: str = "trade") -> tuple[int, list[int]]:
    """The fingerprint of a date."""
    rows, digest = ask(of, q.FINGERPRINT, table, "date", day)
    return rows, digest.to_pylist()


def test_what_there_is() -> None:
    """Tables, columns with their types, the partition column, rows in all and by date."""
    of = answers()
    assert ask(of, q.TABLES).to_pylist() == ["quote", "trade"]
    meta = ask(of, q.META, "trade")
    assert meta.column("c").to_pylist() == ["date", "time", "sym", "price", "size", "side", "cond"]
    assert "".join(meta.column("t").to_pylist()) == "dpsfjcs"
    assert ask(of, q.PARTITION_FIELD, "trade") == "date"
    assert ask(of, q.COUNT, "quote") == 3000
    assert ask(of, q.PARTITIONS, "trade", "date").to_pydict() == {"date": [FIRST, SECOND, LAST], "rows": [500] * 3}


def test_slices_are_a_date_in_stored_order() -> None:
    """Rows i to i+n, without the partition column; together the whole date; past the end, none."""
    of = answers()
    whole = of.database.rows("trade", SECOND).combine_chunks()
    parts = [ask(of, q.SLICE, "trade", "date", SECOND, first, 120) for first in range(0, 720, 120)]
    assert [part.num_rows for part in parts] == [120, 120, 120, 120, 20, 0]
    found = pa.concat_tables(parts)
    assert found.to_pydict() == {**whole.to_pydict(), "time": whole.column("time").to_pylist()}
    assert parts[-1].schema.equals(parts[0].schema, check_metadata=True)


def test_a_date_that_is_not_there_has_no_rows() -> None:
    """As in q: no error, the columns without a row."""
    found = ask(answers(), q.SLICE, "trade", "date", NEW, 0, 10)
    assert found.num_rows == 0
    assert found.column_names[0] == "time"


def test_fingerprints_are_those_of_the_q_text() -> None:
    """The MD5 of the MD5s of each million of rows as q serializes them: an asynchronous frame of a table."""
    of = answers()
    rows, found = printed(of, LAST)
    frame = b"".join(qipc.encode(of.database.rows("trade", LAST), qipc.Kind.ASYNC))
    assert rows == 500
    assert bytes(found) == hashlib.md5(hashlib.md5(frame).digest()).digest()


def test_fingerprints_go_by_millions() -> None:
    """More than a million rows: a digest of the digests of two pieces."""
    rows = pa.table({"n": np.arange(1_000_001)})
    pieces = [b"".join(qipc.encode(rows.slice(at, 1_000_000), 0)) for at in (0, 1_000_000)]
    assert digest(rows) == hashlib.md5(b"".join(hashlib.md5(piece).digest() for piece in pieces)).digest()


@pytest.mark.parametrize("table", ["trade", "quote"])
def test_a_correction_changes_one_date_of_one_table(table: str) -> None:
    """Few rows change, their number does not; a further one changes it again; rows may be dropped."""
    of = answers()
    before = printed(of, SECOND, table), printed(of, FIRST, table)
    old = of.database.rows(table, SECOND)
    of.database.correct(SECOND, table)
    once = printed(of, SECOND, table)
    new = of.database.rows(table, SECOND)
    changed = sum(one != two for one, two in zip(old.to_pylist(), new.to_pylist(), strict=True))
    assert 0 < changed < 0.02 * old.num_rows
    assert once != before[0]
    assert printed(of, FIRST, table) == before[1]
    of.database.correct(SECOND, table, dropped=3)
    assert printed(of, SECOND, table) not in (once, before[0])
    assert ask(of, f"count select from {table} where date=2018.12.20") == old.num_rows - 3


def test_dates_come_and_go() -> None:
    """A date that is added, one that is emptied and still a partition, one that is removed."""
    of = answers()
    of.database.add(NEW)
    of.database.empty(FIRST)
    of.database.remove(SECOND)
    assert ask(of, q.PARTITIONS, "quote", "date").to_pydict() == {"date": [FIRST, LAST, NEW], "rows": [0, 1000, 1000]}
    assert printed(of, FIRST)[0] == 0
    assert ask(of, "select from trade where date=2018.12.19").num_rows == 0
    of.database.add(FIRST)
    assert ask(of, q.SLICE, "trade", "date", FIRST, 0, 9).num_rows == 9
    with pytest.raises(SettingsError, match="no trading days"):
        of.database.add(dt.date(2018, 12, 25))


def test_a_column_that_is_added_is_missing_in_older_partitions() -> None:
    """As in q, where the newest partition says which columns a table has: reading an older one fails, by file."""
    of = answers()
    of.database.change(LAST, "added")
    assert ask(of, q.META, "trade").column("c").to_pylist()[-1] == "venue"
    assert ask(of, q.SLICE, "trade", "date", LAST, 0, 3).column("venue").to_pylist() == ["X", "Y", "Z"]
    assert refused(of, q.SLICE, "trade", "date", FIRST, 0, 3).startswith(
        "./2018.12.19/trade/venue. OS reports: No such"
    )
    assert ask(of, q.SLICE, "quote", "date", FIRST, 0, 3).num_rows == 3


def test_other_changes_of_columns() -> None:
    """A type that changes differs between dates, and a select over both fails; a column that is dropped is gone."""
    of = answers()
    of.database.change(LAST, "retyped")
    kinds = [str(ask(of, q.SLICE, "trade", "date", day, 0, 3).schema.field("size").type) for day in (SECOND, LAST)]
    assert kinds == ["int64", "int32"]
    assert ask(of, q.META, "trade").column("t").to_pylist()[4] == "i"
    assert refused(of, "select from trade") == "mismatch"
    of.database.change(SECOND, "dropped", "quote")
    assert ask(of, q.SLICE, "quote", "date", FIRST, 0, 3).column_names == ["time", "sym", "bid", "ask", "bsize"]


def test_in_memory_tables() -> None:
    """One table with a date column: no partition column, no empty dates, and it is read whole, too."""
    of = answers(kind="memory")
    of.database.empty(SECOND)
    assert ask(of, q.PARTITION_FIELD, "trade") is None
    assert ask(of, q.PARTITIONS, "trade", "date").to_pydict() == {"date": [FIRST, LAST], "rows": [500, 500]}
    assert ask(of, q.SLICE, "trade", "date", LAST, 0, 700).num_rows == 500
    rows, _ = ask(of, q.WHOLE_FINGERPRINT, "trade")
    found = ask(of, q.WHOLE_SLICE, "trade", 400, 200)
    assert rows == 1000
    assert found.column("date").to_pylist() == [FIRST] * 100 + [LAST] * 100
    assert refused(answers(), q.WHOLE_SLICE, "trade", 0, 1) == "par"


_ALL = (FIRST, SECOND, LAST)
_EVERY = None
TYPED: dict[str, tuple[tuple[dt.date, ...], set[str | None] | None]] = {
    "count select from trade": (_ALL, _EVERY),
    "select from trade where date = 2018.12.20": ((SECOND,), _EVERY),
    "select from trade where date within 2018.12.20 2018.12.31": ((SECOND, LAST), _EVERY),
    "select sym from trade where date within (2018.12.19;2018.12.20), sym in `SP500`VIX.001": (
        (FIRST, SECOND),
        {"SP500", "VIX.001"},
    ),
    "select price from trade where sym=`WTI": (_ALL, {"WTI"}),
    "select from trade where sym in ``WTI": (_ALL, {None, "WTI"}),
    "select from trade where sym=`, date=2018.12.19;": ((FIRST,), {None}),
}
"""Each with the days and symbols of the rows that are meant."""


@pytest.mark.parametrize("text", TYPED)
def test_what_people_type(text: str) -> None:
    """Selects by date, by span of dates, by symbol; the number of rows is that of the rows that are meant."""
    of = answers()
    everything = of.answer(b"select from trade")
    days, symbols = everything.column("date").to_pylist(), everything.column("sym").to_pylist()
    meant, named = TYPED[text]
    pairs = zip(days, symbols, strict=True)
    expected = sum(day in meant and (named is None or sym in named) for day, sym in pairs)
    found = ask(of, text)
    assert expected > 0
    assert (found if isinstance(found, int) else found.num_rows) == expected


def test_columns_of_a_select() -> None:
    """Those that are named, in their order, called as q does where they come twice; else all."""
    of = answers()
    found = of.answer(b"select size,date, size from trade where date=2018.12.21")
    assert found.column_names == ["size", "date", "size1"]
    assert set(found.column("date").to_pylist()) == {LAST}
    assert ask(of, "select from quote where date=2018.12.21").column_names == ask(of, "cols quote").to_pylist()
    keyed = of.answer(b"meta trade")
    assert keyed.schema.metadata == {b"kdb.keys": b"1"}


@pytest.mark.parametrize(
    ("query", "error"),
    [
        (("select avg price by sym from trade",), "nyi: select avg price by sym from trade"),
        (("select size wsum price from trade",), "nyi: select size wsum price from trade"),
        (("{[x] x}", 1), "nyi: {[x] x}"),
        (("delete from `trade",), "nyi: delete from `trade"),
        (("select from trade where price>5",), "nyi: select from trade where price>5"),
        (("select from nosuch",), "nosuch"),
        (("select nosuch from trade",), "nosuch"),
        (("meta nosuch",), "nosuch"),
        ((q.META, "nosuch"), "nosuch"),
        ((q.META, "quote"), "access"),
        (("select from quote",), "access"),
        ((q.META, LAST), "type"),
        ((q.META, "trade", "trade"), "rank"),
        ((q.SLICE, "trade", "date", "trade", 0, 1), "type"),
        ((q.SLICE, "trade", "sym", LAST, 0, 1), "sym"),
        (("select from trade where date=2018.13.01",), "2018.13.01"),
    ],
)
def test_errors_are_those_of_q(query: tuple[Any, ...], error: str) -> None:
    """`'type`, `'rank`, `'access`, the name of what is not there; what is not understood is `'nyi`, with the text."""
    assert refused(answers(denied=("quote",)), *query) == error


def test_a_function_by_name_is_not_called() -> None:
    """A list that begins with a symbol calls a function of the server: none is there."""
    with pytest.raises(qipc.QServerError, match="nyi"):
        answers().answer(["system", b"ls"])


def test_dates_are_kept_while_there_is_room() -> None:
    """A date that was made is not made again; with room for one alone, the others are."""
    roomy, tight = Database(KdbConfig(**SMALL)), Database(KdbConfig(**SMALL, cache=1))
    for database in (roomy, tight):
        made = database.rows("trade", FIRST)
        assert database.rows("trade", FIRST) is made
        database.rows("trade", LAST)
        assert (database.rows("trade", FIRST) is made) == (database is roomy)
        assert database.rows("trade", FIRST).equals(made)


def test_long_lists_of_symbols_are_sent_in_part() -> None:
    """Of many symbols, only those that rows need go along; the rows stay the same."""
    names = pa.array([f"s{number:05d}" for number in range(10_000)])
    codes = pa.array([9000, None, 9002], pa.int32())
    table = pa.table({"sym": pa.DictionaryArray.from_arrays(codes, names)})
    found = narrowed(table)
    assert found.to_pydict() == {"sym": ["s09000", None, "s09002"]}
    assert len(found.column("sym").chunk(0).dictionary) == 3
    assert narrowed(table.slice(1, 1)).to_pydict() == {"sym": [None]}
