"""How DuckDB reads data files of an object store: through pyarrow's file system, without an extension of its own.

What belongs here: what DuckDB asks a file system. What does not: how to reach the store (`lake/storage.py`).
"""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import Any, cast

from lakehouse_assets.errors import NotRunnable
from lakehouse_assets.lake import azure
from lakehouse_assets.lake.storage import Storage


def store_of(uri: str) -> str:
    """The name under which a connection knows the store of `uri`: paths begin with it and `://`."""
    return f"abfss-{azure.address(uri).account}" if azure.is_azure(uri) else "s3"


def register(connection: Any, storage: Storage, uri: str) -> None:
    """Let a connection, and every cursor of it, read the paths of the store that `uri` stands in.

    Raises:
        NotRunnable: the package that carries the calls is not installed.
    """
    try:
        from fsspec.implementations.arrow import ArrowFSWrapper
    except ImportError:
        extra = "azure" if azure.is_azure(uri) else "aws"
        raise NotRunnable(
            f"tables on {uri} need the package fsspec", fix=f"pip install 'lakehouse-assets[{extra}]'"
        ) from None
    store = store_of(uri)

    class DataFiles(ArrowFSWrapper):
        """Data files never change and are named in full: what is known of one is asked for once."""

        protocol = store

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.removeprefix(f"{store}://")

        def glob(self, path: str, **_how: Any) -> list[str]:
            return [path]

        def modified(self, path: str) -> datetime:
            return datetime.fromtimestamp(0, UTC)

        @functools.lru_cache(maxsize=100_000)  # noqa: B019  it lives as long as the engine
        def info(self, path: str, **how: Any) -> dict[str, Any]:
            return cast(dict[str, Any], super().info(path, **how))

    fs, _ = storage.filesystem(uri)
    connection.register_filesystem(DataFiles(fs))
