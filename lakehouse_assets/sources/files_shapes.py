"""The types of JSON records without declared columns: what is known after looking at some of them.

What belongs here: how values of several kinds become one type. What does not: reading (`files_json.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pyarrow import types as pat

from lakehouse_assets.sources.files_types import check_name
from lakehouse_assets.sources.files_values import Number

_MAX_DIGITS = 38
_LONG = 1 << 63
_NUMBERS = ("bigint", "decimal", "double")


class Shape:
    """What is known of the type of a value: nothing yet, a primitive, a list or a struct.

    Attributes:
        kind: "", "bigint", "decimal", "double", "boolean", "string", "list" or "struct".
        parts: the fields of a struct; the items of a list under "".
    """

    __slots__ = ("digits", "kind", "parts")

    def __init__(self, kind: str = "") -> None:
        self.kind = kind
        self.digits = 0
        self.parts: dict[str, Shape] = {}

    def learn(self, value: Any) -> None:
        """Take one more value into account."""
        if value is None or self.kind == "string":
            return
        kind = _kind(value)
        if kind == "decimal":
            self.digits = max(self.digits, len(str(abs(value))), 20)
        self._meet(kind)
        if self.kind == "struct":
            for name, part in value.items():
                self.parts.setdefault(name, Shape()).learn(part)
        elif self.kind == "list":
            items = self.parts.setdefault("", Shape())
            for part in value:
                items.learn(part)

    def learn_type(self, dt: pa.DataType) -> None:
        """Take many values into account, of which Arrow's JSON reader found the type."""
        if pat.is_null(dt):
            return
        if pat.is_struct(dt):
            self._meet("struct")
            if self.kind == "struct":
                for part in dt.fields:
                    self.parts.setdefault(part.name, Shape()).learn_type(part.type)
        elif pat.is_list(dt):
            self._meet("list")
            if self.kind == "list":
                self.parts.setdefault("", Shape()).learn_type(dt.value_type)
        else:
            self._meet({pa.int64(): "bigint", pa.float64(): "double", pa.bool_(): "boolean"}.get(dt, "string"))

    def _meet(self, kind: str) -> None:
        """The kind that holds what was known and one more."""
        if not self.kind or self.kind == kind:
            self.kind = kind
        elif {self.kind, kind} <= set(_NUMBERS):
            self.kind = max(self.kind, kind, key=_NUMBERS.index)
        else:
            self.kind = "string"
        if self.digits > _MAX_DIGITS:
            self.kind = "string"

    def type(self) -> pa.DataType | None:
        """The type that holds all values so far; `None` for an object that was always empty."""
        if self.kind == "struct":
            fields = [pa.field(check_name(name), kind) for name, part in self.parts.items() if (kind := part.type())]
            return pa.struct(fields) if fields else None
        if self.kind == "list":
            item = self.parts[""].type()
            return pa.list_(item) if item else None
        return _primitive(self.kind, self.digits)


def _primitive(kind: str, digits: int) -> pa.DataType:
    types: Mapping[str, pa.DataType] = {"bigint": pa.int64(), "double": pa.float64(), "boolean": pa.bool_()}
    return pa.decimal128(digits, 0) if kind == "decimal" else types.get(kind, pa.string())


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "bigint" if -_LONG <= value < _LONG else "decimal"
    if isinstance(value, Number | float):
        return "double"
    return "list" if isinstance(value, list) else "struct" if isinstance(value, dict) else "string"
