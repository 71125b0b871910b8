"""What of a file's rows a topic holds already: the topic itself says it, no other record is kept.

What belongs here: reading a topic from its start and holding it against the rows. What does not: sending (`kafka.py`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lakehouse_assets.errors import SourceBusy, SourceError, SourceUnreachable
from lakehouse_assets.simulators.kafka_client import SILENCE, Client
from lakehouse_assets.simulators.kafka_prices import Message, Row

HEADER = "simulated"
"""The header of messages that are no row of the file; its value is `FAULT` or `LIVE`."""
FAULT, LIVE = b"fault", b"live"
QUIET = 0.3
"""Seconds without a new message after which a topic counts as still: what a killed producer sent has landed."""
PATIENCE = 3.0
"""Seconds to wait for such a moment: where made-up days arrive all the time there is none."""
MOST = 5_000
"""Messages of a partition that are kept in memory, about."""
READING = {
    "group.id": "lakehouse-simulate-kafka",  # librdkafka asks for one; nothing is committed
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "isolation.level": "read_uncommitted",
    "queued.max.messages.kbytes": 4096,
    "log_level": 0,
}
"""A consumer with little memory that tells where a partition ends."""
CHOICES = ("--topic: another topic", "--append: write all rows once more, after what is there")


@dataclass
class Held:
    """What a topic holds.

    Attributes:
        rows: how many rows of the file.
        last: number of the last row that it holds, by key; rows of the key up to this one are not sent.
        faults: how many malformed messages that were made here.
        live: the last made-up day of each key, as it was sent.
    """

    rows: int = 0
    last: dict[bytes | None, int] = field(default_factory=dict)
    faults: int = 0
    live: dict[bytes | None, bytes] = field(default_factory=dict)


def held(client: Client, topic: str, name: str, rows: Iterable[tuple[Row, bool]], *, alone: bool = False) -> Held:
    """Hold a topic against the rows of a file: for each key it has to hold rows in their order, none left out.

    One message of each partition is at hand at a time, and the rows pass once: where one equals a message at hand, the
    topic holds it. So it does not matter which partition a key is in, and memory does not grow with topic or file.

    Args:
        client: how the broker is reached.
        topic: one that is there.
        name: of the file, for messages.
        rows: all rows of the file, in order, and whether each is to be sent.
        alone: whether nobody else may make up days meanwhile either; these are no rows, so they hide none.

    Raises:
        SourceBusy: somebody is writing rows to the topic, or `alone` anything.
        SourceError: it holds something else, or later rows without earlier ones, or has lost its first messages.
        SourceUnreachable: the broker does not answer.
    """
    from confluent_kafka import Consumer
    from confluent_kafka.admin import AdminClient

    consumer = Consumer({**client.librdkafka, **READING})
    try:
        log = _Log(consumer, AdminClient({**client.librdkafka, "log_level": 0}), topic)
        skipped: dict[bytes | None, Row] = {}
        for row, meant in rows:
            if log.is_empty():
                break
            key, _ = found = row.message
            if log.take(found):
                if key in skipped:
                    raise _out_of_order(topic, name, skipped[key], row)
                log.held.rows += 1
                log.held.last[key] = row.number
            elif meant:
                skipped.setdefault(key, row)
        log.refuse_rest(name)
        log.refuse_others(alone)
        return log.held
    finally:
        consumer.close()


def _out_of_order(topic: str, name: str, missing: Row, there: Row) -> SourceError:
    problem = (
        f"topic {topic!r} holds row {there.number:,} of {name} and lacks row {missing.number:,} before it"
        f" ({missing.fields['Index']} of {missing.fields['Date']}): the rows of an Index are sent in order"
    )
    return SourceError(problem, choices=CHOICES, fix="choose one, or leave out the rows before with --from")


class _Log:
    """A topic from its start to where it ended when this was made, one message of each partition at hand."""

    def __init__(self, consumer: Any, admin: Any, topic: str) -> None:
        from confluent_kafka import TopicPartition
        from confluent_kafka.admin import OffsetSpec

        self.held = Held()
        self._consumer, self._admin, self._topic = consumer, admin, topic
        found = admin.list_topics(timeout=SILENCE).topics[topic].partitions
        self._parts = {number: TopicPartition(topic, number, 0) for number in sorted(found)}
        self._ends = self._still()
        lost = {number: first for number, first in self._offsets(OffsetSpec.earliest()).items() if first}
        if lost:
            problem = f"topic {topic!r} has lost its first messages: what it held cannot be told any more"
            raise SourceError(problem, value=lost, choices=CHOICES, fix="choose one", partitions=lost)
        consumer.assign(list(self._parts.values()))
        self._read_to = dict.fromkeys(self._parts, 0)
        self._queues: dict[int, deque[Any]] = {number: deque() for number in self._parts}
        self._paused: set[int] = set()
        self._heads: dict[Message, list[int]] = {}
        for number in self._parts:
            self._advance(number)

    def is_empty(self) -> bool:
        return not self._heads

    def take(self, message: Message) -> bool:
        """Whether the message is at hand; then the next of its partition is."""
        numbers = self._heads.get(message)
        if not numbers:
            return False
        number = numbers.pop()
        if not numbers:
            del self._heads[message]
        self._queues[number].popleft()
        self._advance(number)
        return True

    def refuse_rest(self, name: str) -> None:
        """What is at hand when the rows have ended is none of them."""
        for message, (number, *_) in self._heads.items():
            where = f"offset {self._queues[number][0].offset()} of partition {number}"
            text = (message.value or b"").decode(errors="replace")
            problem = f"topic {self._topic!r} holds something else than the rows of {name}, in their order, at {where}"
            raise SourceError(problem, value=text[:200], choices=CHOICES, fix="choose one")

    def refuse_others(self, alone: bool) -> None:
        """Of what came since this was made, nothing but made-up days; these go on with what they hold."""
        faults, before = self.held.faults, self._ends
        self._ends = self._now()
        for number in self._parts if self._ends != before else ():
            self._advance(number)
        if self._heads or self.held.faults != faults or (alone and self._ends != before):
            raise self._busy(alone)

    def _advance(self, number: int) -> None:
        """Bring the next message of a partition to hand; those that were made up are counted and passed over."""
        queue = self._queues[number]
        while self._until(number) < self._ends[number]:
            if not queue:
                self._read(number)
            elif marked := dict(queue[0].headers() or ()).get(HEADER):
                message = queue.popleft()
                self.held.faults += marked == FAULT
                if marked == LIVE:
                    self.held.live[message.key()] = message.value()
            else:
                self._heads.setdefault(Message(queue[0].key(), queue[0].value()), []).append(number)
                return

    def _until(self, number: int) -> int:
        """The offset of the next message of a partition, or the one up to which it is read."""
        queue = self._queues[number]
        return int(queue[0].offset()) if queue else self._read_to[number]

    def _read(self, number: int) -> None:
        """Read until a partition has a message at hand, or is read; others come along, up to a limit."""
        if number in self._paused:
            self._paused.remove(number)
            self._consumer.resume([self._parts[number]])
        deadline = time.monotonic() + SILENCE
        while not self._queues[number] and self._read_to[number] < self._ends[number]:
            for message in self._consumer.consume(500, timeout=0.2):
                self._keep(message)
                deadline = time.monotonic() + SILENCE
            if time.monotonic() > deadline:
                problem = f"the broker of topic {self._topic!r} has not answered for {SILENCE:g} seconds"
                raise SourceUnreachable(problem, fix="run this again when it does")
        for other, queue in self._queues.items():
            if len(queue) > MOST and other not in self._paused:
                self._paused.add(other)
                self._consumer.pause([self._parts[other]])

    def _keep(self, message: Any) -> None:
        from confluent_kafka import KafkaError, KafkaException

        number, offset = message.partition(), message.offset()
        if error := message.error():
            if error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            self._read_to[number] = max(self._read_to[number], offset)
        else:
            self._read_to[number] = offset + 1
            self._queues[number].append(message)

    def _offsets(self, which: Any) -> dict[int, int]:
        asked = self._admin.list_offsets(dict.fromkeys(self._parts.values(), which), request_timeout=SILENCE)
        return {part.partition: told.result().offset for part, told in asked.items()}

    def _now(self) -> dict[int, int]:
        from confluent_kafka.admin import OffsetSpec

        return self._offsets(OffsetSpec.latest())

    def _still(self) -> dict[int, int]:
        """The ends of the partitions, once they have not moved for a moment, or do not come to rest."""
        ends = self._now()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            time.sleep(QUIET)
            before, ends = ends, self._now()
            if ends == before:
                break
        return ends

    def _busy(self, alone: bool) -> SourceBusy:
        what = "messages" if alone else "rows"
        problem = f"somebody else is writing {what} to topic {self._topic!r}: which it lacks cannot be told meanwhile"
        others = "another `lakehouse simulate kafka` or `produce_prices`" + (", --live too" if alone else "")
        allowed = "" if alone else "; one that only makes up days (--live) may go on"
        fix = f"let the other producer end ({others}{allowed}) and run this again: it goes on; or choose one"
        return SourceBusy(problem, choices=CHOICES, fix=fix)
