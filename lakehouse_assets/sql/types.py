"""The types that Spark, Delta and Arrow share, each mapped without loss or refused.

What belongs here: Spark DDL to Arrow and back, and the names a Delta column may have.
What does not: values (sources and engines cast), SQL expressions (`parse.py`).

    BOOLEAN  TINYINT  SMALLINT  INT    BIGINT  FLOAT    DOUBLE   DECIMAL(p,s)     STRING  BINARY  DATE
    bool_    int8     int16     int32  int64   float32  float64  decimal128(p,s)  string  binary  date32
    TIMESTAMP               TIMESTAMP_NTZ   ARRAY<t>   MAP<k,v>   STRUCT<n: t, …>
    timestamp("us", "UTC")  timestamp("us") list_(t)   map_(k,v)  struct([(n, t), …])
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pyarrow as pa

from lakehouse_assets.errors import SqlError, TypeRefused

TIMESTAMP = pa.timestamp("us", tz="UTC")
TIMESTAMP_NTZ = pa.timestamp("us")
FORBIDDEN_IN_NAMES = " ,;{}()\n\t="
"""Characters that the name of a Delta column cannot hold."""

_SIMPLE: dict[str, pa.DataType] = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "BYTE": pa.int8(),
    "SMALLINT": pa.int16(),
    "SHORT": pa.int16(),
    "INT": pa.int32(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "LONG": pa.int64(),
    "FLOAT": pa.float32(),
    "REAL": pa.float32(),
    "DOUBLE": pa.float64(),
    "STRING": pa.string(),
    "BINARY": pa.binary(),
    "DATE": pa.date32(),
    "TIMESTAMP": TIMESTAMP,
    "TIMESTAMP_LTZ": TIMESTAMP,
    "TIMESTAMP_NTZ": TIMESTAMP_NTZ,
}
_DECIMALS = ("DECIMAL", "DEC", "NUMERIC")
_LEGAL = ("BOOLEAN", "TINYINT", "SMALLINT", "INT", "BIGINT", "FLOAT", "DOUBLE", "DECIMAL(p,s)", "STRING", "BINARY",
          "DATE", "TIMESTAMP", "TIMESTAMP_NTZ", "ARRAY<t>", "MAP<k,v>", "STRUCT<name: t>")  # fmt: skip
_REMEDIES = {
    "VARCHAR": "use STRING, and check the length with a rule",
    "CHAR": "use STRING, and check the length with a rule",
    "VOID": "give the column a type",
    "INTERVAL": "keep the number of seconds, days or months as BIGINT",
    "VARIANT": "keep the JSON text as STRING",
    "TIME": "keep the text as STRING, or the microseconds since midnight as BIGINT",
}
_TOKEN = re.compile(
    r"\s*(?:(?P<quoted>`(?:[^`]|``)*`)|(?P<text>'(?:[^'\\]|\\.|'')*')|(?P<word>\w+)|(?P<mark>[<>(),:])|(?P<bad>\S))"
)


def check_column(name: str) -> str:
    """The name of a column, if Delta can hold it.

    Raises:
        TypeRefused: it is empty, or holds one of ``FORBIDDEN_IN_NAMES``.
    """
    if not name or any(character in FORBIDDEN_IN_NAMES for character in name):
        raise TypeRefused(
            "a Delta column cannot have this name: it is empty or holds a blank or one of , ; { } ( ) =",
            value=name,
            fix=f"give it an alias: `{name}` AS {re.sub('[^A-Za-z0-9_]+', '_', name).strip('_') or 'name'}",
        )
    return name


def arrow_type(spark: str) -> pa.DataType:
    """The Arrow type of a Spark type: `arrow_type("array<int>")` is `list_(int32)`.

    Raises:
        TypeRefused: there is no lossless type for it.
        SqlError: the text is not a type.
    """
    reader = _Ddl(spark)
    found = reader.type()
    reader.end()
    return found


def arrow_schema(ddl: str) -> pa.Schema:
    """The Arrow schema of Spark DDL: `id INT NOT NULL, name STRING COMMENT 'x'`, with or without `STRUCT<…>` around.

    Comments become field metadata under `comment`.

    Raises:
        TypeRefused: a type or a name has no place in Delta.
        SqlError: the text is not DDL, or a column is given twice.
    """
    whole = re.fullmatch(r"\s*struct\s*<(.*)>\s*", ddl, re.IGNORECASE | re.DOTALL)
    reader = _Ddl(whole[1] if whole else ddl)
    fields = reader.fields(closing=None)
    reader.end()
    return pa.schema(fields)


def spark_type(dt: pa.DataType) -> str:
    """The Spark type that holds every value of an Arrow type.

    Unsigned integers become the next wider signed type (uint64: DECIMAL(20,0)); a time zone's name is dropped, as the
    instant stays.

    Raises:
        TypeRefused: values would be cut (nanoseconds, times of day, 256-bit decimals, …).
    """
    for matches, render in _ARROW:
        if matches(dt):
            return render(dt)
    raise TypeRefused("there is no Delta type that holds this one without loss", value=str(dt), fix=_arrow_remedy(dt))


def ddl(schema: pa.Schema) -> str:
    """Spark DDL of an Arrow schema: what `arrow_schema` reads back to the same types.

    Raises:
        TypeRefused: a type or a name has no place in Delta; the message names the column.
    """
    return ", ".join(_column_ddl(field) for field in schema)


def _column_ddl(field: pa.Field) -> str:
    try:
        kind = spark_type(field.type)
    except TypeRefused as error:
        raise TypeRefused(f"column {field.name!r}: {error.problem}", value=error.value, fix=error.fix) from None
    comment = (field.metadata or {}).get(b"comment")
    escaped = comment.decode().replace("\\", "\\\\").replace("'", "\\'") if comment else ""
    null = "" if field.nullable else " NOT NULL"
    return f"{_quoted(check_column(field.name))} {kind}{null}" + (f" COMMENT '{escaped}'" if comment else "")


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else f"`{name.replace('`', '``')}`"


def _struct_ddl(dt: pa.DataType) -> str:
    inner = (
        f"{_quoted(check_column(f.name))}: {spark_type(f.type)}{'' if f.nullable else ' NOT NULL'}" for f in dt.fields
    )
    return f"STRUCT<{', '.join(inner)}>"


def _is_list(dt: pa.DataType) -> bool:
    return pa.types.is_list(dt) or pa.types.is_large_list(dt) or pa.types.is_fixed_size_list(dt)


def _is_text(dt: pa.DataType) -> bool:
    return pa.types.is_string(dt) or pa.types.is_large_string(dt) or pa.types.is_string_view(dt)


def _is_bytes(dt: pa.DataType) -> bool:
    views = pa.types.is_binary_view(dt) or pa.types.is_fixed_size_binary(dt)
    return pa.types.is_binary(dt) or pa.types.is_large_binary(dt) or views


def _is_decimal(dt: pa.DataType) -> bool:
    return pa.types.is_decimal(dt) and dt.precision <= 38 and 0 <= dt.scale <= dt.precision


def _is_timestamp(dt: pa.DataType) -> bool:
    return pa.types.is_timestamp(dt) and dt.unit != "ns"


_ARROW: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType], str]], ...] = (
    (pa.types.is_boolean, lambda _: "BOOLEAN"),
    (pa.types.is_int8, lambda _: "TINYINT"),
    (lambda dt: pa.types.is_int16(dt) or pa.types.is_uint8(dt), lambda _: "SMALLINT"),
    (lambda dt: pa.types.is_int32(dt) or pa.types.is_uint16(dt), lambda _: "INT"),
    (lambda dt: pa.types.is_int64(dt) or pa.types.is_uint32(dt), lambda _: "BIGINT"),
    (pa.types.is_uint64, lambda _: "DECIMAL(20,0)"),
    (lambda dt: pa.types.is_float32(dt) or pa.types.is_float16(dt), lambda _: "FLOAT"),
    (pa.types.is_float64, lambda _: "DOUBLE"),
    (_is_decimal, lambda dt: f"DECIMAL({dt.precision},{dt.scale})"),
    (_is_text, lambda _: "STRING"),
    (_is_bytes, lambda _: "BINARY"),
    (pa.types.is_date, lambda _: "DATE"),
    (_is_timestamp, lambda dt: "TIMESTAMP" if dt.tz else "TIMESTAMP_NTZ"),
    (pa.types.is_dictionary, lambda dt: spark_type(dt.value_type)),
    (_is_list, lambda dt: f"ARRAY<{spark_type(dt.value_type)}>"),
    (pa.types.is_map, lambda dt: f"MAP<{spark_type(dt.key_type)}, {spark_type(dt.item_type)}>"),
    (pa.types.is_struct, _struct_ddl),
)


def _arrow_remedy(dt: pa.DataType) -> str:
    if pa.types.is_timestamp(dt):
        return "nanoseconds do not fit: cast to microseconds knowingly, or keep them as BIGINT"
    if pa.types.is_time(dt) or pa.types.is_duration(dt) or pa.types.is_interval(dt):
        return "keep the count of its unit as BIGINT, or the text as STRING"
    if pa.types.is_decimal(dt):
        return "DECIMAL holds 38 digits and a scale from 0 to its precision: keep the text as STRING"
    return "give the column another type"


class _Ddl:
    """A reader of Spark DDL, one token ahead."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = [(str(match.lastgroup), match[match.lastgroup or 0]) for match in _TOKEN.finditer(text)]
        self.at = 0

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self.at += 1
        return token

    def word(self, *words: str) -> bool:
        kind, text = self.peek()
        if kind == "word" and text.upper() in words:
            self.at += 1
            return True
        return False

    def mark(self, mark: str) -> bool:
        if self.peek() == ("mark", mark):
            self.at += 1
            return True
        return False

    def expect(self, mark: str) -> None:
        if not self.mark(mark):
            self.fault(f"{mark!r} is missing")

    def fault(self, problem: str) -> None:
        found = self.peek()[1] or "the end"
        raise SqlError(
            f"not Spark DDL: {problem} before {found!r}", value=self.text, fix="write it as: id INT, name STRING"
        )

    def end(self) -> None:
        if self.peek()[0] != "end":
            self.fault("a comma or the end is missing")

    def name(self) -> str:
        kind, text = self.take()
        if kind == "quoted":
            return check_column(text[1:-1].replace("``", "`"))
        if kind != "word":
            self.at -= 1
            self.fault("a column name is missing")
        return check_column(text)

    def fields(self, closing: str | None) -> list[pa.Field]:
        found: list[pa.Field] = []
        seen: set[str] = set()
        while True:
            name = self.name()
            if name.lower() in seen:
                raise SqlError(f"the column {name!r} is given twice", value=self.text, fix="give it once")
            seen.add(name.lower())
            self.mark(":")
            found.append(self.rest_of_field(name))
            if not self.mark(","):
                break
        if closing:
            self.expect(closing)
        return found

    def rest_of_field(self, name: str) -> pa.Field:
        kind = self.type()
        nullable = True
        if self.word("NOT"):
            nullable = False
            if not self.word("NULL"):
                self.fault("NULL is missing after NOT")
        metadata = None
        if self.word("COMMENT"):
            token, text = self.take()
            if token != "text":
                self.at -= 1
                self.fault("the text of the comment is missing")
            metadata = {"comment": re.sub(r"\\(.)|''", lambda m: m[1] or "'", text[1:-1])}
        return pa.field(name, kind, nullable=nullable, metadata=metadata)

    def type(self) -> pa.DataType:
        kind, text = self.take()
        if kind != "word":
            self.at -= 1
            self.fault("a type is missing")
        name = text.upper()
        if name in _SIMPLE:
            return _SIMPLE[name]
        if name in _DECIMALS:
            return self.decimal()
        if name in ("ARRAY", "MAP", "STRUCT"):
            return self.nested(name)
        choices = () if name in _REMEDIES else _LEGAL
        raise TypeRefused("there is no lossless Delta type of this name", value=text, choices=choices,
                          fix=_REMEDIES.get(name, "use one of these"))  # fmt: skip

    def decimal(self) -> pa.DataType:
        precision, scale = 10, 0
        if self.mark("("):
            precision = self.number()
            scale = self.number() if self.mark(",") else 0
            self.expect(")")
        if not (1 <= precision <= 38 and 0 <= scale <= precision):
            raise TypeRefused(
                "a decimal has 1 to 38 digits and a scale from 0 to their number",
                value=f"DECIMAL({precision},{scale})",
                fix="choose DECIMAL(p,s) within that, or STRING",
            )
        return pa.decimal128(precision, scale)

    def number(self) -> int:
        kind, text = self.take()
        if kind != "word" or not text.isascii() or not text.isdigit():
            self.at -= 1
            self.fault("a number is missing")
        return int(text)

    def nested(self, name: str) -> pa.DataType:
        self.expect("<")
        if name == "STRUCT":
            return pa.struct([] if self.mark(">") else self.fields(">"))
        first = self.type()
        if name == "ARRAY":
            self.expect(">")
            return pa.list_(first)
        self.expect(",")
        second = self.type()
        self.expect(">")
        return pa.map_(first, second)
