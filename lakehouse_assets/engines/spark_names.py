"""Under which names Spark knows the tables of a lake: `<catalog>.<layer>.<table>` where a catalog is set, else paths.

A table is an external one at its path `<root>/<layer>/<table>`; the name is a second way to it, by which lineage and
grants apply. What is in the table, and its numbers, are read from the log at the path: no row depends on a name.
What belongs here: names, registering, and reading and writing by either way. What does not: what a catalog is told
about a table (`spark_publish.py`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from lakehouse_assets.engines import unity_sql
from lakehouse_assets.engines.spark_session import spark_faults
from lakehouse_assets.engines.spark_sql import at
from lakehouse_assets.engines.unity_sql import Name, full
from lakehouse_assets.errors import ForeignTable, LakeError, LakehouseError, SettingsError
from lakehouse_assets.lake.storage import normalize
from lakehouse_assets.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_DETAILS = "# Detailed Table Information"
"""The row after which DESCRIBE TABLE EXTENDED tells of the table: the rows before it tell of its columns."""
_PLAIN = frozenset({"spark_catalog", "hive_metastore"})
"""Catalogs that are not Unity Catalog's."""


@dataclass(frozen=True)
class Names:
    """The names of the tables below one root."""

    catalog: str
    root: str

    @classmethod
    def of(cls, settings: Settings) -> Names | None:
        """The names that the settings ask for.

        Raises:
            SettingsError: the tables cannot be registered where they stand.
        """
        if not settings.unity_catalog:
            return None
        root = normalize(settings.root)
        if f"{root}/".startswith("/Volumes/"):
            raise SettingsError(
                f"LAKEHOUSE_UNITY_CATALOG is {settings.unity_catalog!r}, and no table of Unity Catalog can stand in a "
                "volume",
                value=root,
                choices=("s3://…", "abfss://…"),
                fix="move the lake's root to an external location, or unset LAKEHOUSE_UNITY_CATALOG",
            )
        return cls(settings.unity_catalog, root)

    def name_of(self, uri: str) -> Name | None:
        """The name of the table at `<root>/<layer>/<table>`; `None` for what stands elsewhere."""
        below = uri.removeprefix(f"{self.root}/")
        parts = below.split("/")
        if below == uri or len(parts) != 2:
            return None
        return self.catalog, parts[0], parts[1]

    @property
    def in_unity(self) -> bool:
        """Whether the catalog can be one of Unity Catalog."""
        return self.catalog.lower() not in _PLAIN


@dataclass(frozen=True)
class Target:
    """A table as commands, reads and writes name it: by its name where it has one, else by its path."""

    uri: str
    name: str | None = None

    @property
    def sql(self) -> str:
        """The table in a command."""
        return self.name or at(self.uri)

    def read(self, spark: SparkSession, **options: object) -> DataFrame:
        """The frame of the table."""
        reader = spark.read.format("delta").options(**{name: str(value) for name, value in options.items()})
        return reader.table(self.name) if self.name else reader.load(self.uri)

    def append(self, frame: DataFrame, options: Mapping[str, str]) -> None:
        """Append the rows of a frame."""
        writer = frame.write.format("delta").options(**options).mode("append")
        if self.name:
            writer.saveAsTable(self.name)
        else:
            writer.save(self.uri)

    def overwrite(self, frame: DataFrame, options: Mapping[str, str], where: str | None) -> None:
        """Replace the rows for which `where` is true, or all; `saveAsTable` would replace the table itself."""
        from pyspark.sql import functions as F  # noqa: N812

        if self.name:
            frame.writeTo(self.name).options(**options).overwrite(F.expr(where or "true"))
        else:
            which = {"replaceWhere": where} if where else {}
            frame.write.format("delta").options(**options, **which).mode("overwrite").save(self.uri)

    def rebuild(self, frame: DataFrame, options: Mapping[str, str], partition_by: Sequence[str]) -> None:
        """Replace all rows and the columns; by the path, because by its name a table is unpartitioned or replaced."""
        writer = frame.write.format("delta").options(**options, overwriteSchema="true").mode("overwrite")
        writer.partitionBy(*partition_by).save(self.uri)


@dataclass(frozen=True)
class Found:
    """What stands under a name.

    Attributes:
        details: Location, Type, Comment, View Text, … as the catalog tells them.
    """

    details: Mapping[str, str]

    @property
    def is_view(self) -> bool:
        """Whether it is a view."""
        return self.details.get("Type", "").upper().endswith("VIEW")

    def is_at(self, uri: str) -> bool:
        """Whether it is the table at that place."""
        return not self.is_view and place_of(self.details.get("Location", "")) == place_of(uri)


def place_of(location: str) -> str:
    """A location in one spelling: Spark adds `file:`, knows `s3a` for `s3`, and encodes blanks."""
    text = re.sub(r"^file:/+", "/", location.rstrip("/"))
    if text != location.rstrip("/"):
        return unquote(text)
    return re.sub(r"^s3[an]://", "s3://", text)


class Registry:
    """Registers tables under their names, each once in the life of an engine."""

    def __init__(self, names: Names | None, session: Callable[[], SparkSession]) -> None:
        self.names = names
        self._session = session
        self._here: dict[Name, bool] = {}
        self._lock = threading.RLock()

    def name_of(self, uri: str) -> Name | None:
        """The name that a table at this place has, or is to have."""
        return self.names.name_of(uri) if self.names else None

    def free(self, uri: str) -> Name | None:
        """The name under which a table is to be made at this place; `None` where it is made by its path.

        Raises:
            ForeignTable: the name is taken by another table.
        """
        name = self.name_of(uri)
        if name is None:
            return None
        found = self.look(name)
        if found is None:
            self.ensure_schema(name)
            return name
        self._refuse_other(name, uri, found)
        return None  # it was registered, and its files were removed since

    def writable(self, uri: str) -> Target:
        """The table at this place, to be written: registered if it was not.

        Raises:
            ForeignTable: its name is taken by another table.
            LakeError: it may not be registered.
        """
        name = self.name_of(uri)
        if name is None:
            return Target(uri)
        with self._lock:
            if not self._here.get(name):
                self._register(name, uri)
                self._here[name] = True
        return Target(uri, full(name))

    def readable(self, uri: str) -> Target:
        """The table at this place, to be read: by its name if it is registered, else by its path."""
        name = self.name_of(uri)
        if name is None:
            return Target(uri)
        with self._lock:
            if name not in self._here:
                found = self.look(name)
                self._here[name] = found is not None and found.is_at(uri)
            return Target(uri, full(name)) if self._here[name] else Target(uri)

    def look(self, name: Name) -> Found | None:
        """What stands under a name; `None` if nothing does."""
        with _faults(name):
            spark = self._session()
            if not spark.catalog.tableExists(full(name)):
                return None
            rows = [(row[0], row[1]) for row in spark.sql(unity_sql.describe(name)).collect()]
        marks = [index for index, (word, _) in enumerate(rows) if word == _DETAILS]
        return Found({word: text or "" for word, text in rows[marks[-1] + 1 :]} if marks else {})

    def _register(self, name: Name, uri: str) -> None:
        found = self.look(name)
        if found is None:
            self.ensure_schema(name)
            with _faults(name):
                self._session().sql(unity_sql.register(name, uri))
            found = self.look(name)  # another process may have been first
        if found is not None:
            self._refuse_other(name, uri, found)

    def ensure_schema(self, name: Name) -> None:
        """Make the schema of a table, if it is not there."""
        with _faults(name):
            spark = self._session()
            if not spark.catalog.databaseExists(full(name[:2])):  # to ask needs no right to make schemas
                spark.sql(unity_sql.create_schema(name))

    def _refuse_other(self, name: Name, uri: str, found: Found) -> None:
        if found.is_at(uri):
            return
        place = "is a view" if found.is_view else f"is the table at {found.details.get('Location') or 'no location'}"
        raise ForeignTable(
            f"{'.'.join(name)} {place} in the catalog, and the table of this lake stands at {uri}",
            fix=f"drop or rename what is registered ({_drop(name, found)} leaves the files of an external table), "
            "or give this lake a catalog of its own: LAKEHOUSE_UNITY_CATALOG",
        )


def _drop(name: Name, found: Found) -> str:
    return f"DROP {'VIEW' if found.is_view else 'TABLE'} {full(name)}"


@contextmanager
def _faults(name: Name) -> Iterator[None]:
    """Errors of the catalog in words that name what is to be done."""
    try:
        with spark_faults(full(name)):
            yield
    except LakehouseError as error:
        if (fault := fault_of(name, error)) is error:
            raise
        raise fault from error


def fault_of(name: Name, error: LakehouseError) -> LakehouseError:
    """An error of the catalog in words that name what is to be done; any other as it is."""
    said = error.problem
    if re.search(r"CATALOG_NOT_FOUND|NO_SUCH_CATALOG|REQUIRES_SINGLE_PART_NAMESPACE|CatalogNotFound", said):
        return SettingsError(
            f"the Spark session knows no catalog {name[0]!r}",
            value=name[0],
            fix="set LAKEHOUSE_UNITY_CATALOG to one of SHOW CATALOGS, or unset it: tables then go by their paths",
        )
    if re.search(r"PERMISSION_DENIED|INSUFFICIENT_PERMISSIONS|does not have .* on|UNAUTHORIZED", said):
        return LakeError(
            f"{'.'.join(name)} may not be registered: {said}",
            fix=f"GRANT USE CATALOG, CREATE SCHEMA ON CATALOG {full(name[:1])}, and CREATE EXTERNAL TABLE ON EXTERNAL "
            "LOCATION …; lakehouse doctor --target databricks says which is missing",
        )
    return error
