"""The tables that the parity cases read: extremes, NULL, NaN, -0.0, odd texts, folds of the clock, nested values."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pyarrow as pa

from lakehouse_assets_tests.sql.parity.json_texts import EDGES

NAN, INF = float("nan"), float("inf")
RUN_DATE = dt.date(2024, 5, 6)

_NUMBERS = [
    (1, 0, 0, 0, 0, 0.0, 0.0, "0.00", "0.000000", True),
    (2, 127, 32767, 2147483647, 2**63 - 1, 3.4e38, 1.7976931348623157e308, "99999999.99", "999999999999.999999", False),
    (
        3,
        -128,
        -32768,
        -(2**31),
        -(2**63),
        -3.4e38,
        -1.7976931348623157e308,
        "-99999999.99",
        "-999999999999.999999",
        True,
    ),
    (4, None, None, None, None, None, None, None, None, None),
    (5, 5, -7, 7, -7, 1.1, 2.5, "2.50", "2.500000", False),
    (6, -5, 7, -7, 7, -1.1, -2.5, "-2.50", "-2.500000", True),
    (7, 1, 2, 3, 4, NAN, NAN, "1.01", "1.005000", None),
    (8, 2, 3, 100, 1000000007, INF, INF, "0.01", "0.000001", True),
    (9, 3, 4, 10, -1, -INF, -INF, "-0.01", "-0.000001", False),
    (10, 4, 5, 12345, 1, 0.1, 1.005, "1.25", "1.250000", True),
    (11, 6, 6, -12345, 2, -0.0, -0.0, "12345.67", "12345.670000", False),
    (12, 7, 8, 1, 3, 1e-7, 0.49999999999999994, "0.50", "0.500000", True),
    (13, 8, 9, 2, 9007199254740993, 16777217.0, 4503599627370497.5, "2.67", "2.675000", None),
    (14, 9, 1, -1, 86400, 123456.789, 1e20, "1000.00", "100000.000000", True),
    (15, 10, 1, 4, 255, 2.675, 2.675, "7.77", "0.125000", False),
]

_TEXTS = [
    "abc", "ABC", "", None, " a b ", "  ", "\t5\n", "12", "-12", "+7", "12.5", "1e3", "1_000", "0x1", "99999999999",
    "NaN", "inf", "-Infinity", "nan", "1.5d", ".5", "5.", "true", "T", "no", "0", "yes", "2024-01-05", "2024-1-5",
    "2024-02-30", "2024-01-05 10:11", "2024-01-05T10:11:12.123456789Z", "2024-01-05 10:11:12+02:00",
    "2024-01-05 10:11:12 +02:00", "2024-01-05 10:11:12.5 UTC", "2024-01-05 24:00:00", "10:11:12", "2024-01-05 junk",
    "20240105", "0000-01-01", "2024-13-01", "1969-12-31 23:59:59.999999", "2024-03-31T02:30:00", "straße", "ΟΔΟΣ", "İı",
    "🤦🏼x", "éÉ", "a,b,,c", "a.b.c", "a%b_c", "a\\b", "line\nbreak", "tail\n", "05/01/2024", "1/2/2024",
    "2024-01-05 10:11:12", "aab", "x12y345", "ǆ", "ﬁ", "1.005", "-1.005", "12345678901234567890", "1e400", "1e-400",
    "0.1e1", " 2024-01-05 ", "2024-01-05T10:11:12-0800", "2024-01-05T10:11:60", "2024-01-05 10:11:12Z", "0099-01-05",
    "99-01-05", "2024-01-05 1:2:3", "2024-01-05T10:11:12.1+18:30", "2024",
]  # fmt: skip
_OTHERS = ["b", "B", "a", "x", None, " ", "5", "1", "", "é", "a,"]

_MOMENTS = [
    None,
    dt.datetime(1970, 1, 1),
    dt.datetime(1969, 12, 31, 23, 59, 59, 500000),
    dt.datetime(2024, 2, 29, 23, 59, 59, 999999),
    dt.datetime(2024, 1, 31, 10, 20, 30, 123456),
    dt.datetime(2024, 3, 31, 1, 30),
    dt.datetime(2024, 10, 27, 2, 30),
    dt.datetime(2, 1, 1),
    dt.datetime(9999, 12, 31, 23, 59, 59),
    dt.datetime(1900, 3, 1),
    dt.datetime(2023, 12, 31, 12),
    dt.datetime(2024, 12, 30),
    dt.datetime(2024, 1, 7, 5, 6, 7),
    dt.datetime(1582, 10, 15),
    dt.datetime(2021, 1, 3, 13, 0, 0, 1000),
]


def tables() -> dict[str, pa.Table]:
    """n: numbers, s: texts, t: times, g: groups, a: nested values, j: JSON and what is not; each has an `id`."""
    return {"n": _numbers(), "s": _texts(), "t": _times(), "g": _groups(), "a": _nested(), "j": _json()}


def _numbers() -> pa.Table:
    kinds = {"id": pa.int32(), "i8": pa.int8(), "i16": pa.int16(), "i32": pa.int32(), "i64": pa.int64(),
             "f32": pa.float32(), "f64": pa.float64(), "de": pa.decimal128(10, 2), "d6": pa.decimal128(18, 6),
             "b": pa.bool_()}  # fmt: skip
    columns = []
    for position, kind in enumerate(kinds.values()):
        values = [row[position] for row in _NUMBERS]
        if pa.types.is_decimal(kind):
            values = [None if value is None else Decimal(value) for value in values]
        columns.append(pa.array(values, kind))
    return pa.table(dict(zip(kinds, columns, strict=True)))


def _texts() -> pa.Table:
    count = range(len(_TEXTS))
    return pa.table(
        {
            "id": pa.array(count, pa.int32()),
            "x": pa.array(_TEXTS),
            "y": pa.array([_OTHERS[i % len(_OTHERS)] for i in count]),
            "k": pa.array([i % 7 - 3 for i in count], pa.int32()),
            "m": pa.array([None if i % 9 == 0 else i % 5 - 1 for i in count], pa.int32()),
        }
    )


def _times() -> pa.Table:
    count = range(len(_MOMENTS))
    utc = [moment and moment.replace(tzinfo=dt.UTC) for moment in _MOMENTS]
    return pa.table(
        {
            "id": pa.array(count, pa.int32()),
            "ts": pa.array(utc, pa.timestamp("us", "UTC")),
            "ntz": pa.array(_MOMENTS, pa.timestamp("us")),
            "d": pa.array([moment and moment.date() for moment in _MOMENTS], pa.date32()),
            "k": pa.array([i % 5 - 2 for i in count], pa.int32()),
            "u": pa.array([utc[(i * 7 + 3) % len(utc)] for i in count], pa.timestamp("us", "UTC")),
        }
    )


def _groups() -> pa.Table:
    """Sixty rows that look random and always are the same."""
    count = range(60)
    start = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    wide = [None, 0.5, 1.25, -2.0, 3.75, 0.25, -1.5]
    return pa.table(
        {
            "id": pa.array(count, pa.int32()),
            "g": pa.array([[*"aabc", None][i * 37 % 11 % 5] for i in count]),
            "v": pa.array([None if i * 29 % 13 == 4 else i * 31 % 11 - 5 for i in count], pa.int32()),
            "w": pa.array([wide[i * 17 % 7] for i in count], pa.float64()),
            "q": pa.array([None if i % 8 == 3 else Decimal(i * 7919 % 1000 - 500).scaleb(-2) for i in count],
                          pa.decimal128(10, 2)),
            "b": pa.array([[None, True, False, True][i * 13 % 7 % 4] for i in count]),
            "ts": pa.array([start + dt.timedelta(minutes=17 * (i * 101 % 300)) for i in count],
                           pa.timestamp("us", "UTC")),
            "bad": pa.array([[NAN, INF, 1.0, None, 2.0, 0.5][i * 23 % 6] for i in count], pa.float64()),
        }
    )  # fmt: skip


def _nested() -> pa.Table:
    item = pa.struct([("p", pa.int32()), ("q", pa.float64())])
    pair = pa.struct([("a", pa.int32()), ("b", pa.string())])
    return pa.table(
        {
            "id": pa.array([1, 2, 3, 4, 5], pa.int32()),
            "arr": pa.array([[1, 2, 3], [], None, [None, 5], [7]], pa.list_(pa.int32())),
            "strs": pa.array([["a", None, "b"], [], None, ["x"], [""]], pa.list_(pa.string())),
            "st": pa.array(
                [{"a": 1, "b": "x"}, {"a": None, "b": None}, None, {"a": 2, "b": "y"}, {"a": 1, "b": "x"}], pair
            ),
            "mp": pa.array(
                [[("k", 1)], [], None, [("k", None), ("l", 2)], [("z", 9)]], pa.map_(pa.string(), pa.int32())
            ),
            "i": pa.array([0, 1, 2, -1, None], pa.int32()),
            "bin": pa.array([b"abc", b"\xff", None, b"", b"\xc3\xa9"], pa.binary()),
            "items": pa.array(
                [[{"p": 1, "q": 2.5}, {"p": 2, "q": None}], [], None, [{"p": None, "q": 1.0}], [{"p": 3, "q": 0.0}]],
                pa.list_(item),
            ),
        }
    )


def _json() -> pa.Table:
    texts = [None, *EDGES]
    return pa.table(
        {
            "id": pa.array(range(len(texts)), pa.int32()),
            "x": pa.array(texts, pa.string()),
            "bin": pa.array([None if text is None else text.encode() for text in texts], pa.binary()),
        }
    )
