"""Keys and sequences as people type them, read by the types of the table's columns.

What belongs here: text to typed values, and what is said where a text is none. What does not: looking anything up.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation

import pyarrow as pa

from lakehouse_assets.errors import SettingsError
from lakehouse_assets.sql.types import spark_type


def key_of(text: str, columns: pa.Schema) -> dict[str, object]:
    """A key as it was typed: a JSON object, `a=1,b=x` in the columns' names, or the value alone where there is one.

    Raises:
        SettingsError: a column is missing or unknown, or a value does not fit its column.
    """
    names = list(columns.names)
    parts = _object(text) or _assignments(text, names)
    if parts is None and len(names) == 1:
        parts = {names[0]: text}
    if parts is None:
        raise SettingsError(
            f"a key of this table has {len(names)} columns",
            value=text,
            choices=names,
            fix=f"write it as {','.join(f'{name}=…' for name in names)}, or as a JSON object",
        )
    return _typed_parts(parts, list(columns), "the key")


def moment_of(text: str, kind: pa.DataType, what: str) -> list[object]:
    """The parts of a sequence as it was typed: one value; of several columns a JSON object, or values and commas.

    Raises:
        SettingsError: the text is no such sequence.
    """
    if not pa.types.is_struct(kind):
        return [typed(text, kind, what)]
    fields = list(kind)
    names = [field.name for field in fields]
    parts = _object(text)
    if parts is None:
        values = [value.strip() for value in text.split(",")]
        if len(values) != len(names):
            raise SettingsError(
                f"{what} has {len(names)} parts",
                value=text,
                choices=names,
                fix=f"write the values of {', '.join(names)} with commas between, or a JSON object",
            )
        parts = dict(zip(names, values, strict=True))
    return list(_typed_parts(parts, fields, what).values())


def typed(text: str, kind: pa.DataType, what: str) -> object:
    """A text as a value of a column's type; a time without a zone is UTC where the column holds instants.

    Raises:
        SettingsError: it is none.
    """
    for matches, read, example in _READERS:
        if matches(kind):
            try:
                value = read(text)
                pa.scalar(value, kind)
            except (ValueError, OverflowError, InvalidOperation, pa.ArrowException):
                raise SettingsError(
                    f"{what} is {spark_type(kind)}, and this is none", value=text, fix=f"write it as {example}"
                ) from None
            return value
    raise SettingsError(f"{what} is {spark_type(kind)}, which cannot be given as text", value=text)


def _object(text: str) -> dict[str, str | None] | None:
    """A JSON object of scalars with its values as texts; None where the text is something else."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except json.JSONDecodeError:
        return None
    scalars = {True: "true", False: "false"}
    return {name: scalars[value] if isinstance(value, bool) else value for name, value in found.items()}


def _assignments(text: str, names: Sequence[str]) -> dict[str, str | None] | None:
    """`a=1,b=x`, split only where a column's name and "=" stand, so that values may hold both signs."""
    listed = "|".join(re.escape(name) for name in names)
    found = re.split(rf"(?:^|,)\s*({listed})=", text)
    if found[0] or len(found) < 3:
        return None
    return dict(zip(found[1::2], found[2::2], strict=True))


def _typed_parts(parts: Mapping[str, str | None], fields: Sequence[pa.Field], what: str) -> dict[str, object]:
    names = [field.name for field in fields]
    wrong = [name for name in parts if name not in names]
    lacking = [name for name in names if name not in parts]
    if wrong or lacking:
        raise SettingsError(
            f"{what} has no part {wrong[0]!r}" if wrong else f"{what} lacks {', '.join(lacking)}",
            value=wrong[0] if wrong else None,
            choices=names,
            fix="give each of these once",
        )
    return {field.name: _part(parts[field.name], field, what) for field in fields}


def _part(text: object, field: pa.Field, what: str) -> object:
    if text is None:
        return None
    if not isinstance(text, str):
        raise SettingsError(f"{what}: {field.name!r} is one value, no list or object", value=json.dumps(text))
    return typed(text, field.type, f"{field.name!r} of {what}")


# readers: text to value, by type


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise ValueError(text)
    return int(text)


def _decimal(text: str) -> Decimal:
    value = Decimal(text)
    if not value.is_finite():
        raise ValueError(text)
    return value


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def _instant(text: str) -> dt.datetime:
    moment = dt.datetime.fromisoformat(text)
    return moment.astimezone(dt.UTC) if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def _local(text: str) -> dt.datetime:
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo:
        raise ValueError(text)
    return moment


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


_READERS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[str], object], str], ...] = (
    (pa.types.is_string, str, "it is"),
    (pa.types.is_integer, _integer, "a whole number in its range, such as 42"),
    (pa.types.is_floating, float, "a number, such as 4.2"),
    (pa.types.is_decimal, _decimal, "a number with no more digits than it holds, such as 4.20"),
    (pa.types.is_boolean, _boolean, "true or false"),
    (pa.types.is_date, dt.date.fromisoformat, "an ISO date, such as 2025-05-01"),
    (lambda kind: pa.types.is_timestamp(kind) and kind.tz, _instant, "an ISO time, such as 2025-05-01T12:00:00Z"),
    (pa.types.is_timestamp, _local, "an ISO time without a zone, such as 2025-05-01T12:00:00"),
    (pa.types.is_binary, _bytes, "base64"),
)
