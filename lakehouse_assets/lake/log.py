"""What the log of a Delta table says about a range of versions: which commits changed rows, which files they added.

Reads `_delta_log/*.json` itself, because no library answers these questions exactly: a difference of two file lists
takes compaction for new rows, and the change data feed is slow where a table is only appended to.
What does not belong here: writing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lakehouse_assets.errors import FeedExpired
from lakehouse_assets.lake.storage import Storage

Action = Mapping[str, Any]
"""One line of a commit file: `{"add": …}`, `{"remove": …}`, `{"txn": …}`, `{"commitInfo": …}`, …"""

MARK = "lakehouse"
"""The key in a commit's info by which this project knows its own commits; its value names the plan."""

_REBUILD = "rebuild the tables that read it: lakehouse run --full-refresh TABLE"


def commits(storage: Storage, uri: str, start: int, end: int) -> Iterator[tuple[int, list[Action]]]:
    """The actions of the versions `start + 1 … end` of the table at `uri`.

    Raises:
        FeedExpired: one of them has left the log.
    """
    fs, root = storage.filesystem(uri)
    for version in range(start + 1, end + 1):
        try:
            with fs.open_input_stream(f"{root}/_delta_log/{version:020d}.json") as stream:
                text = stream.read().decode()
        except FileNotFoundError:
            problem = f"version {version} of {uri} has left its log, so what it changed can no longer be read"
            raise FeedExpired(problem, fix=_REBUILD, version=version) from None
        yield version, [json.loads(line) for line in text.splitlines() if line]


def added(range_: Iterable[tuple[int, Sequence[Action]]]) -> list[Mapping[str, Any]] | None:
    """The `add` actions that brought rows; `None` if a commit also removed or rewrote rows."""
    found: list[Mapping[str, Any]] = []
    for _, actions in range_:
        for action in actions:
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


def changes_rows(actions: Sequence[Action]) -> bool:
    """Whether a commit changed rows; maintenance and changes of metadata do not."""
    return any(
        action[kind].get("dataChange", True) for action in actions for kind in ("add", "remove") if action.get(kind)
    )


def is_ours(actions: Sequence[Action]) -> bool:
    """Whether this project wrote a commit."""
    info: Mapping[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    return MARK in info or MARK in str(info.get("userMetadata") or "")


def require(storage: Storage, uri: str, paths: Sequence[str]) -> None:
    """Raise `FeedExpired` if one of the files is gone."""
    from pyarrow.fs import FileType

    if not paths:
        return
    fs, _ = storage.filesystem(uri)
    for info in fs.get_file_info(list(paths)):
        if info.type == FileType.NotFound:
            raise FeedExpired(f"the file {info.path} of {uri} was vacuumed before it was read", fix=_REBUILD)
