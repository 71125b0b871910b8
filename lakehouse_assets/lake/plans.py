"""Plans: the numbered batches of every feed, kept in the Delta table `control.batches`.

A plan says which closed range a batch reads and by which rules it is made; it is recorded before anything is
written, and its number is committed together with the rows. So a plan without its number in the target is an
interrupted batch, and is replayed. Plans are only ever added; where they stand in many small files, they are folded
into one, so that finding a plan stays cheap however many there are.
What belongs here: recording and finding plans. What does not: deciding what a plan should read.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from lakehouse_assets.errors import ConcurrentWriter, LakeError
from lakehouse_assets.lake.delta import DeltaTable, create_table, find_table, open_table
from lakehouse_assets.lake.names import BATCHES, MAINTENANCE, FeedName
from lakehouse_assets.lake.parquet import ParquetStage
from lakehouse_assets.lake.storage import Storage, store_faults
from lakehouse_assets.lake.values import DataFile, Number, TableSpec

SCHEMA = pa.schema(
    [
        pa.field("app_id", pa.string(), metadata={"comment": "the feed: its numbers stand under this id"}),
        pa.field("revision", pa.int64(), metadata={"comment": "1, 2, … for each feed: the newest row counts"}),
        pa.field("number", pa.int64(), metadata={"comment": "the batch's number, committed with its rows"}),
        pa.field("plan_id", pa.string()),
        pa.field("destination", pa.string()),
        pa.field("feed", pa.string()),
        pa.field("partition", pa.string()),
        pa.field("mode", pa.string(), metadata={"comment": "append, replace, merge, …: how the target is written"}),
        pa.field("start_position", pa.string(), metadata={"comment": "JSON; the range is after start, up to end"}),
        pa.field("end_position", pa.string(), metadata={"comment": "JSON"}),
        pa.field("incarnation", pa.string(), metadata={"comment": "which stream was read"}),
        pa.field("recipe", pa.string(), metadata={"comment": "JSON: the rules and expressions in full"}),
        pa.field("recipe_hash", pa.string()),
        pa.field("target_version", pa.int64(), metadata={"comment": "the target's version when the plan was made"}),
        pa.field("run_date", pa.date32(), metadata={"comment": "what :run_date means in this batch (UTC)"}),
        pa.field("planned_at", pa.timestamp("us", tz="UTC")),
        pa.field("rebuild", pa.bool_(), metadata={"comment": "the batch starts the table over"}),
        pa.field("follows", pa.int64(), metadata={"comment": "the number that the target carries before the batch"}),
        pa.field("also", pa.string(), metadata={"comment": "JSON: numbers of other feeds that the commit uses up"}),
        pa.field("quarantine_version", pa.int64(), metadata={"comment": "the quarantine's when the plan was made"}),
    ]
)

FOLD = 64
"""Small files of plans that become one before the next plan is recorded."""
SMALL_BYTES = 1 << 20
"""Files of plans that are smaller than this are small."""


@dataclass(frozen=True)
class Plan:
    """Batch `number` of a feed: what is read, and by which recipe it is made."""

    feed: FeedName
    number: int
    mode: str
    start: Mapping[str, Any]
    end: Mapping[str, Any]
    incarnation: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    target_version: int = -1
    run_date: date = field(default_factory=lambda: datetime.now(UTC).date())
    planned_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    plan_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    revision: int = 0
    rebuild: bool = False
    follows: int = 0
    also: Mapping[str, int] = field(default_factory=dict)
    quarantine_version: int = -1

    @property
    def as_number(self) -> Number:
        """The number that every commit of this batch carries."""
        return Number(self.feed.app_id, self.number, self.plan_id, tuple(self.also.items()))

    @property
    def recipe_hash(self) -> str:
        """A hash of the recipe, by which a changed entity is noticed."""
        return self.hash_of(self.recipe)

    @staticmethod
    def hash_of(recipe: Mapping[str, Any]) -> str:
        """The hash of a recipe."""
        return hashlib.sha256(_json(recipe).encode()).hexdigest()[:16]

    def row(self) -> dict[str, Any]:
        """This plan as a row of `control.batches`."""
        return {
            "app_id": self.feed.app_id,
            "revision": self.revision,
            "number": self.number,
            "plan_id": self.plan_id,
            "destination": self.feed.destination,
            "feed": self.feed.feed,
            "partition": self.feed.partition,
            "mode": self.mode,
            "start_position": _json(self.start),
            "end_position": _json(self.end),
            "incarnation": self.incarnation,
            "recipe": json.dumps(self.recipe, separators=(",", ":"), ensure_ascii=False),  # reasons go by its order
            "recipe_hash": self.recipe_hash,
            "target_version": self.target_version,
            "run_date": self.run_date,
            "planned_at": self.planned_at,
            "rebuild": self.rebuild,
            "follows": self.follows,
            "also": _json(self.also),
            "quarantine_version": self.quarantine_version,
        }

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Plan:
        """The plan that a row of `control.batches` holds; columns of later versions are left alone."""
        known = {f.name for f in fields(cls)}
        return cls(
            feed=FeedName(row["destination"], row["feed"], row["partition"]),
            start=json.loads(row["start_position"]),
            end=json.loads(row["end_position"]),
            recipe=json.loads(row["recipe"]),
            also=json.loads(row["also"]),
            **{name: value for name, value in row.items() if name in known - {"feed", "recipe", "also"}},
        )


class PlanBook:
    """The plans of a lake, or of one table that keeps its own beside it."""

    def __init__(self, uri: str, storage: Storage) -> None:
        self.uri = uri
        self._storage = storage

    def open(self, *feeds: FeedName) -> Ledger:
        """The plans of one or several feeds, as they stand now."""
        return Ledger(self, feeds, find_table(self.uri, self._storage))

    def create(self) -> DeltaTable:
        """The table of the plans, made if it is not there."""
        properties = {
            "lakehouse.destination": str(BATCHES),
            "delta.dataSkippingStatsColumns": "app_id,revision,destination",  # by which plans are looked for
        }
        return create_table(self.uri, self._storage, TableSpec(SCHEMA, properties=properties, comment="The plans"))

    def folded(self, table: DeltaTable) -> DeltaTable:
        """The table with its small files as one, if there are many of them; no plan changes.

        Raises:
            ConcurrentWriter: somebody else committed meanwhile.
        """
        small = [file for file in table.files() if file.size < SMALL_BYTES]
        if len(small) < FOLD:
            return table
        stage = ParquetStage(table)
        try:
            rows = [_read_file(table, file) for file in small]
            whole = pa.concat_tables([table.schema.empty_table(), *rows], promote_options="default")
            for batch in whole.select(table.schema.names).combine_chunks().to_batches():
                stage.write(batch)
            new = stage.finish()
        except BaseException:
            stage.discard()
            raise
        try:
            table.rewrite_files(small, new, Number(MAINTENANCE, table.number(MAINTENANCE) + 1))
        except ConcurrentWriter:  # after any other error the commit may be there
            stage.discard()
            raise
        return open_table(self.uri, self._storage)


class Ledger:
    """Plans of feeds, read and recorded through one handle: two processes cannot both record the next one."""

    def __init__(self, book: PlanBook, feeds: Sequence[FeedName], table: DeltaTable | None) -> None:
        self._book = book
        self._feeds = feeds
        self._table = table
        self._newest: dict[str, Plan | None] = {}
        self._revisions = {feed.app_id: table.number(feed.app_id) if table else 0 for feed in feeds}

    def last(self, feed: FeedName) -> Plan | None:
        """The newest plan of a feed."""
        revision = self._revisions[feed.app_id]
        if feed.app_id not in self._newest:
            self._newest[feed.app_id] = next(self._rows(feed, revision), None) if revision else None
        return self._newest[feed.app_id]

    def record(self, *plans: Plan) -> tuple[Plan, ...]:
        """Record plans as the newest of their feeds, all of them in one commit.

        Raises:
            ConcurrentWriter: another process recorded one since this ledger was opened.
        """
        table = self._book.folded(self._table) if self._table else self._book.create()
        for plan in plans:
            if table.number(plan.feed.app_id) != self._revisions[plan.feed.app_id]:  # it was made or folded meanwhile
                raise ConcurrentWriter(
                    f"another process recorded a plan of {plan.feed.app_id}",
                    fix="run again: its plan is taken up",
                )
        numbered = tuple(
            replace(p, revision=self._revisions[p.feed.app_id] + 1, plan_id=uuid.uuid4().hex) for p in plans
        )
        rows = pa.Table.from_pylist([plan.row() for plan in numbered], schema=SCHEMA)
        table.append(rows.to_reader(), *(Number(p.feed.app_id, p.revision, p.plan_id) for p in numbered))
        return numbered

    def history(self, feed: FeedName, number: int | None = None) -> list[Plan]:
        """The plans that led to batch `number` of a feed (default: the newest), oldest first, since its last rebuild.

        A plan that was superseded is not among them.
        """
        newest = {plan.number: plan for plan in sorted(self._rows(feed), key=lambda plan: plan.revision)}
        found: list[Plan] = []
        if number is None:
            number = max(newest, default=0)
        while (plan := newest.get(number)) is not None:
            found.append(plan)
            if plan.rebuild:
                break
            number = plan.follows
        return found[::-1]

    def partitions(self, destination: str) -> dict[str, Plan]:
        """The newest plan of each partition of `destination`, by its key."""
        found: dict[str, Plan] = {}
        for row in self._read({"destination": destination}):
            old = found.get(row["partition"])
            if old is None or old.revision < row["revision"]:
                found[row["partition"]] = Plan.of_row(row)
        return found

    def feeds(self, destination: str) -> set[str]:
        """The names of all feeds that ever had a plan for `destination`."""
        return {row["feed"] for row in self._read({"destination": destination})}

    def _rows(self, feed: FeedName, revision: int | None = None) -> Iterator[Plan]:
        wanted = {"app_id": feed.app_id} | ({"revision": revision} if revision else {})
        return (Plan.of_row(row) for row in self._read(wanted))

    def _read(self, bounds: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The rows that hold these values."""
        if self._table is None:
            return
        import pyarrow.compute as pc

        for file in self._table.files(bounds=bounds):
            rows = _read_file(self._table, file)
            for name, value in bounds.items():
                rows = rows.filter(pc.equal(rows.column(name), value))
            yield from rows.to_pylist()


def _read_file(table: DeltaTable, file: DataFile) -> pa.Table:
    import pyarrow.parquet as pq

    fs, _ = table.storage.filesystem(table.uri)
    with store_faults(table.uri, LakeError), fs.open_input_file(file.path) as source:
        return pq.ParquetFile(source).read()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
