"""The live data files of a table, from the actions of its log.

What belongs here: paths, partition values, leaving files out by their statistics. What does not: reading the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from lakehouse_assets.errors import FeatureRefused
from lakehouse_assets.lake.values import DataFile


def data_files(
    uri: str, root: str, actions: pa.Table, partition_by: Sequence[str], bounds: Mapping[str, int | str]
) -> list[DataFile]:
    """Files of flattened add actions, without those whose statistics exclude the values of `bounds`.

    Args:
        root: the table's path in its file system.
        actions: columns `path`, `size_bytes`, `num_records`, `partition.<name>`, `min.<name>`, `max.<name>`.
    """
    wanted = ["path", "size_bytes", "num_records", *(f"partition.{name}" for name in partition_by)]
    wanted += [f"{side}.{name}" for name in bounds for side in ("min", "max")]
    chosen = actions.select([name for name in wanted if name in actions.schema.names])
    return [
        DataFile(
            f"{root}/{unquote(action['path'])}",
            action.get("num_records"),
            action["size_bytes"],
            {name: _partition_text(uri, name, action[f"partition.{name}"]) for name in partition_by},
        )
        for action in chosen.to_pylist()
        if all(_may_hold(action, name, value) for name, value in bounds.items())
    ]


def _may_hold(action: Mapping[str, Any], name: str, value: int | str) -> bool:
    """Whether a file may hold a value; statistics of another type say nothing (instants are cut in them)."""
    low: Any = action.get(f"min.{name}")
    high: Any = action.get(f"max.{name}")
    if not (isinstance(low, type(value)) and isinstance(high, type(value))):
        return True
    return bool(low <= value <= high)  # type: ignore[operator]


def _partition_text(uri: str, name: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        raise FeatureRefused(
            f"the table at {uri} is partitioned by the binary column {name!r}", fix="run it with --engine spark"
        )
    return str(value).lower() if isinstance(value, bool) else str(value)
