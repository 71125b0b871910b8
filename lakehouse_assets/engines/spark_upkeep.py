"""How Spark looks after a table: files that no version names any more, and how it is clustered.

What does not belong here: how long files are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lakehouse_assets.engines.spark_names import Target
from lakehouse_assets.engines.spark_session import spark_faults
from lakehouse_assets.lake.delta import DeltaTable
from lakehouse_assets.lake.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TOLD = {
    "spark.databricks.delta.retentionDurationCheck.enabled": "false",
    "spark.databricks.delta.vacuum.logging.enabled": "false",
}
"""What the session is told for it."""


def vacuum(spark: SparkSession, storage: Storage, target: Target, retention_hours: int) -> list[str]:
    """Delete them; returns their paths in the table. Where there are none, no command is run that says so."""
    command = f"VACUUM {target.sql} RETAIN {retention_hours} HOURS"
    found = [row[0] for row in spark.sql(f"{command} DRY RUN").collect()]  # empty directories, too
    gone = _files_among(storage, target.uri, found)
    if gone:
        spark.sql(command).collect()
    return gone


def clustered_by(spark: SparkSession, target: Target, table: DeltaTable) -> list[str]:
    """The columns by which a table is clustered."""
    if not table.supports("clustering"):
        return []
    with spark_faults("DESCRIBE DETAIL", table.uri):
        (detail,) = spark.sql(f"DESCRIBE DETAIL {target.sql}").collect()
    return list(detail["clusteringColumns"])


def _files_among(storage: Storage, uri: str, paths: Sequence[str]) -> list[str]:
    fs, root = storage.filesystem(uri)
    inside = [path.split(root, 1)[1] for path in paths]
    infos = fs.get_file_info([root + i for i in inside])
    return [name for name, info in zip(inside, infos, strict=True) if info.is_file]
