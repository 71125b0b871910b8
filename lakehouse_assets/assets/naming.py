"""How the words of a catalog become words that Dagster accepts: keys, groups, tags, kinds, owners, names of checks.

What belongs here: pure functions from names to names. What Dagster would refuse is changed, never dropped: the
original stands in the asset's metadata. What does not belong here: definitions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence

import dagster as dg

from lakehouse_assets.entities.model import Entity, TableName

_TAG = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_OWNER = re.compile(r"team:\S+|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}")


def asset_key(table: TableName) -> dg.AssetKey:
    """The key of a table: `[layer, name]`."""
    return dg.AssetKey([table.layer, table.name])


def source_key(entity: Entity) -> dg.AssetKey:
    """The key of what a landed entity reads: `["sources", entity_id]`, the same on every machine."""
    return dg.AssetKey(["sources", distinct(entity.entity_id, r"[^A-Za-z0-9_.-]")])


def distinct(text: str, illegal: str = r"[^A-Za-z0-9_]") -> str:
    """`text` with each illegal character as `_`; where one was changed, a hash keeps different texts apart."""
    clean = re.sub(illegal, "_", text)
    return clean if clean == text else f"{clean}_{digest(text)[:6]}"


def digest(text: str) -> str:
    """A short stable hash."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def op_name(table: TableName) -> str:
    """The name of the step that writes a table."""
    return f"{table.layer}__{table.name}"


def group_of(feeds: Sequence[Entity]) -> str:
    """The group of a table: its entity's, or else its layer."""
    named = next((feed.group for feed in feeds if feed.group), None) or feeds[0].table.layer
    return re.sub(r"[^A-Za-z0-9_]", "_", named)


def owners_of(feeds: Sequence[Entity]) -> tuple[list[str], list[str]]:
    """The owners of a table as Dagster accepts them, and those that it refuses."""
    owners = list(dict.fromkeys(owner for feed in feeds for owner in feed.lakehouse.owners))
    return [o for o in owners if _OWNER.fullmatch(o)], [o for o in owners if not _OWNER.fullmatch(o)]


def tags_of(feeds: Sequence[Entity]) -> tuple[dict[str, str], dict[str, str]]:
    """The tags of a table as Dagster accepts them, and as they were written where that differs."""
    written = {key: value for feed in feeds for key, value in feed.tags.items()}
    legal = {_tag(key): _tag(value) for key, value in written.items()}
    return legal, {} if legal == written else written


def _tag(text: str) -> str:
    return text if not text or _TAG.fullmatch(text) else re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:63]


def kinds_of(feeds: Sequence[Entity]) -> set[str]:
    """What a table is made of, as the UI shows it: the layer, `delta`, and where its rows come from."""
    head = feeds[0]
    made = {"dlt": "sql", "delta": "sql"}.get(head.source_format) or source_kind(head)
    return {_tag(head.table.layer), made, storage_of(head)}


def storage_of(entity: Entity) -> str:
    """What a table is stored as: `delta`; an extract is files of `parquet`, a `view` is not stored."""
    return {"view": "view", "extract": "parquet"}.get(entity.kind, "delta")


def source_kind(entity: Entity) -> str:
    """The kind of what an entity reads: `sqlite`, `csv`, `kafka`, …; for discovered files, their format."""
    if entity.source_format == "cloudFiles":
        return _tag(entity.read_options.get("cloudFiles.format", "file").lower())
    return entity.source_format


def check_names(rules: Collection[str], taken: Collection[str]) -> Mapping[str, str]:
    """Rule to the name of its check: letters, digits and `_`, distinct, and none of `taken`."""
    found: dict[str, str] = {}
    for rule in rules:
        name = distinct(rule)
        found[rule] = f"rule_{name}" if name in taken else name
    return found
