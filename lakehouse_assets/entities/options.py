"""The block `lakehouse:` of an entity: what the 27 fields of an entity do not hold.

What belongs here: one strict model a block, and the checks that need this block alone.
What does not: checks that need the whole entity (`checks.py`), the meaning of an option (the room that uses it).
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_SECOND = 1_000_000
_UNITS = {
    "microsecond": 1, "millisecond": 1_000, "second": _SECOND, "minute": 60 * _SECOND, "hour": 3_600 * _SECOND,
    "day": 86_400 * _SECOND, "week": 604_800 * _SECOND,
}  # fmt: skip
_DURATION = re.compile(rf"\s*(\d+)\s*({'|'.join(_UNITS)})s?\s*")
_OWNER = re.compile(r"team:[A-Za-z0-9_.-]+|[^@\s]+@[^@\s]+\.[^@\s]+")
_FEED = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_CRON_ITEM = r"(?:\*|[0-9A-Za-z]+(?:-[0-9A-Za-z]+)?)(?:/[0-9]+)?"
_CRON_FIELD = re.compile(rf"{_CRON_ITEM}(?:,{_CRON_ITEM})*")
_CRON_LIMITS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_CRON_NAMES = ("hourly", "daily", "weekly", "monthly", "yearly")


def to_timedelta(text: str) -> dt.timedelta:
    """A duration in words as a `timedelta`: "90 minutes", "1 hour", "2 days", "1 day 12 hours".

    Raises:
        ValueError: the text is not such a duration, or it is zero.
    """
    micros = sum(int(count) * _UNITS[unit] for count, unit in _DURATION.findall(text))
    if _DURATION.sub("", text) or not micros:
        units = ", ".join(f"{unit}s" for unit in _UNITS)
        raise ValueError(f"{text!r} is not a duration such as '90 minutes', '1 hour' or '2 days' (units: {units})")
    return dt.timedelta(microseconds=micros)


def _duration(text: str) -> str:
    to_timedelta(text)
    return text


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{name!r} is not an IANA time zone such as 'UTC' or 'Europe/Vienna'") from None
    return name


def _owner(text: str) -> str:
    if not _OWNER.fullmatch(text):
        raise ValueError(f"{text!r} is neither an e-mail address nor 'team:name'")
    return text


def check_feed(name: str) -> str:
    """The name of a feed, if it can be one: letters, digits, `_`, `.`, `-`.

    Raises:
        ValueError: it holds something else.
    """
    if not _FEED.fullmatch(name):
        raise ValueError(f"{name!r} is not a feed name: 1 to 100 letters, digits, '_', '.' or '-'")
    return name


def _date(text: str) -> str:
    try:
        if dt.date.fromisoformat(text).isoformat() == text:
            return text
    except ValueError:
        pass  # falls through to the one message below
    raise ValueError(f"{text!r} is not a date in ISO form such as '2024-01-31'")


def _cron(text: str) -> str:
    if text.startswith("@") and text[1:] in _CRON_NAMES:
        return text
    fields = text.split()
    legal = len(fields) == len(_CRON_LIMITS) and all(_CRON_FIELD.fullmatch(field) for field in fields)
    if not legal or not all(
        low <= int(number) <= high
        for field, (low, high) in zip(fields, _CRON_LIMITS, strict=True)
        for number in re.findall(r"(?<![/0-9])[0-9]+", field)
    ):
        raise ValueError(
            f"{text!r} is not a cron line of five fields such as '30 6 * * *' (minute hour day month weekday)"
        )
    return text


def _condition(text: str) -> str:
    from lakehouse_assets.errors import SqlError
    from lakehouse_assets.sql import dialect, parse

    try:
        faults = list(dialect.row_faults(parse.shared_expression(text, "the condition"), condition=True))
    except SqlError as error:
        raise ValueError(error.problem) from None
    if faults:
        raise ValueError(f"{text!r}: {'; '.join(faults)}")
    return text


def _none_to_empty_list(value: object) -> object:
    return [] if value is None else value


def _none_to_empty_map(value: object) -> object:
    return {} if value is None else value


def _none_to_history(value: object) -> object:
    return {} if value is None else value


Duration = Annotated[str, AfterValidator(_duration)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
FeedLabel = Annotated[str, AfterValidator(check_feed)]
Name = Annotated[str, Field(min_length=1)]
Names = Annotated[list[Name], BeforeValidator(_none_to_empty_list)]


class Block(BaseModel):
    """Base of the parts of an entity: strict and frozen; change one by assigning a new one to the entity."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)


class Partitions(Block):
    """Time partitions of a table that is read or built by partition."""

    cadence: Literal["hourly", "daily", "weekly", "monthly"]
    """How long a partition is."""
    start: Annotated[str, AfterValidator(_date)]
    """The first partition: an ISO date."""
    timezone: TimeZone = "UTC"
    """The zone in which partitions begin at midnight."""


class Schedule(Block):
    """When the table is refreshed by the clock."""

    cron: Annotated[str, AfterValidator(_cron)]
    """Five fields: minute, hour, day of the month, month, day of the week."""
    timezone: TimeZone = "UTC"
    """The zone in which the cron line is read."""


class Freshness(Block):
    """How old the newest data may be before somebody is told."""

    warn: Duration | None = None
    """The age at which the freshness check warns."""
    fail: Duration | None = None
    """The age at which the freshness check fails."""

    @property
    def warn_delta(self) -> dt.timedelta | None:
        """`warn` as a `timedelta`."""
        return to_timedelta(self.warn) if self.warn else None

    @property
    def fail_delta(self) -> dt.timedelta | None:
        """`fail` as a `timedelta`."""
        return to_timedelta(self.fail) if self.fail else None


class History(Block):
    """How a table with `apply_changes` is kept, beyond what `apply_changes` says."""

    start_at: Name = "__START_AT"
    """The column in which a version's first sequence stands (type 2)."""
    end_at: Name = "__END_AT"
    """The column in which the next version's first sequence stands (type 2); NULL: the version is open."""
    soft_deletes: Name | None = None
    """A BOOLEAN column: a deleted row stays with its last values and true there; absent: it goes."""
    truncates: Literal["close", "refuse"] = "close"
    """What a truncate does to a table of type 2: it closes every open row, or stops the run."""
    invalid: Literal["quarantine", "fail"] = "quarantine"
    """What becomes of events without key or sequence, or that contradict each other: quarantine, or stop the run."""
    snapshots: bool = False
    """Each sequence value is a complete extract: a key that is absent from it is deleted."""


class Lag(Block):
    """How many messages may wait in a topic before somebody is told."""

    warn: Annotated[int, Field(ge=0)] | None = None
    """The number above which the lag check warns."""
    fail: Annotated[int, Field(ge=0)] | None = None
    """The number above which the lag check fails."""


class Candles(Block):
    """The columns of numbers that a bar of trading is drawn of."""

    open: Name
    """The price at its beginning."""
    high: Name
    """The highest price."""
    low: Name
    """The lowest price."""
    close: Name
    """The price at its end."""
    volume: Name | None = None
    """How much was traded: drawn below; absent: it is not."""


class Chart(Block):
    """What is drawn of a table after each run that wrote it: lines in a panel for each of `y`, or `candles`."""

    x: Name
    """The column along which it is drawn: a date, a timestamp or a number."""
    y: Annotated[list[Name], BeforeValidator(_none_to_empty_list), Field(max_length=4)] = []
    """The columns that are drawn as lines: numbers; one panel each, or all of them over the candles."""
    by: Name | None = None
    """The column whose values have a line (or candles: a panel) of their own; absent: there is one."""
    candles: Candles | None = None
    """Bars of trading, the newest ones: a panel for each of the four values of `by` that have most rows."""
    where: Annotated[str, AfterValidator(_condition)] | None = None
    """A condition in SQL: the rows that are drawn; absent: all of them."""

    @model_validator(mode="after")
    def _draws_something(self) -> Chart:
        if not self.y and self.candles is None:
            raise ValueError("draws nothing: list columns of numbers under y, or name those of candles")
        return self


class LakehouseOptions(Block):
    """Options of this project for one table; each is optional, and absent means the plain meaning of the entity."""

    feed: FeedLabel | None = None
    """The name of this stream where several entities feed one destination."""
    landed_by: Literal["upload"] | None = None
    """`upload`: an edge uploader writes this table; a run here never lands it."""
    source_timezone: TimeZone | None = None
    """The IANA zone of source times that carry no zone of their own; absent: UTC, and it is reported."""
    on_data_loss: Literal["fail", "mark"] | None = None
    """What becomes of messages that a Kafka topic lost before they were read: stop (default), or mark them as lost."""
    lookback: Duration | None = None
    """How far behind the newest row a time cursor looks for rows that came late."""
    horizon: Duration | None = None
    """How late an event may come and still be woven in; absent: without limit."""
    history: Annotated[History, BeforeValidator(_none_to_history)] = History()
    """How a table with `apply_changes` is kept."""
    tolerance: Duration | None = None
    """How old the right row of an as-of join may be."""
    partitions: Partitions | None = None
    """Time partitions of the table."""
    schedule: Schedule | None = None
    """When the table is refreshed by the clock."""
    freshness: Freshness | None = None
    """How old the newest data may be."""
    lag: Lag | None = None
    """How many messages may wait in the topic."""
    owners: Annotated[list[Annotated[str, AfterValidator(_owner)]], BeforeValidator(_none_to_empty_list)] = []
    """Who answers for the table: e-mail addresses or `team:name`."""
    cluster_by: Names = []
    """Columns whose values are kept near each other in the files."""
    evolution: Literal["add_columns", "freeze", "rescue"] | None = None
    """A new column is added, refused (a changed one, too), or rescued: what has no place goes to `_rescued_data`."""
    refresh_key: Names = []
    """Columns of a query table by which it is refreshed instead of fully, where that is proven equal."""
    writers: Literal["both", "spark"] | None = None
    """Which engines may write the table; `spark` allows Delta features that the embedded engine lacks."""
    columns: Annotated[dict[Name, str], BeforeValidator(_none_to_empty_map)] = {}
    """Comments on columns: name to text."""
    severity: Annotated[dict[Name, Literal["warn", "error"]], BeforeValidator(_none_to_empty_map)] = {}
    """How a broken rule shows on its check: rule name to `warn` or `error`."""
    chart: Chart | None = None
    """What is drawn of the table."""
    tables: Names = []
    """The two upstream tables of an as-of join: left, right."""

    @property
    def lookback_delta(self) -> dt.timedelta | None:
        """`lookback` as a `timedelta`."""
        return to_timedelta(self.lookback) if self.lookback else None

    @property
    def horizon_delta(self) -> dt.timedelta | None:
        """`horizon` as a `timedelta`."""
        return to_timedelta(self.horizon) if self.horizon else None

    @property
    def tolerance_delta(self) -> dt.timedelta | None:
        """`tolerance` as a `timedelta`."""
        return to_timedelta(self.tolerance) if self.tolerance else None
