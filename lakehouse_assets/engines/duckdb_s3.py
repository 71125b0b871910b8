"""How DuckDB reads data files of an object store: through pyarrow's file system, without an extension of its own.

What belongs here: what DuckDB asks a file system. What does not: how to reach the store (`lake/storage.py`).
"""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import Any, cast

from lakehouse_assets.errors import NotRunnable
from lakehouse_assets.lake.storage import Storage


def register_s3(connection: Any, storage: Storage) -> None:
    """Let a connection, and every cursor of it, read `s3://` paths.

    Raises:
        NotRunnable: the package that carries the calls is not installed.
    """
    try:
        from fsspec.implementations.arrow import ArrowFSWrapper
    except ImportError:
        raise NotRunnable(
            "tables on s3:// need the package fsspec", fix="pip install 'lakehouse-assets[aws]'"
        ) from None

    class S3(ArrowFSWrapper):
        """Data files never change and are named in full: what is known of one is asked for once."""

        protocol = "s3"

        def glob(self, path: str, **_how: Any) -> list[str]:
            return [path]

        def modified(self, path: str) -> datetime:
            return datetime.fromtimestamp(0, UTC)

        @functools.lru_cache(maxsize=100_000)  # noqa: B019  it lives as long as the engine
        def info(self, path: str, **how: Any) -> dict[str, Any]:
            return cast(dict[str, Any], super().info(path, **how))

    fs, _ = storage.filesystem("s3://bucket")
    connection.register_filesystem(S3(fs))
