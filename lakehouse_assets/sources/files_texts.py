"""Texts to typed columns, as Spark reads them, without ever losing a value: what does not fit is marked.

What belongs here: what a text must look like to be a number, a date or a time. What does not: other values
(`files_casts.py`), rows.

A text fits its column only when nothing is lost or guessed (where Spark is more lenient, it is named):

    integer    [+-]digits, in the type's range; no blanks, no point
    decimal    [+-]digits[.digits][e±n] whose digits all fit (Spark rounds the others, and drops commas)
    double     the same, NaN, [+-]Inf, [+-]Infinity; a number too large is not infinite (Spark: it is)
    boolean    true or false, in any case
    date       yyyy-[M]M-[d]d (Spark also takes a year, a month, and what follows a T)
    timestamp  a date, and [ T][H]H[:mm[:ss[.f…]]] with Z, UTC or ±HH[[:]MM]; digits below the microsecond must be 0
               (Spark cuts them). Without a zone: read in the source's time zone; an hour that comes twice is its
               first, and a time that was skipped counts as if the clock had run on, as in Java
    binary     the bytes of the text
With `dateFormat` or `timestampFormat` the text must have exactly that pattern.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as pat

from lakehouse_assets.errors import SettingsError
from lakehouse_assets.sql.types import TIMESTAMP, TIMESTAMP_NTZ

Cast = tuple[pa.Array, "pa.Array | None"]
"""A column, and which of its rows did not fit (they are NULL there); `None`: all fit."""

_MONTH, _DAY, _HOUR, _SIXTY = "0[1-9]|1[0-2]", "0[1-9]|[12][0-9]|3[01]", "[01][0-9]|2[0-3]", "[0-5][0-9]"
_DATE = rf"(?P<y>\d{{4}})-(?P<M>[1-9]|{_MONTH})-(?P<d>[1-9]|{_DAY})"
_SECOND = rf"(?P<s>\d|{_SIXTY})(?:\.(?P<S>\d{{1,9}}))?"
_TIME = rf"(?P<H>\d|{_HOUR})(?::(?P<m>\d|{_SIXTY})(?::{_SECOND})?)?"
_ZONE = r"(?P<X>Z|UTC|[+-]\d{2}(?::?\d{2})?)"
_DEFAULT_DATE = f"^{_DATE}$"
_DEFAULT_TIMESTAMP = f"^{_DATE}(?:[ T]{_TIME} ?{_ZONE}?)?$"
_INTEGER = r"^[+-]?0*[0-9]{1,19}$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_INFINITY = r"^[+-]?Inf(inity)?$"
_BY_VALUE = 32


@dataclass(frozen=True)
class Patterns:
    """How dates and times are written: regular expressions with the groups y M d H m s S X, and the zone."""

    date: str = _DEFAULT_DATE
    timestamp: str = _DEFAULT_TIMESTAMP
    zone: str = "UTC"

    @classmethod
    def of(cls, date_format: str | None, timestamp_format: str | None, zone: str) -> Patterns:
        """The patterns of Spark's `dateFormat` and `timestampFormat`.

        Raises:
            SettingsError: a pattern holds a letter that is not read here.
        """
        return cls(
            pattern_of(date_format) if date_format else _DEFAULT_DATE,
            pattern_of(timestamp_format) if timestamp_format else _DEFAULT_TIMESTAMP,
            zone,
        )


_LETTERS = {
    "yyyy": r"(?P<y>\d{4})", "MM": f"(?P<M>{_MONTH})", "M": f"(?P<M>{_MONTH}|[1-9])", "dd": f"(?P<d>{_DAY})",
    "d": f"(?P<d>{_DAY}|[1-9])", "HH": f"(?P<H>{_HOUR})", "H": rf"(?P<H>{_HOUR}|\d)", "mm": f"(?P<m>{_SIXTY})",
    "m": rf"(?P<m>{_SIXTY}|\d)", "ss": f"(?P<s>{_SIXTY})", "s": rf"(?P<s>{_SIXTY}|\d)",
    "X": r"(?P<X>Z|[+-]\d{2}(?:\d{2})?)", "XX": r"(?P<X>Z|[+-]\d{4})", 3 * "X": r"(?P<X>Z|[+-]\d{2}:\d{2})",
    "xxx": r"(?P<X>[+-]\d{2}:\d{2})", "Z": r"(?P<X>[+-]\d{4})",
}  # fmt: skip
_PARTS = re.compile(r"'(?P<text>(?:[^']|'')*)'|(?P<letters>([A-Za-z])\3*)|(?P<other>.)", re.DOTALL)


def pattern_of(java: str) -> str:
    """The regular expression of a Java date pattern such as `dd.MM.yyyy HH:mm:ss.SSS`.

    Raises:
        SettingsError: it holds letters that are not read here (names of months, AM/PM, weeks, …), or no full date.
    """
    found = ""
    for part in _PARTS.finditer(java):
        letters = part["letters"]
        if letters is None:
            text = part["other"] if part["other"] is not None else part["text"].replace("''", "'") or "'"
            found += re.escape(text)
        elif set(letters) == {"S"} and len(letters) <= 9:
            found += rf"(?P<S>\d{{{len(letters)}}})"
        elif letters in _LETTERS:
            found += _LETTERS[letters]
        else:
            raise SettingsError(
                f"the date pattern {java!r} holds a part that is not read here",
                value=letters,
                choices=(*_LETTERS, "S", "'text'"),
                fix="read the column as STRING and parse it in the next table with to_timestamp(…)",
            )
    if not all(f"(?P<{letter}>" in found for letter in "yMd") or "[" in java:
        raise SettingsError(
            "a date pattern needs year, month and day, and has no optional [parts] here",
            value=java,
            fix="write it like yyyy-MM-dd HH:mm:ss",
        )
    return f"^{found}$"


def cast_texts(texts: pa.Array, to: pa.DataType, patterns: Patterns) -> Cast:
    """Texts as a column of type `to`, and which rows did not fit.

    Args:
        texts: a `string` array.
        to: a column type that is not nested.

    Raises:
        LookupError: a text cannot have this type (a list, a struct, …).
    """
    values, failed = _cast(texts, to, patterns)
    if failed is None or not texts.null_count:
        return values, failed
    failed = pc.and_(failed, texts.is_valid())
    return values, failed if pc.any(failed).as_py() else None


def _cast(texts: pa.Array, to: pa.DataType, patterns: Patterns) -> Cast:
    if pat.is_string(to):
        return texts, None
    if pat.is_binary(to):
        return texts.cast(to), None
    if pat.is_boolean(to):
        lower = pc.utf8_lower(texts)
        return _where(lower, pc.is_in(lower, pa.array(["true", "false"])), lambda some: some.cast(to))
    if pat.is_integer(to):
        return _integers(texts, to)
    if pat.is_decimal(to):
        legal = _decimal(to.precision - to.scale, to.scale)
        return _where(texts, pc.match_substring_regex(texts, legal), lambda some: some.cast(to))
    if pat.is_floating(to):
        return _floats(texts, to)
    if pat.is_date(to) or pat.is_timestamp(to):
        return _times(texts, to, patterns)
    raise LookupError(f"a text cannot be read as {to}")


def _integers(texts: pa.Array, to: pa.DataType) -> Cast:
    plain = pc.replace_substring_regex(texts, r"^\+", "")
    wide, failed = _where(plain, pc.match_substring_regex(texts, _INTEGER), lambda some: some.cast(pa.int64()))
    limit = 1 << (to.bit_width - 1)
    values = wide.cast(to, safe=False)
    beyond = pc.or_(pc.greater(wide, limit - 1), pc.less(wide, -limit))
    return (wide, failed) if to == pa.int64() else _also(values, failed, beyond)


def _decimal(whole: int, scale: int) -> str:
    """Numbers whose digits all fit; one with an exponent is left to the cast."""
    point = rf"(\.[0-9]{{0,{scale}}}0*)?" if scale else r"(\.0*)?"
    plain = (
        rf"0*[0-9]{{1,{whole}}}{point}|0*\.[0-9]{{1,{scale}}}0*" if whole and scale else rf"0*[0-9]{{0,{whole}}}{point}"
    )
    return rf"^[+-]?(?:{plain}|(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][+-]?[0-9]+)$"


def _floats(texts: pa.Array, to: pa.DataType) -> Cast:
    plain = pc.replace_substring_regex(texts, r"^\+", "")
    infinite = pc.match_substring_regex(texts, _INFINITY)
    legal = pc.or_(pc.or_(pc.match_substring_regex(texts, _NUMBER), infinite), pc.equal(texts, "NaN"))
    values, failed = _where(plain, legal, lambda some: some.cast(to))
    return _also(values, failed, pc.and_(pc.is_inf(values), pc.invert(infinite)))


def _where(texts: pa.Array, legal: pa.Array, cast: Callable[[pa.Array], pa.Array]) -> Cast:
    """Cast the legal texts; the others, and those that overflow, do not fit."""
    if texts.null_count == len(texts):
        return cast(texts), None
    if pc.all(legal).as_py() is False:
        kept = pc.if_else(legal, texts, pa.scalar(None, texts.type))
        values, failed = bisected(kept, cast)
        return _also(values, failed, pc.invert(legal))
    return bisected(texts, cast)


def _also(values: pa.Array, failed: pa.Array | None, more: pa.Array) -> Cast:
    """One more reason not to fit."""
    more = pc.fill_null(more, False)
    if not pc.any(more).as_py():
        return values, failed
    both = more if failed is None else pc.or_(failed, more)
    return pc.if_else(both, pa.scalar(None, values.type), values), both


def bisected(values: pa.Array, cast: Callable[[pa.Array], pa.Array]) -> Cast:
    """`cast(values)`; where it refuses, the rows that it refuses are found by halving, and become NULL."""
    try:
        return cast(values), None
    except (pa.ArrowInvalid, OverflowError):
        if len(values) == 1:
            empty = cast(values.slice(0, 0))
            return pa.nulls(1, empty.type), pa.array([True])
    step = 1 if len(values) <= _BY_VALUE else -(-len(values) // 2)
    parts = [bisected(values.slice(at, step), cast) for at in range(0, len(values), step)]
    masks = [pa.repeat(False, len(part)) if failed is None else failed for part, failed in parts]
    return pa.concat_arrays([part for part, _ in parts]), pa.concat_arrays(masks)


def localized(naive: pa.Array, zone: str) -> pa.Array:
    """Times without a zone as instants; an hour that comes twice is its first, a skipped one as if it ran on."""
    if zone.upper() in ("UTC", "GMT", "ETC/UTC"):
        return naive.cast(TIMESTAMP)

    def assume(some: pa.Array) -> pa.Array:
        return pc.assume_timezone(some, zone, ambiguous="earliest", nonexistent="raise").cast(TIMESTAMP)

    instants, skipped = bisected(naive, assume)
    if skipped is None:
        return instants
    clock = ZoneInfo(zone)
    moved = [time.replace(tzinfo=clock).astimezone(UTC) for time in naive.filter(skipped).to_pylist()]
    return pc.replace_with_mask(instants, skipped, pa.array(moved, TIMESTAMP))


def _times(texts: pa.Array, to: pa.DataType, patterns: Patterns) -> Cast:
    """Dates and timestamps: texts in ISO form by Arrow's own reader, all others taken apart."""
    pattern = patterns.date if pat.is_date(to) else patterns.timestamp
    if pattern in (_DEFAULT_DATE, _DEFAULT_TIMESTAMP):
        quick = _iso(texts, to, patterns.zone)
        if quick is not None:
            return quick
    parts = pc.extract_regex(texts, pattern)
    legal = parts.is_valid()
    group = {f.name: parts.field(at) for at, f in enumerate(parts.type)}
    iso = pc.binary_join_element_wise(group["y"], *(_two(group[letter]) for letter in "Md"), "-")
    if pat.is_date(to):
        return _where(iso, legal, lambda some: some.cast(to))
    return _timestamps(texts, iso, group, legal, to, patterns.zone)


def _iso(texts: pa.Array, to: pa.DataType, zone: str) -> Cast | None:
    """The column where all texts are ISO and all have a zone or none has; else `None`."""
    if not pc.all(pc.match_substring_regex(texts, r"^\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d|$)")).as_py():
        return None
    try:
        if to == TIMESTAMP:
            try:
                return texts.cast(TIMESTAMP), None
            except pa.ArrowInvalid:
                return localized(texts.cast(TIMESTAMP_NTZ), zone), None
        return texts.cast(to), None
    except pa.ArrowInvalid:
        return None


def _timestamps(
    texts: pa.Array, date: pa.Array, group: dict[str, pa.Array], legal: pa.Array, to: pa.DataType, zone: str
) -> Cast:
    size = len(texts)
    time = [_two(group[letter]) if letter in group else pa.repeat("00", size) for letter in "Hms"]
    fraction = pc.utf8_rpad(group["S"], 9, "0") if "S" in group else pa.repeat("0" * 9, size)
    micros = pc.utf8_slice_codeunits(fraction, 0, 6)
    clock = pc.binary_join_element_wise(*time, ":")
    text = pc.binary_join_element_wise(pc.binary_join_element_wise(date, clock, " "), micros, ".")
    exact = pc.equal(pc.utf8_slice_codeunits(fraction, 6, 9), "000")
    given = group.get("X", pa.repeat("", size))
    zoned = pc.not_equal(given, "")
    if to == TIMESTAMP_NTZ:
        legal = pc.and_(legal, pc.invert(zoned))
    naive, failed = _where(text, pc.and_(legal, exact), lambda some: some.cast(TIMESTAMP_NTZ))
    if to == TIMESTAMP_NTZ:
        return naive, failed
    shifted = pc.subtract(naive.cast(pa.int64()), _offset(given)).cast(TIMESTAMP)
    if not pc.any(pc.and_(pc.invert(zoned), naive.is_valid())).as_py():
        return shifted, failed
    local = localized(pc.if_else(zoned, pa.scalar(None, TIMESTAMP_NTZ), naive), zone)
    return pc.if_else(zoned, shifted, local), failed


def _offset(zones: pa.Array) -> pa.Array:
    """`+02:00` as microseconds; `Z`, `UTC` and nothing as 0."""
    parts = pc.extract_regex(zones, r"^(?P<sign>[+-])(?P<h>\d{2}):?(?P<m>\d{2})?$")
    hours, minutes = (
        pc.cast(pc.if_else(pc.fill_null(pc.not_equal(part, ""), False), part, "0"), pa.int64())
        for part in (parts.field(1), parts.field(2))
    )
    size = pc.multiply(pc.add(pc.multiply(hours, 60), minutes), 60_000_000)
    negative = pc.equal(parts.field(0), "-")
    return pc.fill_null(pc.if_else(negative, pc.negate(size), size), 0)


def _two(part: pa.Array) -> pa.Array:
    return pc.utf8_lpad(part, 2, "0")
