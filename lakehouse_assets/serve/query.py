"""Questions in Spark SQL over every Delta table below a root, whether a catalog declares it or not.

What belongs here: finding tables, resolving names, refusing what is not a portable SELECT. What does not: printing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from lakehouse_assets.engines.base import Engine, Relation
from lakehouse_assets.errors import CatalogError, LakeError, RootUnusable
from lakehouse_assets.lake.names import Lake
from lakehouse_assets.lake.storage import store_fault
from lakehouse_assets.sql.expand import quoted
from lakehouse_assets.sql.parse import parse_query, tables

WHERE = "the query"


def list_tables(lake: Lake) -> dict[str, str]:
    """Every Delta table at `<root>/<layer>/<table>`: `layer.table` -> its URI, by name.

    Raises:
        RootUnusable: the root is not there or cannot be read.
    """
    from pyarrow.fs import FileSelector, FileSystem, FileType

    fs, root = lake.storage.filesystem(lake.root)

    def directories(path: str) -> list[str]:
        found = fs.get_file_info(FileSelector(path))
        return sorted(info.base_name for info in found if info.type == FileType.Directory)

    def is_table(fs: FileSystem, path: str) -> bool:
        return bool(fs.get_file_info([f"{path}/_delta_log"])[0].type == FileType.Directory)

    try:
        pairs = [(layer, name) for layer in directories(root) for name in directories(f"{root}/{layer}")]
        found = [(layer, name) for layer, name in pairs if is_table(fs, f"{root}/{layer}/{name}")]
    except FileNotFoundError:
        raise RootUnusable(
            f"there is no lake at {lake.root}", fix="give --root, or make the lake: lakehouse run '*'"
        ) from None
    except OSError as error:
        raise store_fault(lake.root, error, LakeError) from error
    return {f"{layer}.{name}": f"{lake.root}/{layer}/{name}" for layer, name in found}


def ask(lake: Lake, engine: Engine, sql: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Relation:
    """The answer to a query, not yet computed.

    Args:
        sql: one SELECT in the transforms' dialect; tables are `layer.table`, `:run_date` is today (UTC).

    Raises:
        SqlError: it is no SELECT, does not parse, or uses a function that the two engines do not share.
        CatalogError: a table is not in the lake; the nearest one is pointed out.
        RootUnusable: there is no lake at the root.
    """
    tree = parse_query(sql, WHERE)
    relations = {written: _relation(lake, engine, written) for written in tables(tree)}
    return engine.query(sql, relations, {"run_date": clock().date()})


def _relation(lake: Lake, engine: Engine, written: str) -> Relation:
    layer, _, name = written.partition(".")
    handle = engine.find(f"{lake.root}/{layer}/{name}") if name and _is_plain(layer) and _is_plain(name) else None
    if handle is None:
        found = list_tables(lake)
        near = [uri for known, uri in found.items() if known.lower() == written.lower()]
        handle = engine.find(near[0]) if len(near) == 1 else None
    if handle is None:
        raise CatalogError("there is no such table in the lake", value=written, choices=found)
    return engine.read(handle)


def _is_plain(part: str) -> bool:
    """Whether a part of a name is the name of one directory: a name never leads out of the lake."""
    return part not in ("", ".", "..") and not any(mark in part for mark in "/\\\0")


def first(engine: Engine, relation: Relation, limit: int) -> Relation:
    """The first `limit` rows of an answer, in its order."""
    columns = ", ".join(quoted(name) for name in engine.schema(relation).names)
    return engine.query(f"SELECT {columns} FROM answer LIMIT {limit:d}", {"answer": relation})
