"""The entity: the record that declares one table, and the name of a table.

What belongs here: the 27 fields with the rules that hold for one field, the name of a table, the kind of a table.
What does not: rules between fields (`checks.py`), rules between entities (`catalog.py`), SQL (`sql/`).
Loading this module must stay cheap: no pyarrow, no sqlglot.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lakehouse_assets.entities import checks
from lakehouse_assets.entities.options import Block, FeedLabel, LakehouseOptions, Name, Names
from lakehouse_assets.errors import CatalogError

SourceFormat = Literal[
    "cloudFiles", "kafka", "csv", "json", "parquet", "avro", "orc", "delta", "dlt",
    "sqlite", "kinesis", "kdb", "sql", "asof",
]  # fmt: skip
Kind = Literal["landed", "extract", "conformed", "history", "query", "asof", "view"]

STREAMING = frozenset({"cloudFiles", "kafka", "sqlite", "kinesis"})
"""Formats that always are incremental: `is_streaming` is True whatever was given."""
WHOLE = frozenset({"csv", "json", "parquet", "avro", "orc", "kdb", "sql", "asof"})
"""Formats that never are: `is_streaming` is False. `delta` and `dlt` keep what was given."""
OUTSIDE = frozenset({"cloudFiles", "kafka", "csv", "json", "parquet", "avro", "orc", "sqlite", "kinesis", "kdb"})
"""Formats that read the outside world; `delta` does where its source is a path."""
GENERATED = ("id", "created_ts", "expired_ts", "created_by", "modified_by", "is_latest", "hash")
"""Fields that a store fills in; a catalog file never holds them."""

_SAFE = re.compile(r"[A-Za-z0-9_]{1,200}")
_LAYER = re.compile(r".+_(bronze|silver|gold)")


@dataclass(frozen=True, order=True)
class TableName:
    """A table of the lake: `layer.name`.

    Raises:
        CatalogError: a part holds anything but letters, digits and `_`, or is longer than 200.
    """

    layer: str
    name: str

    def __post_init__(self) -> None:
        for part in (self.layer, self.name):
            if not _SAFE.fullmatch(part):
                raise CatalogError(
                    f"{self.layer}.{self.name!r} cannot name a table",
                    value=part,
                    fix="use letters, digits and '_' only (1 to 200 of them), as layer.table",
                )

    def __str__(self) -> str:
        return f"{self.layer}.{self.name}"

    @property
    def quarantine(self) -> TableName:
        """The table of rows that broke a rule."""
        return TableName(self.layer, f"{self.name}_quarantine")

    @property
    def changes(self) -> TableName:
        """The log of a table with `apply_changes`."""
        return TableName(self.layer, f"{self.name}__changes")

    @property
    def corrections(self) -> TableName:
        """The corrections that people made to quarantined rows."""
        return TableName(self.layer, f"{self.name}__corrections")

    @classmethod
    def parse(cls, destination: str, outside: bool) -> TableName:
        """The table that `destination` names.

        Args:
            destination: `layer.table`, `catalog.layer.table` (the catalog is dropped), or `table`: then the suffix
                `_bronze`, `_silver` or `_gold` names the layer and stays in the name.
            outside: whether the table reads the outside world: without layer and suffix it is bronze then, else silver.

        Raises:
            CatalogError: the text does not name a table.
        """
        parts = destination.split(".")
        if len(parts) > 3:
            raise CatalogError(
                "the destination has more than three parts", value=destination, fix="write it as layer.table"
            )
        if len(parts) > 1:
            return cls(parts[-2], parts[-1])
        suffix = _LAYER.fullmatch(destination)
        return cls(suffix[1] if suffix else "bronze" if outside else "silver", destination)


def spark_text(value: object) -> object:
    """A scalar as Spark writes it in an option: `true`, `5`; anything but a scalar is left for pydantic to refuse."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def _empty_list(value: object) -> object:
    return [] if value is None else value


def _empty_map(value: object) -> object:
    return {} if value is None else value


def _empty_tags(value: object) -> object:
    if isinstance(value, dict):
        return {key: "" if text is None else text for key, text in value.items()}
    return _empty_map(value)


def _empty_block(value: object) -> object:
    return {} if value is None else value


def _scd_type(value: object) -> object:
    return int(value) if isinstance(value, str) and value in ("1", "2") else value


def _group(value: str | None) -> str | None:
    return value or None


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("is blank")
    return value


Sql = Annotated[str, AfterValidator(_not_blank)]
Text = Annotated[str, AfterValidator(_not_blank)]
Options = Annotated[dict[Name, Annotated[str, BeforeValidator(spark_text)]], BeforeValidator(_empty_map)]
Tags = Annotated[dict[Name, Annotated[str, BeforeValidator(spark_text)]], BeforeValidator(_empty_tags)]
Rules = Annotated[dict[Name, Sql], BeforeValidator(_empty_map)]


class Expectations(Block):
    """Rules that every row must keep: name to a boolean Spark SQL expression; NULL counts as broken."""

    expect_all: Rules = Field(default_factory=dict)
    """Broken: the row is kept and counted; with `is_quarantined` it goes to quarantine."""
    expect_all_or_drop: Rules = Field(default_factory=dict)
    """Broken: the row is dropped and counted; with `is_quarantined` it goes to quarantine."""
    expect_all_or_fail: Rules = Field(default_factory=dict)
    """Broken: the run stops before anything is written."""

    @property
    def rules(self) -> dict[str, str]:
        """All rules, in the order of the three maps."""
        return {**self.expect_all, **self.expect_all_or_drop, **self.expect_all_or_fail}


class ApplyChanges(Block):
    """How a stream of events becomes a table with history (SCD type 2) or without (type 1)."""

    sequence_by: Sql
    """The column that orders the events of a key, or `struct(a, b)` for several."""
    where: Sql | None = None
    """Only events for which this condition is true are taken."""
    ignore_null_updates: bool = False
    """NULL in an event keeps the value that was there."""
    apply_as_deletes: Sql | None = None
    """Events for which this condition is true delete their key."""
    apply_as_truncates: Sql | None = None
    """Events for which this condition is true empty the table (type 1) or close all its rows (type 2)."""
    column_list: list[Name] | None = None
    """The columns of the target; absent: all."""
    except_column_list: list[Name] | None = None
    """The columns that are left out of the target."""
    stored_as_scd_type: Annotated[Literal[1, 2], BeforeValidator(_scd_type)] = 1
    """1: the newest row of each key; 2: every version with `__START_AT` and `__END_AT`."""
    track_history_column_list: list[Name] | None = None
    """The columns whose change opens a new version (type 2); absent: all but the keys."""
    track_history_except_column_list: list[Name] | None = None
    """The columns whose change does not open a new version (type 2)."""
    flow_name: FeedLabel | None = None
    """The name of this feed where several feed one target."""
    ignore_null_updates_column_list: list[Name] | None = None
    """The columns in which NULL keeps the value that was there."""
    ignore_null_updates_except_column_list: list[Name] | None = None
    """The columns in which NULL is written, while all others keep theirs."""
    once: bool = False
    """The feed is read once, as a backfill."""


class Entity(BaseModel):
    """The record that declares one table.

    Fields are checked when they are assigned, too: either the whole entity still holds, or nothing has changed.

    Raises:
        pydantic.ValidationError: (a ValueError) with every fault of the fields.
    """

    model_config = ConfigDict(
        extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True, validate_assignment=True
    )

    entity_id: Text
    """The stable id of the entity, unique in the catalog."""
    source: Text
    """What is read: a path, a topic, a database file, a table of the catalog, a query or a `.sql` file."""
    destination: Text
    """The table that is made: `layer.table`, or `table` with `_bronze`, `_silver` or `_gold` at its end."""
    destination_type: Literal["table", "view"] = "table"
    """`view`: not stored, expanded where it is used."""
    source_format: SourceFormat = "cloudFiles"
    """What the source is."""
    is_streaming: bool = True
    """Read what is new only; forced by every format but `delta` and `dlt`."""
    primary_keys: Names = []
    """The columns that identify a row."""
    source_schema: Annotated[str | None, AfterValidator(_group)] = None
    """The columns of the source as Spark DDL: `id int, name string`."""
    select_expr: Annotated[list[Sql], BeforeValidator(_empty_list)] = []
    """Spark SQL select items that make the columns; empty: all columns as they come."""
    read_options: Options = {}
    """Options of the reader, named as in Spark where Spark has the source."""
    table_properties: Options = {}
    """Properties of the Delta table."""
    tags: Tags = {}
    """Labels of the table."""
    spark_conf: Options = {}
    """Settings of the Spark session that writes the table."""
    partition_cols: Names = []
    """The columns by which the files are split; dates or integers where rows are merged or replaced."""
    group: Annotated[str | None, AfterValidator(_group)] = None
    """The group of the table in the graph."""
    comment: Annotated[str | None, AfterValidator(_group)] = None
    """What the table is, for people."""
    id: str | None = None
    """The id of this version of the record (from the store)."""
    created_ts: dt.datetime | None = None
    """When this version began (from the store)."""
    expired_ts: dt.datetime | None = None
    """When this version ended (from the store)."""
    created_by: str | None = None
    """Who made this version (from the store)."""
    modified_by: str | None = None
    """Who ended this version (from the store)."""
    is_enabled: bool = True
    """Whether the table is part of the graph."""
    is_latest: bool | None = None
    """Whether this is the newest version (from the store)."""
    hash: str | int | None = None
    """The hash of the provided fields (from the store)."""
    expectations: Annotated[Expectations, BeforeValidator(_empty_block)] = Expectations()
    """Rules that every row must keep."""
    apply_changes: ApplyChanges | None = None
    """How a stream of events becomes a table with or without history."""
    is_quarantined: bool = False
    """Keep rows that broke a rule in `<destination>_quarantine`, with the names of the rules."""
    lakehouse: Annotated[LakehouseOptions, BeforeValidator(_empty_block)] = LakehouseOptions()
    """What the other fields do not hold: partitions, schedule, owners, …"""

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        if self.source_format in STREAMING | WHOLE:
            self.__dict__["is_streaming"] = self.source_format in STREAMING
        misfits = tuple(checks.misfits(self))
        if misfits:
            raise checks.MisdeclaredError(misfits)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in type(self).model_fields:
            super().__setattr__(name, value)
            return
        checked = type(self).model_validate({**self.__dict__, name: value})
        self.__dict__.update(checked.__dict__)
        self.__pydantic_fields_set__.add(name)

    @property
    def reads_outside(self) -> bool:
        """Whether rows come from outside the lake's tables."""
        if self.source_format == "delta":
            return self.lakehouse.landed_by is not None or any(mark in self.source for mark in "/\\:")
        return self.source_format in OUTSIDE

    @property
    def table(self) -> TableName:
        """The table that is made."""
        return TableName.parse(self.destination, self.reads_outside)

    @property
    def kind(self) -> Kind:
        """How the table is kept."""
        if self.destination_type == "view":
            return "view"
        if self.lakehouse.landed_by:
            return "landed"
        if self.apply_changes:
            return "history"
        if self.source_format == "sql":
            return "query"
        if self.source_format == "asof":
            return "asof"
        if self.source_format in ("dlt", "delta"):
            return "conformed"
        return "extract" if "kdb.partition" in self.read_options else "landed"

    @property
    def feed(self) -> str:
        """The name of this feed, empty where the destination has one only."""
        return (self.apply_changes.flow_name if self.apply_changes else None) or self.lakehouse.feed or ""


PROVIDED = tuple(name for name in Entity.model_fields if name not in GENERATED)
"""Fields that a person provides: 20, and `lakehouse`."""
