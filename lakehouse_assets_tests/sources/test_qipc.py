"""The codec against frames made by hand: what each type becomes, and what is refused by name.

K23, K25 and K27 of the kdb pipeline: no deprecated type stops a table, nothing is cut in silence, no sentinel leaks.
"""

from __future__ import annotations

import datetime as dt
import pickle
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.errors import LakehouseError, SettingsError, SourceError, SourceUnreadable, TypeRefused
from lakehouse_assets.sources import qipc
from lakehouse_assets.sources.kdb_types import BY_NAME, NANOSECONDS
from lakehouse_assets_tests.sources.qipc_lab import CASES, NUMBERS, SENTINELS, TIMESTAMPS, Q

BOTH = pytest.mark.parametrize("q", [Q("<"), Q(">")], ids=["little", "big"])
LITTLE = Q()


def read(message: bytes, q: Q = LITTLE, **options: object):
    """What a message decodes to."""
    return qipc.decode(q.frame(message), **options)  # type: ignore[arg-type]


def column(values: bytes, q: Q = LITTLE, **options: object) -> pa.ChunkedArray:
    """What a column of a table decodes to."""
    return read(q.table([("c", values)]), q, **options).column("c")


def kind(table: pa.Table, name: str = "c") -> str:
    """What the metadata says of a column."""
    return table.schema.field(name).metadata[b"kdb.type"].decode()


@BOTH
@pytest.mark.parametrize("name", CASES)
def test_a_vector_of_each_type(name: str, q: Q) -> None:
    """K27: nulls are NULL, edge values are kept, in both byte orders, as a vector and as a column that names its type."""
    table = read(q.table([("c", q.case(name))]), q)
    assert table.column("c").to_pylist() == CASES[name].found
    assert table.schema.field("c").type == BY_NAME[name].arrow
    assert kind(table) == name
    table.validate(full=True)
    if name != "char":
        assert read(q.case(name), q).to_pylist() == CASES[name].found


@BOTH
@pytest.mark.parametrize("name", CASES)
def test_an_atom_of_each_type(name: str, q: Q) -> None:
    """K27: an atom is a Python value, a null `None`."""
    case = CASES[name]
    for given_, found in zip(case.given, case.found, strict=True):
        atom = read(struct.pack("b", -case.number) + q.elements(case.code, [given_]), q)
        assert atom == (found.encode() if name == "char" and found else found)
        assert type(atom) is type(found) or name == "char"


@BOTH
def test_timestamps_keep_every_nanosecond(q: Q) -> None:
    """K25: the first, the last and the null timestamp; PyKX wraps after 2262 and gives 1707 for infinity."""
    found = column(q.case("timestamp"), q)
    assert found.type == pa.timestamp("ns", "UTC")
    assert found.cast(pa.int64()).to_pylist() == [None, *(value + NANOSECONDS for value in TIMESTAMPS[1:])]


@BOTH
def test_a_timestamp_atom_is_exact(q: Q) -> None:
    """K25: an atom keeps nanoseconds, too."""
    assert read(b"\xf4" + q.elements("q", [1]), q) == np.datetime64(NANOSECONDS + 1, "ns")
    assert read(b"\xf4" + q.elements("q", [-(2**63)]), q) is None


def test_a_timestamp_without_nanoseconds_since_1970_is_refused() -> None:
    """K25: what lies after 2262-04-11 is refused with column and row, not wrapped."""
    with pytest.raises(TypeRefused, match="row 1 of column 'c' is a timestamp that is after 2262-04-11"):
        column(LITTLE.vector(12, "q", [0, TIMESTAMPS[-1] + 1]))


@BOTH
@pytest.mark.parametrize("name", SENTINELS)
def test_infinities_are_refused_by_name(name: str, q: Q) -> None:
    """K27: an infinity of an integer or a time is refused with its type, column and row, both of them."""
    code, most = SENTINELS[name]
    for value, sign in ((most, ""), (-most, "-")):
        with pytest.raises(TypeRefused, match=rf"row 1 of column 'c' is an infinity of type {name} \({sign}0[wW]\)"):
            column(q.vector(NUMBERS[name], code, [0, value]), q)


@BOTH
@pytest.mark.parametrize("name", SENTINELS)
def test_infinities_become_null_when_told(name: str, q: Q) -> None:
    """K27: `kdb.infinities: null` makes them NULL, and nothing else."""
    code, most = SENTINELS[name]
    found = column(q.vector(NUMBERS[name], code, [0, most, -most]), q, infinities="null")
    assert found.is_null().to_pylist() == [False, True, True]


def test_infinities_are_refused_or_null() -> None:
    """K27: any other word is refused."""
    with pytest.raises(SettingsError, match=r"kdb\.infinities"):
        read(LITTLE.case("long"), infinities="keep")


@pytest.mark.parametrize(("number", "value"), [(13, 96000), (13, -23989), (14, 2921940), (14, -730120)])
def test_dates_outside_of_the_years_1_to_9999_are_refused(number: int, value: int) -> None:
    """K25: a day that Python, Spark and Delta do not share is refused by row."""
    with pytest.raises(TypeRefused, match=r"row 1 of column 'c' is a (month|date) that lies outside of the years"):
        column(LITTLE.vector(number, "i", [0, value]))


@pytest.mark.parametrize("value", [2921940.0, -730119.5, 1e300])
def test_datetimes_outside_of_the_years_1_to_9999_are_refused(value: float) -> None:
    """K25: so with datetimes."""
    with pytest.raises(TypeRefused, match="row 0 of column 'c' is a datetime that lies outside"):
        column(LITTLE.vector(15, "d", [value]))


def test_minutes_that_overflow_nanoseconds_are_refused() -> None:
    """K25: 32 bits of minutes do not fit into 64 bits of nanoseconds."""
    with pytest.raises(TypeRefused, match="row 1 of column 'c' is a minute that does not fit"):
        column(LITTLE.vector(17, "i", [153_722_867, 153_722_868]))


@pytest.mark.parametrize("name", [*CASES, "timestamp"])
def test_an_empty_vector_keeps_its_type(name: str) -> None:
    """K23: an empty table has the types of a full one; PyKX makes an empty symbol column typeless."""
    table = read(LITTLE.table([("c", LITTLE.vector(NUMBERS[name], "", []))]))
    assert (table.num_rows, table.schema.field("c").type, kind(table)) == (0, BY_NAME[name].arrow, name)
    table.validate(full=True)


@pytest.mark.parametrize("attribute", range(5))
def test_attributes_are_passed_over(attribute: int) -> None:
    """K35: sorted, unique, parted and grouped vectors, and a sorted table, read as any other."""
    message = LITTLE.table([("c", LITTLE.vector(7, "q", [1, 2], attribute))], attribute=attribute & 1)
    assert read(message).to_pydict() == {"c": [1, 2]}


def test_an_attribute_that_q_does_not_have_is_malformed() -> None:
    """A frame that is off by a byte is told, not guessed."""
    with pytest.raises(SourceUnreadable, match="attribute 9"):
        read(LITTLE.vector(7, "q", [1], 9))


@BOTH
def test_lengths_of_8_bytes(q: Q) -> None:
    """A vector of more than 2^31 elements has bit 7 of its attribute set, and 8 bytes of length; PyKX agrees."""
    body = struct.pack(q.order + "bBq", 7, 0x80 | 1, 2) + q.elements("q", [5, 6])
    assert read(body, q).to_pylist() == [5, 6]
    assert read(struct.pack(q.order + "bBq", 11, 0x80, 1) + b"ab\0", q).to_pylist() == ["ab"]


def test_a_length_over_2_to_31_is_read_as_such() -> None:
    """The high half of the 8 bytes counts."""
    with pytest.raises(SourceUnreadable, match="a vector of 4294967297 elements"):
        read(struct.pack("<bBq", 4, 0x80, 2**32 + 1) + b"\0")


@BOTH
def test_char_vectors_are_text(q: Q) -> None:
    """K25: a column of char vectors is text: UTF-8, and an empty one is no NULL."""
    table = read(q.table([("c", q.list(q.chars(b"ab"), q.chars(b""), q.chars("€\0 ".encode())))]), q)
    assert table.column("c").to_pylist() == ["ab", "", "€\0 "]
    assert (kind(table), table.schema.field("c").type) == ("char vector", pa.string())


@BOTH
@pytest.mark.parametrize("name", [name for name in CASES if name != "char"])
def test_lists_of_each_type(name: str, q: Q) -> None:
    """K27: a column of vectors is a column of lists, with the nulls inside masked."""
    case = CASES[name]
    rows = q.list(q.case(name), q.vector(case.number, case.code, []), q.list(), q.case(name))
    table = read(q.table([("c", rows)]), q)
    assert table.column("c").to_pylist() == [case.found, [], [], case.found]
    assert (kind(table), table.schema.field("c").type) == (f"{name} list", pa.list_(BY_NAME[name].arrow))
    table.validate(full=True)


def test_lists_of_lists_to_any_depth() -> None:
    """Lists of texts, and lists of lists of numbers."""
    q = LITTLE
    texts = q.list(q.list(q.chars(b"a"), q.chars(b"bc")), q.list(), q.list(q.chars(b"")))
    longs = q.list(q.list(q.vector(7, "q", [1]), q.list()), q.list(q.vector(7, "q", [2, -(2**63)])), q.list())
    table = read(q.table([("t", texts), ("l", longs)]))
    assert table.to_pydict() == {"t": [["a", "bc"], [], [""]], "l": [[[1], []], [[2, None]], []]}
    assert (kind(table, "t"), kind(table, "l")) == ("char vector list", "long list list")


def test_values_refused_inside_of_lists_tell_the_row() -> None:
    """K27: the row of the table, not the place in the list, at any depth."""
    q = LITTLE
    one, two, first = q.vector(7, "q", [1, 2]), q.vector(7, "q", [3, 2**63 - 1]), q.vector(7, "q", [2**63 - 1, 4])
    for rows in (
        q.list(one, q.list(), two),
        q.list(one, q.list(), first),
        q.list(q.list(one, one), q.list(), q.list(one, two)),
        q.list(q.list(one, one), q.list(), q.list(first, one)),
    ):
        with pytest.raises(TypeRefused, match=r"row 2 of column 'c' holds a value that .*is an infinity of type long"):
            column(rows)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (LITTLE.list(LITTLE.vector(7, "q", [1]), LITTLE.vector(9, "d", [1.0])), "row 1 of column 'c' is a vector of float"),
        (LITTLE.list(LITTLE.vector(7, "q", [1]), struct.pack("<bq", -7, 1)), "row 1 of column 'c' is one long, not a list"),
        (LITTLE.list(b"\x65\0"), "row 0 of column 'c' is one null"),
        (LITTLE.list(LITTLE.dictionary(LITTLE.symbols("a"), LITTLE.symbols("b"))), "row 0 of column 'c' is a dictionary"),
        (LITTLE.list(LITTLE.table([("a", LITTLE.symbols("b"))])), "row 0 of column 'c' is a table"),
        (LITTLE.vector(20, "i", [0]), "column 'c' is an enumeration"),
        (LITTLE.list(LITTLE.vector(20, "i", [0])), "row 0 of column 'c' is an enumeration"),
        (LITTLE.dictionary(LITTLE.symbols("a"), LITTLE.symbols("b")), "column 'c' is a dictionary"),
    ],
    ids=["mixed", "atom", "generic", "dictionary", "table", "enumeration", "enumerations", "column-dictionary"],
)  # fmt: skip
def test_columns_that_are_not_held_are_refused_by_name(rows: bytes, problem: str) -> None:
    """K25: what has no place in Delta is refused with the column, the row and what to do."""
    with pytest.raises(TypeRefused, match=problem) as caught:
        column(rows)
    assert caught.value.fix


@pytest.mark.parametrize("message", [b"\x64\0" + LITTLE.chars(b"{x}"), b"\xec\0\0\0\0", b"\x14\0\0\0\0\0"])
def test_functions_and_enumerations_are_no_data(message: bytes) -> None:
    """K25: a lambda, an enumerated atom and an enumerated vector are refused by name."""
    with pytest.raises(TypeRefused, match=r"the answer is an? (function|enumeration)"):
        read(message)


@pytest.mark.parametrize(
    "rows",
    [LITTLE.symbols("a", b"\xff"), LITTLE.list(LITTLE.chars(b"a"), LITTLE.chars(b"\xff")), LITTLE.chars(b"a\xff")],
    ids=["symbol", "char vector", "char"],
)
def test_text_that_is_not_utf8_is_refused_with_its_row(rows: bytes) -> None:
    """K27: PyKX ends the process on it."""
    with pytest.raises(TypeRefused, match=r"row 1 of column 'c' is the .* not UTF-8|is no text in UTF-8"):
        column(rows)


def test_text_is_judged_symbol_by_symbol() -> None:
    """Two halves of one character in two symbols are no text, though together they would be."""
    with pytest.raises(TypeRefused, match=r"row 0 of column 'c' is the text b'\\xc3'"):
        column(LITTLE.symbols(b"\xc3", b"\xa9"))
    with pytest.raises(TypeRefused, match="row 1 of column 'c' holds a value that is the text"):
        column(LITTLE.list(LITTLE.symbols("a", "b"), LITTLE.symbols("a", b"\xff")))


@pytest.mark.parametrize("number", [99, 127])
def test_keyed_tables_are_flat(number: int) -> None:
    """K23: key columns first, then the others; the schema says how many are keys."""
    q = LITTLE
    keys, values = q.table([("k", q.symbols("a"))]), q.table([("v", q.vector(7, "q", [1]))])
    table = read(q.dictionary(keys, values, number))
    assert table.to_pydict() == {"k": ["a"], "v": [1]}
    assert table.schema.metadata == {b"kdb.keys": b"1"}


def test_dictionaries() -> None:
    """A dictionary that is no keyed table has its keys and its values."""
    q = LITTLE
    found = read(q.dictionary(q.symbols("a", "b"), q.list(struct.pack("<bq", -7, 1), q.chars(b"x"))))
    assert (found.keys.to_pylist(), found.values) == (["a", "b"], [1, b"x"])


def test_duplicate_names_are_numbered_as_q_does() -> None:
    """K22: `time_f` twice is `time_f` and `time_f1`, in a keyed table, too."""
    q = LITTLE
    one = q.vector(7, "q", [1])
    assert read(q.table([("t", one), ("u", one), ("t", one), ("t", one)])).column_names == ["t", "u", "t1", "t2"]
    assert read(q.dictionary(q.table([("t", one)]), q.table([("t", one)]))).column_names == ["t", "t1"]


def test_a_duplicate_name_whose_number_is_taken_is_refused() -> None:
    """K22: nothing is dropped or renamed over another column."""
    one = LITTLE.vector(7, "q", [1])
    with pytest.raises(TypeRefused, match="'t1', as q would call it, is a column already"):
        read(LITTLE.table([("t", one), ("t1", one), ("t", one)]))


def test_a_column_of_lists_without_elements_has_the_type_that_meta_says() -> None:
    """K23: empty, or of empty lists alone; without `meta` it has no type."""
    q = LITTLE
    for rows, texts, longs in ((q.list(), [], []), (q.list(q.list(), q.list()), ["", ""], [[], []])):
        assert column(rows, types={"c": "C"}).to_pylist() == texts
        assert column(rows, types={"c": "C"}).type == pa.string()
        assert column(rows, types={"c": "J"}).to_pylist() == longs
        assert column(rows, types={"c": "J"}).type == pa.list_(pa.int64())
        assert column(rows).type == pa.null()


def test_an_error_is_raised_with_its_text() -> None:
    """A server's error is an error of its own, and survives pickling."""
    with pytest.raises(qipc.QServerError, match="'type") as caught:
        read(b"\x80type\0")
    assert caught.value.text == "type"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.text, str(again)) == ("type", str(caught.value))
    assert isinstance(again, SourceError)


def _full(q: Q) -> bytes:
    columns = [(name, q.case(name)) for name in ("long", "symbol", "float", "time", "timespan")]
    rows = [(name, q.vector(CASES[name][0], CASES[name][1], CASES[name][2][:3])) for name, _ in columns]
    lists = q.list(q.chars(b"ab"), q.chars(b""), q.chars(b"c"))
    return q.dictionary(q.table(rows[:1]), q.table([*rows[1:], ("texts", lists), ("lists", q.list(*[rows[0][1]] * 3))]))


@BOTH
def test_a_frame_cut_at_any_byte_is_an_error(q: Q) -> None:
    """A cut frame is told as such: whether or not its header was mended to the shorter length."""
    message = _full(q)
    for length in range(len(message)):
        with pytest.raises(SourceUnreadable):
            read(message[:length], q)
        with pytest.raises(SourceUnreadable):
            qipc.decode(q.frame(message)[: 8 + length])


def test_bytes_behind_the_message_are_an_error() -> None:
    """A frame that holds more than its message was not understood."""
    with pytest.raises(SourceUnreadable, match="3 bytes after its end"):
        read(LITTLE.case("long") + b"\0\0\0")
    with pytest.raises(SourceUnreadable, match="its header says 46"):
        qipc.decode(LITTLE.frame(LITTLE.case("long")) + b"\0")


def test_columns_of_different_length_are_malformed() -> None:
    """So are names without columns, and columns that are atoms."""
    q = LITTLE
    one, two = q.vector(7, "q", [1]), q.vector(7, "q", [1, 2])
    for message in (
        q.table([("a", one), ("b", two)]),
        bytes((98, 0)) + q.dictionary(q.symbols("a", "b"), q.list(one)),
        q.table([("a", struct.pack("<bq", -7, 1))]),
        q.dictionary(q.table([("a", one)]), q.table([("b", two)])),
        bytes((98, 0)) + one,
    ):
        with pytest.raises(SourceUnreadable):
            read(message)


def test_lists_deeper_than_data_are_malformed() -> None:
    """A frame of lists in lists ends in an error, not in Python's recursion."""
    bottom = LITTLE.list()
    for _ in range(500):
        bottom = LITTLE.list(bottom)
    for message in (bottom, LITTLE.table([("c", bottom)])):
        with pytest.raises(SourceUnreadable, match="64 deep"):
            read(message)


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_a_changed_frame_gives_a_value_or_our_error(data: st.DataObject) -> None:
    """Bytes that were changed, cut or added never give another exception, a hang or a crash."""
    q = data.draw(st.sampled_from((Q("<"), Q(">"))))
    everything = [(name, q.list(q.case(name), q.case(name))) for name in CASES]
    simple = [(name, q.vector(NUMBERS[name], CASES[name].code, CASES[name].given[:2])) for name in CASES]
    message = bytearray(data.draw(st.sampled_from((_full(q), q.table(everything), q.table(simple)))))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(message) - 1))
        message[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=5))
        message = message or bytearray(1)
    try:
        found = qipc.decode(q.frame(bytes(message)), data.draw(st.sampled_from(("refuse", "null"))))
    except LakehouseError:
        return
    if isinstance(found, pa.Table):
        found.validate(full=True)


@settings(max_examples=200, deadline=None)
@given(frame=st.binary(max_size=64))
def test_any_bytes_give_a_value_or_our_error(frame: bytes) -> None:
    """So do bytes that never were a frame."""
    for given_ in (frame, LITTLE.frame(frame), Q(">").frame(frame)):
        try:
            qipc.decode(given_)
        except LakehouseError:
            continue


def test_decoded_buffers_are_aligned_and_their_own() -> None:
    """Delta's writer refuses misaligned buffers; and a table does not keep the frame alive or change with it."""
    q = LITTLE
    frame = bytearray(q.frame(q.table([("x", q.vector(4, "B", [1, 2, 3])), ("l", q.vector(7, "q", [1, 2, 3]))])))
    table = qipc.decode(frame)
    frame[8:] = bytes(len(frame) - 8)
    assert table.to_pydict() == {"x": [1, 2, 3], "l": [1, 2, 3]}
    assert table.column("l").chunk(0).buffers()[1].address % 64 == 0


def test_a_million_symbols() -> None:
    """A million different symbols, of several lengths, at their places."""
    names = [f"S{i}" if i % 7 else "" for i in range(1_000_000)]
    found = read(b"\x0b\0" + struct.pack("<i", len(names)) + "\0".join([*names, ""]).encode())
    assert found.null_count == sum(not name for name in names)
    assert found.fill_null("").equals(pa.array(names))


def test_dates_of_python_are_vectors_and_atoms() -> None:
    """What a query is given comes back as it was sent: symbol, text, date, vectors of symbols and of dates."""
    days = [dt.date(2024, 1, 2), dt.date(1969, 12, 31)]
    call = ("{[t;d]}", "trade", b"text", days[0], ["a", "b"], days, True, 7, -1.5, np.datetime64(5, "ns"))
    found = qipc.decode(b"".join(qipc.encode(call, qipc.Kind.SYNC)))
    assert found[:4] == [b"{[t;d]}", "trade", b"text", days[0]]
    assert [found[4].to_pylist(), found[5].to_pylist()] == [["a", "b"], days]
    assert found[6:] == [True, 7, -1.5, np.datetime64(5, "ns")]
    assert [type(value) for value in found[6:9]] == [bool, int, float]
