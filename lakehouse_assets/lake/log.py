"""What the log of a Delta table says about a range of versions: which commits changed rows, which files they added.

Reads `_delta_log/*.json` itself, because no library answers these questions exactly: a difference of two file lists
takes compaction for new rows, and the change data feed is slow where a table is only appended to.
What does not belong here: writing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from lakehouse_assets.errors import FeedExpired, LakeError, StoreFailed
from lakehouse_assets.lake.storage import Storage, store_faults

Action = Mapping[str, Any]
"""One line of a commit file: `{"add": …}`, `{"remove": …}`, `{"txn": …}`, `{"commitInfo": …}`, …"""

MARK = "lakehouse"
"""The key in a commit's info by which this project knows its own commits; its value names the plan."""

WRITE = "lakehouseWrite"
"""The key in a commit's info by which a writer knows the commit that it made itself."""

REBUILD = "rebuild the tables that read it: lakehouse run --full-refresh TABLE"
"""What to do about a range that can no longer be read."""


def commits(storage: Storage, uri: str, start: int, end: int) -> Iterator[tuple[int, list[Action]]]:
    """The actions of the versions `start + 1 … end` of the table at `uri`.

    Raises:
        FeedExpired: one of them has left the log.
    """
    for version in range(start + 1, end + 1):
        yield version, actions(storage, uri, version)


def actions(storage: Storage, uri: str, version: int) -> list[Action]:
    """The actions of one version.

    Raises:
        FeedExpired: it has left the log.
        LakeError: its file in the log is broken.
    """
    fs, root = storage.filesystem(uri)
    with store_faults(uri, LakeError):
        try:
            with fs.open_input_file(f"{root}/_delta_log/{version:020d}.json") as file:
                text, size = file.read(), file.size()
        except FileNotFoundError:
            problem = f"version {version} of {uri} has left its log, so what it changed can no longer be read"
            raise FeedExpired(problem, fix=REBUILD, version=version) from None
    if len(text) < size or not text:  # a connection that is cut may look like an end
        raise StoreFailed(f"version {version} in the log of {uri} was not read to its end", fix="run again")
    try:
        return [json.loads(line) for line in text.split(b"\n") if line.strip()]
    except ValueError as error:
        raise LakeError(f"version {version} in the log of {uri} is broken: {error}", fix="restore the file") from error


def last_checkpoint(storage: Storage, uri: str) -> int:
    """The version up to which the log is summed up in one file, as readers are told; -1 if it is not at all."""
    fs, root = storage.filesystem(uri)
    with store_faults(uri, LakeError):
        try:
            with fs.open_input_stream(f"{root}/_delta_log/_last_checkpoint") as stream:
                text = stream.read()
        except FileNotFoundError:
            return -1
    try:
        return int(json.loads(text)["version"])
    except (ValueError, KeyError, TypeError):
        return -1  # readers do without a broken one; the next checkpoint writes it anew


def added(range_: Iterable[tuple[int, Sequence[Action]]]) -> list[Mapping[str, Any]] | None:
    """The `add` actions that brought rows; `None` if a commit also removed or rewrote rows."""
    found: list[Mapping[str, Any]] = []
    for _, commit in range_:
        for action in commit:
            if (remove := action.get("remove")) and remove.get("dataChange", True):
                return None
            if (add := action.get("add")) and add["dataChange"]:
                if add.get("deletionVector"):
                    return None
                found.append(add)
    return found


def records(add: Mapping[str, Any]) -> int | None:
    """How many rows an added file holds, if its statistics say so."""
    return json.loads(add.get("stats") or "{}").get("numRecords")


def partition_values(add: Mapping[str, Any]) -> dict[str, str | None]:
    """The partition values of an added file; Delta writes NULL as an empty text, too."""
    return {name: text or None for name, text in (add.get("partitionValues") or {}).items()}


def changes_rows(commit: Sequence[Action]) -> bool:
    """Whether a commit changed rows; maintenance and changes of metadata do not."""
    return any(
        action[kind].get("dataChange", True) for action in commit for kind in ("add", "remove") if action.get(kind)
    )


def info(commit: Sequence[Action]) -> Mapping[str, Any]:
    """What the writer of a commit says about it."""
    return next((action["commitInfo"] for action in commit if "commitInfo" in action), {})


def is_ours(commit: Sequence[Action]) -> bool:
    """Whether this project wrote a commit."""
    said = info(commit)
    return MARK in said or MARK in str(said.get("userMetadata") or "")


def changes_columns(commit: Sequence[Action]) -> bool:
    """Whether a commit carries new metadata: columns, properties or comments."""
    return any("metaData" in action for action in commit)


def changed_paths(range_: Iterable[tuple[int, Sequence[Action]]]) -> list[str]:
    """The files, relative to the table, in which the change data feed of these versions stands."""
    found: list[str] = []
    for _, commit in range_:
        own = [action["cdc"]["path"] for action in commit if "cdc" in action]
        found += own or [
            action[kind]["path"]
            for action in commit
            for kind in ("add", "remove")
            if kind in action and action[kind].get("dataChange", True)
        ]
    return [unquote(path) for path in found]


def has_encoded_paths(range_: Iterable[tuple[int, Sequence[Action]]]) -> bool:
    """Whether a file of these versions stands under a path that the log encodes: values of partitions with marks."""
    kinds = ("add", "remove", "cdc")
    return any(
        "%" in action[kind]["path"] for _, commit in range_ for action in commit for kind in kinds if kind in action
    )


def needed_since(range_: Iterable[tuple[int, Sequence[Action]]], *, snapshot: bool) -> int | None:
    """When the first file was given up that somebody at the start of the range still needs; `None` if none was.

    Args:
        range_: the versions after that start, up to the newest.
        snapshot: whether the rows at the start are needed too, or only what moved since: rows that were added and
            compacted away again, rows that were removed, and the change data feed.

    Returns:
        Milliseconds since 1970.
    """
    times: list[int] = []
    fresh: set[str] = set()
    for _, commit in range_:
        fresh |= {action["add"]["path"] for action in commit if "add" in action and action["add"]["dataChange"]}
        times += [
            int(gone.get("deletionTimestamp") or 0)
            for action in commit
            if (gone := action.get("remove")) and (snapshot or gone.get("dataChange", True) or gone["path"] in fresh)
        ]
        times += [committed_at(commit)] if any("cdc" in action for action in commit) else []
    return min(times, default=None)


def committed_at(commit: Sequence[Action]) -> int:
    """When a version was committed, in milliseconds since 1970; 0 if it does not say."""
    return int(info(commit).get("timestamp", 0))


def carries(commit: Sequence[Action], app_id: str, value: int) -> bool:
    """Whether a commit carries that number."""
    return any((txn := a.get("txn")) and (txn["appId"], txn["version"]) == (app_id, value) for a in commit)


def written_by(commit: Sequence[Action], write_id: str) -> bool:
    """Whether the write with that id made a commit."""
    return info(commit).get(WRITE) == write_id


def require(storage: Storage, uri: str, paths: Sequence[str]) -> None:
    """Raise `FeedExpired` if one of the files is gone."""
    from pyarrow.fs import FileType

    if not paths:
        return
    fs, _ = storage.filesystem(uri)
    with store_faults(uri, LakeError):
        infos = fs.get_file_info(list(paths))
    for info in infos:
        if info.type == FileType.NotFound:
            raise FeedExpired(f"the file {info.path} of {uri} was vacuumed before it was read", fix=REBUILD)
