"""Relations of the Spark engine. Arrow data comes into Spark, and leaves it, as Parquet files: in bounded memory.

What belongs here: frames and their staged files. What does not: tables.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from lakehouse_assets.engines.arrow_inputs import BATCH_ROWS, Input, OverArrow
from lakehouse_assets.engines.spark_types import struct_of
from lakehouse_assets.errors import LakeError
from lakehouse_assets.lake.schemas import NO_PARTITION_VALUE, conform
from lakehouse_assets.lake.storage import store_faults
from lakehouse_assets.lake.streams import gathered
from lakehouse_assets.lake.table import TableAt
from lakehouse_assets.lake.values import DataFile
from lakehouse_assets.sql.expand import quoted
from lakehouse_assets.sql.types import spark_type

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

GROUP_ROWS = 500_000
"""Rows of a row group of a staged file."""

SPOOL = "lakehouse-spark-"
"""How the names of directories with staged rows begin."""
_FILE = "__lakehouse_file"

Make: TypeAlias = "Callable[[Staging], DataFrame]"


@dataclass(frozen=True)
class SparkRelation(OverArrow):
    """How a frame is made, once the Arrow data that it reads is staged."""

    make: Make
    columns: pa.Schema
    inputs: Mapping[str, Input] = field(default_factory=dict)
    plain: Input | None = None


class Spool:
    """The directory of an engine's staged files, made when the first is needed."""

    def __init__(self, below: str | None) -> None:
        self._below, self._path = below, ""
        self._names = itertools.count()

    def place(self, kind: str) -> str:
        """A path where nothing stands."""
        if not self._path:
            if self._below:
                os.makedirs(self._below, exist_ok=True)
            self._path = tempfile.mkdtemp(prefix=SPOOL, dir=self._below)
        return f"{self._path}/{kind}-{next(self._names)}"

    def close(self) -> None:
        """Delete everything."""
        shutil.rmtree(self._path, ignore_errors=True)
        self._path = ""


def for_spark(path: str) -> str:
    """A path of this machine as Spark is told it: on Databricks a path without a scheme is one of DBFS.

    Volumes have one path for all.
    """
    return path if path.startswith("/Volumes/") else f"file:{os.path.abspath(path)}"


class Staging:
    """What one use of a relation needs: staged files and views, which end with the block."""

    def __init__(self, spark: SparkSession, spool: Spool) -> None:
        self.spark = spark
        self._spool = spool
        self._frames: dict[str, DataFrame] = {}
        self._paths: list[str] = []
        self._views: list[str] = []

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        for view in self._views:
            self.spark.catalog.dropTempView(view)
        for path in self._paths:
            shutil.rmtree(path, ignore_errors=True)

    def arrow(self, name: str, data: Input, columns: pa.Schema) -> DataFrame:
        """The frame of Arrow data, staged once however often the relation names it."""
        if name not in self._frames:
            path = self._spool.place("arrow")
            self._paths.append(path)
            stage(path, data.to_reader(BATCH_ROWS) if isinstance(data, pa.Table) else data.open(), columns)
            self._frames[name] = parquet(self.spark, for_spark(path), columns)
        return self._frames[name]

    def view(self, name: str, frame: DataFrame) -> None:
        """Let queries name a frame."""
        frame.createOrReplaceTempView(name)
        self._views.append(name)


def stage(path: str, batches: pa.RecordBatchReader, columns: pa.Schema) -> None:
    """Write record batches as a directory with one Parquet file."""
    with StagedFile(path, columns) as file:
        for batch in gathered(batches):
            file.write(conform(batch, columns))


class StagedFile:
    """A Parquet file that Spark will read, written batch by batch."""

    def __init__(self, path: str, columns: pa.Schema) -> None:
        import pyarrow.parquet as pq

        self.path = path
        with store_faults(path, LakeError):
            os.makedirs(path)
            self._writer = pq.ParquetWriter(f"{path}/rows.parquet", columns, compression="lz4")

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish the file."""
        with store_faults(self.path, LakeError):
            self._writer.close()

    def delete(self) -> None:
        """Give the file up."""
        with contextlib.suppress(OSError):  # a full disk takes no footer; the file is deleted anyway
            self._writer.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def write(self, batch: pa.RecordBatch) -> None:
        """Take a batch with the file's columns."""
        with store_faults(self.path, LakeError):
            self._writer.write_batch(batch, row_group_size=GROUP_ROWS)


def parquet(spark: SparkSession, path: str | list[str], columns: pa.Schema) -> DataFrame:
    """The frame of Parquet files with exactly these columns; columns that a file lacks are NULL."""
    reader = spark.read.schema(struct(columns)).option("__globPaths__", "false")  # a path may hold { and }
    return reader.parquet(*([path] if isinstance(path, str) else path))


def loaded(spark: SparkSession, form: str, options: Mapping[str, str], select: Sequence[str]) -> DataFrame:
    """The frame of a reader of Spark's own, and the columns that are made of it."""
    return spark.read.format(form).options(**options).load().selectExpr(*select)


def struct(columns: pa.Schema) -> Any:
    """The columns as Spark's struct type."""
    from pyspark.sql.types import StructType

    return StructType.fromJson(struct_of(columns))


def stream(path: str, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of the Parquet files that Spark wrote to a directory, in its order."""
    import pyarrow.parquet as pq

    for file in sorted(Path(path).glob("part-*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS):
            yield conform(batch, columns)


def hands_over_arrow() -> bool:
    """Whether a frame gives its rows as Arrow: since Spark 4.0; an older one has to write them."""
    from pyspark.sql import DataFrame

    return hasattr(DataFrame, "toArrow")


def in_groups(files: Sequence[DataFile]) -> list[list[DataFile]]:
    """Files in groups in which each name stands once."""
    groups: list[dict[str, DataFile]] = []
    for file in files:
        name = file.path.rsplit("/", 1)[1]
        group = next((g for g in groups if name not in g), None)
        if group is None:
            groups.append(group := {})
        group[name] = file
    return [list(group.values()) for group in groups]


def rows_of_files(spark: SparkSession, table: TableAt, files: Sequence[DataFile]) -> DataFrame:
    """The rows of some of a table's files (at least one), with the partition values that the log gives them."""
    from pyspark.sql import functions as F  # noqa: N812

    schema, by = nullable(table.schema), table.partition_by
    stored = pa.schema([f for f in schema if f.name not in by])
    if len(groups := in_groups(files)) > 1:  # files that another writer called alike
        return functools.reduce(lambda a, b: a.unionByName(b), (rows_of_files(spark, table, g) for g in groups))
    rows = parquet(spark, [file.path for file in files], stored)
    if not by:
        return rows
    texts = [(f.path.rsplit("/", 1)[1], *(f.partition_values.get(p) for p in by)) for f in files]
    names = [f"p{index}" for index in range(len(by))]
    values = spark.createDataFrame(texts, ", ".join(f"{name} STRING" for name in ("f", *names)))
    named = rows.withColumn(_FILE, F.col("_metadata.file_name"))
    joined = named.join(F.broadcast(values), F.col(_FILE) == F.col("f"))
    typed = {p: F.col(name).cast(spark_type(schema.field(p).type)).alias(p) for p, name in zip(by, names, strict=True)}
    return joined.select(*(typed.get(f.name, F.col(quoted(f.name))) for f in schema))


def fitted(frame: DataFrame, columns: pa.Schema, partition_by: Sequence[str]) -> DataFrame:
    """The frame in the order of the table's columns, with their comments; it fails on partition texts read as NULL."""
    from pyspark.sql import functions as F  # noqa: N812

    chosen = []
    for item in columns:
        column = F.col(quoted(item.name))
        if item.name in partition_by and pa.types.is_string(item.type):
            fault = F.raise_error(F.lit(f"lakehouse: empty partition text in {item.name}")).cast("string")
            column = F.when(column.isin(*NO_PARTITION_VALUE), fault).otherwise(column)
        comment = (item.metadata or {}).get(b"comment")
        chosen.append(column.alias(item.name, metadata={"comment": comment.decode()} if comment else {}))
    return frame.select(*chosen)


def nullable(schema: pa.Schema) -> pa.Schema:
    """The same columns, each of which may hold NULL: what Spark reads from files."""
    return pa.schema([pa.field(f.name, f.type) for f in schema])
