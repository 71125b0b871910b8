"""Kafka topics: every message of a topic, each partition in its order, exactly once.

A position is the next offset of each partition: `{"0": 17, "1": 9}`. A batch is the closed range between two of them;
its end is where the topic ends when the batch is planned, so a batch can be read again while messages arrive.
Partitions that are added are read from their first offset. The topic's id is its incarnation: a topic that was deleted
and made again is another stream, and refused with the choices, even where its offsets have passed the old ones.

Messages that retention (or somebody) removed before they were read are never passed over in silence: `lakehouse:
{on_data_loss: fail}`, the default, refuses to go on; `mark` goes on behind them and puts each range of offsets that
was lost into the quarantine. Offsets that never held a message of their own (compaction, markers of transactions,
aborted transactions) are no loss. A NULL value (a tombstone) is a row as any other.

What belongs here: identity, loss, what a batch reads. What does not: see `kafka_options.py` (options),
`kafka_position.py` (offsets), `kafka_topic.py` (what a topic holds), `kafka_reader.py` (messages).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakehouse_assets.errors import FeedExpired, IncarnationChanged, SettingsError, SourceBusy, SourceMissing
from lakehouse_assets.sources.base import (
    MISFIT_SCHEMA,
    ROW_FIELDS,
    Batch,
    Frame,
    Notice,
    Past,
    Position,
    Source,
)
from lakehouse_assets.sources.kafka_options import EARLIEST, LATEST, options_of
from lakehouse_assets.sources.kafka_position import (
    LOST,
    begin_of,
    between,
    bounded,
    by_part,
    lost_spans,
    offsets_of,
    place_of,
    position_of,
)
from lakehouse_assets.sources.kafka_reader import COLUMNS, FIRST_MS, LAST_MS, Messages, expired_fix
from lakehouse_assets.sources.kafka_topic import NO_TOPIC_ID, Look, Offsets, Topic

if TYPE_CHECKING:
    from lakehouse_assets.entities.model import Entity

OFFSETS_LOST = "offsets_lost"
"""The reason of a row of the quarantine that stands for lost offsets, `from` (inclusive) `to` (exclusive)."""


class KafkaSource(Source):
    """One topic.

    Args:
        entity: `source`, or the option `subscribe`, names the topic.

    Raises:
        SettingsError: an option is unknown, missing, or has a value that it cannot have.
    """

    def __init__(self, entity: Entity) -> None:
        super().__init__(entity)
        self._options = options_of(entity)
        self._topic = Topic(self._options, entity.destination)
        self._marks = entity.lakehouse.on_data_loss == "mark"
        self._stream = entity.feed or entity.entity_id
        self._first: Position | None = None
        self._resumes: tuple[Position, Position] | None = None  # a position, and where a batch after it starts
        self._verified: str | None = None  # the topic's id when it was checked, and when its end was looked up
        self._seen: str | None = None
        self._cut: Position | None = None  # the end that `latest` said last, where it is not that of the topic

    def schema(self) -> pa.Schema:
        """The columns of Spark's Kafka source; the same for every topic."""
        return COLUMNS

    def earliest(self) -> Position:
        """Where the first batch starts, as the options say; by default, at the first messages that are there.

        Raises:
            SettingsError: the options name partitions that the topic does not have, or leave some out.
        """
        return self._started(self._topic.look())

    def latest(self, past: Past) -> Position:
        """The end of every partition; nearer where `maxOffsetsPerTrigger` bounds a batch.

        Raises:
            FeedExpired: messages that were not read yet are gone.
            IncarnationChanged: the topic was replaced since it was verified.
        """
        look = self._topic.look()
        if past.last is not None and self._verified not in (None, look.id):
            raise self._another(past.last, str(self._verified), look.id)
        self._seen = look.id
        start = self._started(look) if past.last is None else self._resumed(past.last, look)
        known = offsets_of(start)
        begin = {part: known.get(part, 0) for part in look.end}
        end = {part: max(offset, begin[part]) for part, offset in look.end.items()}
        until = bounded(begin, end, self._options.most)
        self._cut = position_of(until) if until != end else None
        return position_of(until)

    def more(self, past: Past, end: Position) -> bool:
        """Whether `latest`, when it said `end`, saw offsets behind it."""
        return self._cut == end

    def resume(self, position: Position) -> Position:
        """Where a batch after `position` starts: there, or behind messages that were lost since, which it names.

        What `latest` saw last counts: start and end of a batch come from one look at the topic.

        Raises:
            FeedExpired: messages were lost, and the entity does not say to go on.
        """
        if self._resumes is not None and self._resumes[0] == position:
            return dict(self._resumes[1])
        return self._resumed(position, self._topic.look())

    def holds(self, start: Position, end: Position) -> bool:
        """Whether every message of the range that was there when it was planned can still be read."""
        look = self._topic.look()
        begin = offsets_of(start)
        return all(look.first.get(part, 0) <= begin.get(part, 0) or begin.get(part, 0) == offset
                   for part, offset in offsets_of(end).items())  # fmt: skip

    def read(self, start: Position, end: Position) -> Iterator[Batch]:
        """The messages of a range, and a row for each range of offsets that was lost before it.

        Raises:
            IncarnationChanged: the topic was replaced while it was read.
        """
        if misfits := self._lost(start):
            yield misfits
        identity = self._verified or self._topic.identity()
        self._topic.close()  # it would lie idle meanwhile
        messages = Messages(self._options, self.entity.destination, self._stream, begin_of(start, end), offsets_of(end))
        try:
            yield from messages.batches()
        except (FeedExpired, SourceBusy, SourceMissing) as error:
            self._check_same(end, identity, error)
            raise
        self._check_same(end, identity)

    def frame(self, start: Position, end: Position) -> Frame:
        """The range for Spark's own reader."""
        topic, begin = self._options.topic, begin_of(start, end)
        options = {
            **self._options.of_spark(os.environ),
            "startingOffsets": json.dumps({topic: position_of(begin)}),
            "endingOffsets": json.dumps({topic: position_of(offsets_of(end))}),
            "includeHeaders": "true",
            "failOnDataLoss": "true",
        }
        known = f"timestampType >= 0 AND timestamp BETWEEN timestamp_millis({FIRST_MS}) AND timestamp_millis({LAST_MS})"
        stamp = f"CASE WHEN {known} THEN timestamp END AS timestamp"
        items = [stamp if name == "timestamp" else name for name in COLUMNS.names]
        items.append("concat(CAST(partition AS STRING), ':', CAST(offset AS STRING)) AS _position")
        items.append(f"'{self._stream}' AS _source")
        return Frame("kafka", options, tuple(items), self._lost(start))

    def incarnation(self, position: Position) -> str:
        """The topic's id; that of the topic in which `latest` found an end."""
        return self._seen or self._topic.identity()

    def verify(self, position: Position, recorded: str) -> list[Notice]:
        """Refuse another topic of the same name, and one whose partitions end before what was read.

        Raises:
            IncarnationChanged: it is such a topic.
        """
        identity, ends = self._topic.heights()
        if identity != recorded:
            raise self._another(position, recorded, identity)
        for part, offset in offsets_of(position).items():
            end = ends.get(part)
            if end is None or end < offset:
                raise self._another(position, recorded, identity, part, end)
        self._verified = recorded
        return []

    def audit(self, past: Past) -> list[Notice]:
        """Offsets that were lost since the last batch, and that the next one marks."""
        if past.last is None or not self._marks:
            return []
        return self._told(self.resume(past.last))

    def left(
        self, start: Position, end: Position, kept: Iterable[tuple[str | None, str | None]], *, told: bool
    ) -> tuple[Position, list[Notice]]:
        """Where what is left of a range starts, of which a part was kept: behind offsets lost since, which it names.

        Args:
            kept: rows of the range that are kept, whatever was lost: `_position`, or where it is NULL the row as text.
            told: whether a row stands for each loss that `start` names.

        Raises:
            FeedExpired: messages were lost, and the entity does not say to go on.
        """
        first, begin = self._topic.look().first, begin_of(start, end)
        gone = {part: min(first.get(part, 0), to) for part, to in offsets_of(end).items()}
        gone = {part: to for part, to in gone.items() if to > begin[part]}
        places: dict[int, set[int]] = {part: set() for part in gone}
        for part, offset in map(place_of, kept):
            if part in gone and begin[part] <= offset < gone[part]:
                places[part].add(offset)
        lost = {part: between(begin[part], to, places[part]) for part, to in gone.items()}
        lost = {part: spans for part, spans in lost.items() if spans}
        if lost and not self._marks:
            raise self._expired(lost)
        notices = self._told({LOST: by_part(lost)})
        before = {} if told else {int(part): spans for part, spans in start.get(LOST, {}).items()}
        lost = {part: before.get(part, []) + lost.get(part, []) for part in before | lost}
        return position_of(begin | gone) | ({LOST: by_part(lost)} if lost else {}), notices

    def _told(self, start: Position) -> list[Notice]:
        return [
            Notice(OFFSETS_LOST, f"{self._options.topic}: the offsets {first} to {last - 1} of partition {part} were "
                   "removed before they were read")
            for part, first, last in lost_spans(start)
        ]  # fmt: skip

    def losses(self, past: Past) -> list[Notice]:
        """Messages that were read and that would not be read again from the start: gone, or before where it is now."""
        if (first := past.first()) is None:
            return []
        look = self._topic.look()
        name, begin, now = self._options.topic, offsets_of(first), offsets_of(self._started(look))
        if past.incarnation not in (None, look.id):
            return [Notice("pruned", f"{name} is another topic now, without the messages of the old one")]
        read = offsets_of(past.last or first)
        if missing := sorted(set(read) - set(now)):
            return [Notice("pruned", f"{name} no longer has partition {', '.join(map(str, missing))}")]
        gone = {part: now[part] for part, end in read.items() if min(now[part], end) > begin.get(part, 0)}
        told = ", ".join(f"{part} before offset {offset}" for part, offset in gone.items())
        return [Notice("pruned", f"{name} would not be read in partition {told}")] if gone else []

    def describe(self) -> dict[str, Any]:
        """The brokers, the topic and its id, and what each partition holds."""
        look = self._topic.look()
        return {
            "kind": "kafka",
            "servers": self._options.servers,
            "topic": self._options.topic,
            "topic_id": look.id,
            "partitions": len(look.end),
            "messages": sum(look.end.values()) - sum(look.first.values()),
            "first_offsets": position_of(look.first),
            "end_offsets": position_of(look.end),
        }

    def lag(self, position: Position | None) -> dict[str, int]:
        """How many offsets of each partition are still there to be read after `position`."""
        look = self._topic.look()
        begin = offsets_of(position) if position is not None else offsets_of(self._started(look))
        return {str(part): max(end - max(begin.get(part, 0), look.first[part]), 0) for part, end in look.end.items()}

    def close(self) -> None:
        """Let go of the connection."""
        self._topic.close()

    def _started(self, look: Look) -> Position:
        """The start, found once: what is latest moves on while a batch is drafted."""
        if self._first is None:
            self._first = position_of(self._starts(look))
        return dict(self._first)

    def _starts(self, look: Look) -> Offsets:
        start = self._options.start
        named = {int(part): value for part, value in (start.named or {}).items()}
        unknown = set(named) - set(look.end)
        missing = set(look.end) - set(named) if start.default is None else set()
        if unknown or missing:
            raise SettingsError(
                f"{self.entity.destination}: the start must name every partition of {self._options.topic}, and only "
                f"those: partition {min(unknown or missing)} is {'not there' if unknown else 'not named'}",
                value=dict(start.named or {}),
                choices=sorted(look.end),
                fix="correct the read option, or say earliest or latest",
            )
        values = {part: named.get(part, start.default) for part in look.end}
        if start.by == "time":
            at = self._topic.at({part: int(value or 0) for part, value in values.items()})
            return {part: at.get(part, look.end[part]) for part in look.end}
        ends = {EARLIEST: look.first, LATEST: look.end}
        found = {part: ends[value][part] if value in ends else int(value or 0) for part, value in values.items()}
        for part, offset in found.items():
            if not look.first[part] <= offset <= look.end[part]:
                raise SettingsError(
                    f"{self.entity.destination}: partition {part} of {self._options.topic} cannot be read from "
                    "that offset",
                    value=offset,
                    choices=[f"{look.first[part]} to {look.end[part]}"],
                    fix="correct startingOffsets",
                )
        return found

    def _resumed(self, position: Position, look: Look) -> Position:
        begin = offsets_of(position)
        lost = {part: [begin.get(part, 0), first] for part, first in look.first.items() if first > begin.get(part, 0)}
        if lost and not self._marks:
            raise self._expired(lost)
        start = position_of(begin | {part: last for part, (_, last) in lost.items()})
        if lost:
            start[LOST] = by_part(lost)
        self._resumes = dict(position), start
        return dict(start)

    def _expired(self, lost: Mapping[int, list[int]]) -> FeedExpired:
        spans = lost_spans({LOST: lost})
        told = ", ".join(f"{part} from {first} to {last - 1}" for part, first, last in spans)
        return FeedExpired(
            f"{self.entity.destination}: offsets of the topic {self._options.topic!r} were removed before they "
            f"were read: partition {told}",
            fix=expired_fix(self.entity.destination),
        )

    def _lost(self, start: Position) -> Batch | None:
        """The rows that stand for lost offsets."""
        if not start.get(LOST):
            return None
        rows = [
            {
                "_upstream": json.dumps({"partition": int(part), "from": first, "to": last}),
                "_reasons": [OFFSETS_LOST],
                "_position": f"{part}:{first}",
                "_source": self._stream,
            }
            for part, first, last in lost_spans(start)
        ]
        none = pa.schema([*COLUMNS, *ROW_FIELDS])
        empty = pa.RecordBatch.from_pylist([], schema=none)
        return Batch(empty, pa.RecordBatch.from_pylist(rows, schema=MISFIT_SCHEMA))

    def _check_same(self, end: Position, identity: str, error: Exception | None = None) -> None:
        """Raise `IncarnationChanged` if the topic is not the one that was read."""
        try:
            found = self._topic.identity()
        except SourceMissing:
            if error is None:
                raise
            return
        if found != identity:
            raise self._another(end, identity, found) from error

    def _another(
        self, position: Position, recorded: str, found: str, part: int | None = None, end: int | None = None
    ) -> IncarnationChanged:
        table = self.entity.destination
        seen = f"its id was {recorded}, now it is {found}: it was deleted and made again, or subscribe names another "
        seen += "topic now"
        if part is not None:
            seen = f"partition {part} was read up to offset {offsets_of(position)[part]}, "
            seen += "and is no longer there" if end is None else f"and now it ends at {end}"
            if found.startswith(NO_TOPIC_ID):
                seen += " (the broker gives topics no id, so it may be another topic of that name)"
        return IncarnationChanged(
            f"{table}: the topic {self._options.topic!r} of {self._options.servers} is not the one that was read: "
            f"{seen}",
            fix=f"read the new one in place of the old: lakehouse run --full-refresh {table} (with --accept-loss: rows "
            f"of the old topic leave the table); or keep the old rows and add the new topic's: declare a second "
            f"entity with a feed name of its own (lakehouse: {{feed: …}}) and disable this one (is_enabled: false); or "
            f"bring the old topic back",
            position=position,
        )
