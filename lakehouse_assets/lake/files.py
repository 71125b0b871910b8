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
    import pyarrow.compute as pc

    for name, value in bounds.items():
        if (held := _may_hold(actions, name, value)) is not None:
            actions = actions.filter(pc.fill_null(held, True))
    wanted = ["path", "size_bytes", "num_records", *(f"partition.{name}" for name in partition_by)]
    return [
        DataFile(
            f"{root}/{unquote(action['path'])}",
            action.get("num_records"),
            action["size_bytes"],
            {name: _partition_text(uri, name, action[f"partition.{name}"]) for name in partition_by},
        )
        for action in actions.select([name for name in wanted if name in actions.schema.names]).to_pylist()
    ]


def _may_hold(actions: pa.Table, name: str, value: int | str) -> pa.ChunkedArray | None:
    """Whether each file may hold a value (NULL: unknown); `None` where no statistics of the value's type tell.

    Statistics of another type say nothing: instants, for one, are cut in them.
    """
    import pyarrow.compute as pc

    sides = (f"min.{name}", f"max.{name}")
    if not all(side in actions.schema.names for side in sides):
        return None
    low, high = (actions.column(side) for side in sides)
    same = pa.types.is_integer if isinstance(value, int) else _is_text
    if not (same(low.type) and same(high.type)):
        return None
    if isinstance(value, str):
        low, high = low.cast(pa.string()), high.cast(pa.string())
    return pc.and_(pc.less_equal(low, value), pc.greater_equal(high, value))


def _is_text(dtype: pa.DataType) -> bool:
    return any(check(dtype) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _partition_text(uri: str, name: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        raise FeatureRefused(
            f"the table at {uri} is partitioned by the binary column {name!r}", fix="run it with --engine spark"
        )
    return str(value).lower() if isinstance(value, bool) else str(value)
