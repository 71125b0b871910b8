"""The part of the engine contract about types: every value comes back as it was, or its type is refused by name."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import struct
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from lakehouse_assets.errors import LakehouseError, TypeRefused
from lakehouse_assets.lake.values import TableSpec
from lakehouse_assets_tests.engines.bench import Bench

UTC = pa.timestamp("us", tz="UTC")
NTZ = pa.timestamp("us")
FIRST, LAST, BEFORE_1970 = map(
    dt.datetime.fromisoformat, ("0001-01-01", "9999-12-31T23:59:59.999999", "1969-12-31T23:59:59.999999")
)
FLOATS = [0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 0.1]
TEXTS = ["", " ", "ü", "e\u0301", "\u2028", "a\0b", "\U0001f600", "'", '"', "\\", "line\nline", "NULL", "x" * 300]
DEEP = pa.struct([("when", pa.list_(UTC)), ("by", pa.map_(pa.string(), pa.struct([("d", pa.decimal128(38, 10))])))])

TYPES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "boolean": (pa.bool_(), [True, False]),
    "tinyint": (pa.int8(), [-128, 0, 127]),
    "smallint": (pa.int16(), [-32768, 0, 32767]),
    "int": (pa.int32(), [-(2**31), 0, 2**31 - 1]),
    "bigint": (pa.int64(), [-(2**63), 0, 2**63 - 1, 2**53 + 1]),
    "float": (pa.float32(), [0.0, -0.0, math.nan, math.inf, -math.inf, 1.401298464324817e-45, 0.5]),
    "double": (pa.float64(), FLOATS),
    "decimal(38,10)": (
        pa.decimal128(38, 10),
        [Decimal("9" * 28 + "." + "9" * 10), Decimal("-" + "9" * 28), Decimal("1E-10")],
    ),
    "decimal(38,0)": (pa.decimal128(38, 0), [Decimal("9" * 38), Decimal("-" + "9" * 38), Decimal(0)]),
    "decimal(5,5)": (pa.decimal128(5, 5), [Decimal("0.99999"), Decimal("-0.00001")]),
    "decimal(9,2)": (pa.decimal128(9, 2), [Decimal("1234567.89"), Decimal("-0.01")]),
    "string": (pa.string(), TEXTS),
    "binary": (pa.binary(), [b"", b"\0", bytes(range(256)), b"x" * 300]),
    "date": (
        pa.date32(),
        [dt.date.min, dt.date(1582, 10, 15), dt.date(1970, 1, 1), dt.date.max],
    ),
    "timestamp": (
        UTC,
        [moment.replace(tzinfo=dt.UTC) for moment in (FIRST, BEFORE_1970, LAST)],
    ),
    "timestamp_ntz": (NTZ, [FIRST, BEFORE_1970, LAST]),
    "array": (pa.list_(pa.float64()), [[], [None], FLOATS]),
    "array of arrays": (pa.list_(pa.list_(pa.string())), [[], [[], None, [None, *TEXTS]]]),
    "map": (pa.map_(pa.string(), pa.int64()), [[], [("a", 1), ("b", None), ("", 2)]]),
    "map of decimals": (pa.map_(pa.int64(), pa.decimal128(38, 0)), [[(1, Decimal("9" * 38)), (2, None)]]),
    "struct": (
        pa.struct([("x", pa.int8()), ("Y z".replace(" ", "_"), NTZ)]),
        [{"x": None, "Y_z": None}, {"x": 1, "Y_z": LAST}],
    ),
    "deep": (DEEP, [{"when": None, "by": None}, {"when": [], "by": [("k", {"d": Decimal("1E-10")}), ("n", None)]}]),
}
GROUPS = [list(TYPES)[start : start + 8] for start in range(0, len(TYPES), 8)]
"""Types that one table holds in a test: a table for each would take engines minutes."""
REFUSED: dict[str, tuple[pa.DataType, str]] = {
    "time": (pa.time64("us"), "BIGINT"),
    "duration": (pa.duration("us"), "BIGINT"),
    "uint64": (pa.uint64(), r"DECIMAL\(20,0\)"),
    "uint8": (pa.uint8(), "SMALLINT"),
    "nanoseconds": (pa.timestamp("ns"), "microseconds"),
    "nanoseconds with zone": (pa.timestamp("ns", tz="UTC"), "microseconds"),
    "seconds": (pa.timestamp("s"), "TIMESTAMP_NTZ"),
    "milliseconds": (pa.timestamp("ms", tz="UTC"), "TIMESTAMP"),
    "another zone": (pa.timestamp("us", tz="Europe/Berlin"), "TIMESTAMP"),
    "half": (pa.float16(), "FLOAT"),
    "wide decimal": (pa.decimal256(40, 2), "STRING"),
    "negative scale": (pa.decimal128(10, -2), "STRING"),
    "null": (pa.null(), "type"),
    "large string": (pa.large_string(), "STRING"),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), "STRING"),
    "fixed binary": (pa.binary(4), "BINARY"),
    "empty struct": (pa.struct([]), "leave it out"),
    "nested time": (pa.list_(pa.struct([("t", pa.time64("us"))])), "BIGINT"),
}
BAD_NAMES = ["a b", "a,b", "a;b", "a{b", "a}b", "a(b", "a)b", "a\nb", "a\tb", "a=b", ""]


def exactly(value: Any) -> Any:
    """A value in a form in which equal means identical: NaN is itself, -0.0 is not 0.0."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack(">d", value)
    if isinstance(value, dict):
        return {name: exactly(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [exactly(item) for item in value]
    if isinstance(value, dt.datetime) and value.tzinfo:
        return value.astimezone(dt.UTC).replace(tzinfo=None), "UTC"
    return value


class TypeContract:
    """Types and names."""

    @pytest.mark.parametrize("names", GROUPS, ids=", ".join)
    def test_values_of_each_type_come_back_as_they_were(self, bench: Bench, names: list[str]) -> None:
        """Every Spark type, with extremes and NULL, through append, query, replace, merge, compaction and changes."""
        kinds = [TYPES[name][0] for name in names]
        columns = itertools.zip_longest(*(TYPES[name][1] for name in names))
        rows = [(i, *values) for i, values in enumerate([*columns, (None,) * len(names)])]
        expected = [exactly(row) for row in rows]
        table = bench.table(
            pa.schema([("k", pa.int64()), *((f"c{n}", kind) for n, kind in enumerate(kinds))]), *rows, feed=True
        )
        assert table.open().schema.types[1:] == kinds

        def found(rows: list[tuple]) -> list:
            return sorted((exactly(row[: len(names) + 1]) for row in rows), key=lambda row: row[0])

        assert found(table.rows()) == expected
        same = bench.engine.query("SELECT * FROM t", {"t": bench.engine.read(table.open())})
        assert bench.engine.schema(same).types[1:] == kinds
        bench.engine.replace(table.open(), same, table.next())
        assert found(table.rows()) == expected
        before = table.version
        table.merge([(i + 100, *values) for i, *values in rows])
        kind, images = table.moved(before)
        assert found(images) == [[i + 100, *values] for i, *values in expected]
        assert kind in ("append", "images")
        table.append(*rows[-1:])
        table.compact()
        assert len(table.rows()) == 2 * len(rows) + 1
        assert found(table.rows())[: len(rows) - 1] == expected[:-1]

    def test_all_types_together(self, bench: Bench) -> None:
        """Columns of every type in one table keep their order and their NULLs."""
        schema = pa.schema([(f"c{i}", dtype) for i, (dtype, _) in enumerate(TYPES.values())])
        rows = [tuple(values[0] for _, values in TYPES.values()), (None,) * len(TYPES)]
        table = bench.table(schema, *rows)
        assert table.open().schema.equals(schema)
        assert sorted(map(repr, map(exactly, table.rows()))) == sorted(map(repr, map(exactly, rows)))

    @pytest.mark.parametrize("name", REFUSED)
    def test_a_type_that_delta_cannot_hold_is_refused(self, bench: Bench, name: str) -> None:
        """The error names the column, the type and what to do instead; no table is made."""
        dtype, remedy = REFUSED[name]
        place = bench.place()
        with pytest.raises(TypeRefused, match=remedy) as caught:
            bench.engine.create(place, TableSpec(pa.schema([("k", pa.int64()), ("odd", dtype)])))
        assert "'odd'" in str(caught.value)
        assert bench.engine.find(place) is None
        table = bench.table()
        with pytest.raises(TypeRefused):
            bench.engine.add_columns(table.open(), [pa.field("odd", dtype)])
        assert table.open().schema.names == ["k", "v"]

    @pytest.mark.parametrize("name", BAD_NAMES)
    def test_a_name_that_delta_cannot_hold_is_refused(self, bench: Bench, name: str) -> None:
        """The error says which alias to give, also inside a struct."""
        for column in (pa.field(name, pa.int64()), pa.field("s", pa.struct([(name, pa.int64())]))):
            with pytest.raises(TypeRefused, match="alias"):
                bench.engine.create(bench.place(), TableSpec(pa.schema([column])))

    @pytest.mark.parametrize("nested", [False, True])
    def test_names_that_differ_in_case_only_are_refused(self, bench: Bench, nested: bool) -> None:
        """Delta takes them for one column."""
        twins = [pa.field("Name", pa.int64()), pa.field("name", pa.int64())]
        columns = [pa.field("s", pa.list_(pa.struct(twins)))] if nested else twins
        with pytest.raises(TypeRefused, match="takes for one"):
            bench.engine.create(bench.place(), TableSpec(pa.schema(columns)))

    def test_a_new_column_that_differs_in_case_is_refused(self, bench: Bench) -> None:
        """Columns that are added meet those that are there."""
        table = bench.table()
        with pytest.raises(TypeRefused, match="takes for one"):
            bench.engine.add_columns(table.open(), [pa.field("V", pa.string())])

    @pytest.mark.parametrize("dtype", [UTC, NTZ, pa.float64(), pa.decimal128(9, 2), pa.binary(), pa.list_(pa.int64())])
    def test_a_type_without_exact_text_cannot_partition(self, bench: Bench, dtype: pa.DataType) -> None:
        """Partition values are texts in the log: only dates, integers, strings and booleans are exact there."""
        with pytest.raises(TypeRefused, match="partition"):
            bench.engine.create(bench.place(), TableSpec(pa.schema([("p", dtype), ("v", pa.int64())]), ("p",)))

    def test_nanoseconds_are_not_cut_on_the_way_in(self, bench: Bench) -> None:
        """A relation with instants in nanoseconds is refused before a value is read."""
        rows = pa.table({"t": pa.array([1], pa.timestamp("ns", tz="UTC"))})
        with pytest.raises(TypeRefused, match="nanoseconds"):
            bench.engine.from_arrow(rows)

    @pytest.mark.parametrize("zone", ["Europe/Berlin", "+05:30", "UTC"])
    def test_an_instant_is_kept_whatever_its_zone(self, bench: Bench, zone: str) -> None:
        """Rows may come in any zone and unit that microseconds hold; the instant stays."""
        for unit in ("s", "ms", "us"):
            rows = pa.table({"t": pa.array([0, 1_700_000_000], pa.timestamp(unit, tz=zone))})
            table = bench.table(pa.schema([("t", UTC)]))
            bench.engine.append(table.open(), bench.engine.from_arrow(rows), table.next())
            expected = [(moment.astimezone(dt.UTC),) for moment in rows.column("t").to_pylist()]
            assert [exactly(row) for row in table.rows()] == [exactly(row) for row in sorted(expected, key=repr)]

    def test_not_null_columns_hold_no_null(self, bench: Bench) -> None:
        """A NULL for a column that is NOT NULL stops the write."""
        table = bench.table(
            pa.schema([pa.field("k", pa.int64(), nullable=False), pa.field("v", pa.string())]), (1, "a")
        )
        nullable = pa.schema([("k", pa.int64()), ("v", pa.string())])
        for write in (bench.engine.append, bench.engine.replace):
            with pytest.raises(LakehouseError):
                write(table.open(), table.relation([(None, "b")], nullable), table.next())
        assert table.rows() == [(1, "a")]
