"""The messages of a closed range of offsets as Arrow, in bounded memory. Read through librdkafka.

What belongs here: fetching, turning messages into columns, telling when a range is complete.
What does not: which range (`kafka.py`).

A range of a partition is complete when a message at or past its end was seen, or when the partition is read up to its
end: offsets that hold no message (compacted away, markers of transactions, aborted messages) need no message to pass.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, compress
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse_assets.errors import FeedExpired, SourceBusy, SourceMissing
from lakehouse_assets.sources.base import MISFIT_SCHEMA, ROW_FIELDS, Batch
from lakehouse_assets.sources.kafka_options import KafkaOptions
from lakehouse_assets.sources.kafka_topic import misset, refusal, unreachable

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

HEADERS = pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("value", pa.binary())]))
COLUMNS = pa.schema(
    [
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("topic", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("timestamp", pa.timestamp("us", tz="UTC")),
        pa.field("timestampType", pa.int32()),
        pa.field("headers", HEADERS),
    ]
)
"""The columns of Spark's Kafka source: `timestamp` in whole milliseconds, NULL where a message has none or one outside
the years 1 to 9999; `timestampType` 0: when it was made, 1: when it was appended to the log, -1: it has none; `headers`
NULL without any."""
FIRST_MS, LAST_MS = -62_135_596_800_000, 253_402_300_799_999
"""The first and the last instant that a table can hold."""
_ROWS = pa.schema([*COLUMNS, *ROW_FIELDS])
HEADER_NAME = "header_name_not_utf8"
"""The reason of a row of the quarantine that stands for a message whose headers cannot be had."""
_UNFIT = object()

_FIRST_FETCH, _FETCH = 16, 1000
"""Messages that are taken from librdkafka at once, until their size is known, and at most; fewer if they are large."""
_BATCH_ROWS = 16_000
_BATCH_BYTES = 8 << 20
_GATHER_SECONDS = 0.02
"""How long to gather so many: longer would pile up large messages beyond what the queues may hold."""
_POLL_SECONDS = 0.5
_QUEUE_BYTES = 16 << 20
"""What all partitions together may hold in their queues."""
_BOUNDED = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "check.crcs": True,
    "queued.min.messages": 20_000,
    "fetch.queue.backoff.ms": 5,
    "fetch.message.max.bytes": 2 << 20,
    "receive.message.max.bytes": 1 << 30,
    "allow.auto.create.topics": False,
}
"""Small queues, filled again at once; no offset is committed, none is made up, and no topic is made."""


class Messages:
    """The messages of one closed range.

    Args:
        options: the topic and how it is reached.
        destination: the table, for errors.
        stream: what `_source` says.
        start, end: partition -> offset; a range is [start, end).
    """

    def __init__(
        self, options: KafkaOptions, destination: str, stream: str, start: Mapping[int, int], end: Mapping[int, int]
    ) -> None:
        self._options, self._destination, self._stream = options, destination, stream
        self._start = {part: start[part] for part in end if end[part] > start[part]}
        self._name = f"{destination}: the topic {options.topic!r} of {options.servers}"
        self._open = set(self._start)
        self._next = np.zeros(max(self._start, default=-1) + 1, np.int64)
        self._end = np.zeros(len(self._next), np.int64)
        for part, offset in self._start.items():
            self._next[part], self._end[part] = offset, end[part]
        self._said: deque[Any] = deque(maxlen=20)

    def batches(self) -> Iterator[Batch]:
        """The rows (`COLUMNS` and `ROW_FIELDS`), those of a partition in the order of their offsets.

        A message with a header whose name is not UTF-8 is a misfit.

        Raises:
            FeedExpired: messages of the range are no longer there.
            SourceUnreachable, SourceUnreadable, SourceMissing, SourceBusy: see `kafka_topic.py`.
        """
        if not self._open:
            return
        consumer = self._consumer()
        try:
            waiting, rows, size = [], 0, 0
            for found in self._fetched(consumer):
                waiting.append(found)
                some = [found.rows] if found.misfits is None else [found.rows, found.misfits]
                rows, size = rows + sum(p.num_rows for p in some), size + sum(p.nbytes for p in some)
                if rows >= _BATCH_ROWS or size >= _BATCH_BYTES:
                    yield _joined(waiting)
                    waiting, rows, size = [], 0, 0
            if waiting:
                yield _joined(waiting)
        finally:
            consumer.close()

    def _consumer(self) -> Consumer:
        from confluent_kafka import Consumer, KafkaException, TopicPartition

        settings = {
            **self._options.of_librdkafka(os.environ),
            **_BOUNDED,
            "queued.max.messages.kbytes": max(_QUEUE_BYTES // len(self._open), 1 << 20) >> 10,
            "client.id": "lakehouse",
            "group.id": "lakehouse",  # is asked for, and never joined: partitions are assigned
            "isolation.level": "read_committed" if self._options.committed else "read_uncommitted",
            "error_cb": self._said.append,
        }
        try:
            consumer = Consumer(settings, logger=_silent())
        except KafkaException as error:
            raise misset(self._name, error.args[0].str()) from None
        topic = self._options.topic
        consumer.assign([TopicPartition(topic, part, offset) for part, offset in self._start.items()])
        return consumer

    def _fetched(self, consumer: Consumer) -> Iterator[Batch]:
        quiet_since, many = time.monotonic(), _FIRST_FETCH
        while self._open:
            messages = consumer.consume(many, _GATHER_SECONDS) or consumer.consume(1, _POLL_SECONDS)
            if messages:
                quiet_since = time.monotonic()
                self._said.clear()
                kept = [message for message in messages if message.error() is None]
                if kept:
                    batch = self._columns(kept)
                    many = max(1, min(_FETCH, _BATCH_BYTES * len(kept) // max(_size(kept), 1)))
                    if batch.rows.num_rows or batch.misfits is not None:
                        yield batch
                if len(kept) < len(messages):
                    self._events([message for message in messages if message.error() is not None])
                self._finish(consumer)
                del messages, kept  # the next ones are fetched without these in memory
            else:
                self._check_silence(time.monotonic() - quiet_since)

    def _finish(self, consumer: Consumer) -> None:
        """Fetch no more of partitions whose range is complete."""
        from confluent_kafka import TopicPartition

        over = [part for part in self._open if self._next[part] >= self._end[part]]
        if over:
            self._open.difference_update(over)
            consumer.pause([TopicPartition(self._options.topic, part) for part in over])

    def _events(self, messages: Sequence[Message]) -> None:
        """The end of a partition, or an error."""
        from confluent_kafka import KafkaError

        for message in messages:
            error, part = cast(KafkaError, message.error()), cast(int, message.partition())
            if error.code() == KafkaError._PARTITION_EOF:
                self._next[part] = max(int(self._next[part]), cast(int, message.offset()))
                continue
            if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                raise self._expired(part)
            self._raise(error)

    def _raise(self, error: Any) -> None:
        """Raise what an error of librdkafka means, unless it mends itself."""
        from confluent_kafka import KafkaError

        said = f"{error.name()}: {error.str()}"
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED,
                            KafkaError.TOPIC_AUTHORIZATION_FAILED):  # fmt: skip
            raise refusal(self._name, self._options, said)
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID, KafkaError._UNKNOWN_TOPIC,
                            KafkaError._UNKNOWN_PARTITION):  # fmt: skip
            raise SourceMissing(f"{self._name} is no longer there: {said}", fix="see that it exists, and run again")
        if error.fatal():
            raise SourceBusy(f"{self._name} cannot be read: {said}", fix="run again")

    def _check_silence(self, seconds: float) -> None:
        """Raise if no message came for too long."""
        from confluent_kafka import KafkaError

        for error in self._said:
            self._raise(error)
        lost = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._SSL)
        down = [error for error in self._said if error.code() in lost]
        if seconds < self._options.timeout:
            return
        if down:
            raise unreachable(self._name, self._options, f"{down[-1].name()}: {down[-1].str()}")
        waits = ", ".join(f"{part} from {self._next[part]} to {self._end[part]}" for part in sorted(self._open))
        raise SourceBusy(
            f"{self._name} was silent for {seconds:.0f} s, with partition {waits} still to be read: it has no leader, "
            "or one that lacks these messages",
            fix="look at the broker, and run again (kafkaConsumer.pollTimeoutMs says how long to wait)",
        )

    def _columns(self, messages: Sequence[Message]) -> Batch:
        from confluent_kafka import Message

        count = len(messages)
        parts = np.fromiter(map(Message.partition, messages), np.int32, count)
        offsets = np.fromiter(map(Message.offset, messages), np.int64, count)
        inside = (offsets < self._end[parts]) & (offsets >= self._next[parts])
        np.maximum.at(self._next, parts, offsets + 1)
        if not inside.all():
            messages = list(compress(messages, inside))
            parts, offsets, count = parts[inside], offsets[inside], len(messages)
        headers, misfits = _headers(messages), None
        if _UNFIT in headers:
            fits = np.fromiter((found is not _UNFIT for found in headers), bool, count)
            misfits = self._misfits(list(compress(messages, ~fits)))
            messages, headers = list(compress(messages, fits)), list(compress(headers, fits))
            parts, offsets, count = parts[fits], offsets[fits], len(messages)
        times = np.fromiter(chain.from_iterable(map(Message.timestamp, messages)), np.int64, 2 * count)
        kinds, moments = times[0::2], times[1::2]
        partition, offset = pa.array(parts), pa.array(offsets)
        columns = [
            pa.array(list(map(Message.key, messages)), pa.binary()),
            pa.array(list(map(Message.value, messages)), pa.binary()),
            pa.repeat(pa.scalar(self._options.topic), count),
            partition,
            offset,
            _instants(kinds, moments),
            pa.array((kinds - 1).astype(np.int32)),
            _column(headers),
            pc.binary_join_element_wise(partition.cast(pa.string()), offset.cast(pa.string()), ":"),
            pa.repeat(pa.scalar(self._stream), count),
        ]
        return Batch(pa.RecordBatch.from_arrays(columns, schema=_ROWS), misfits)

    def _misfits(self, messages: Sequence[Message]) -> pa.RecordBatch:
        """Messages whose headers cannot be had."""
        rows = [
            {
                "_upstream": json.dumps(
                    {
                        "partition": message.partition(),
                        "offset": message.offset(),
                        **_told("key", message.key()),
                        **_told("value", message.value()),
                    }
                ),
                "_reasons": [HEADER_NAME],
                "_position": f"{message.partition()}:{message.offset()}",
                "_source": self._stream,
            }
            for message in messages
        ]
        return pa.RecordBatch.from_pylist(rows, schema=MISFIT_SCHEMA)

    def _expired(self, part: int) -> FeedExpired:
        return FeedExpired(
            f"{self._name} no longer holds partition {part} from offset {self._next[part]}: it was removed while it "
            "was read (retention, or a delete of records)",
            fix=expired_fix(self._destination),
        )


def expired_fix(destination: str) -> str:
    """What to do when messages were removed before they were read."""
    return (
        "say `lakehouse: {on_data_loss: mark}` to go on behind them (the lost offsets become rows of the quarantine), "
        f"or read what is left from its start: lakehouse run --full-refresh {destination} --accept-loss"
    )


def _size(messages: Sequence[Message]) -> int:
    """The bytes of some messages, told by some of them."""
    step = max(1, len(messages) // 16)
    some = messages[::step]
    return step * sum(len(message) for message in some)


def _instants(kinds: np.ndarray, moments: np.ndarray) -> pa.Array:
    """Milliseconds as instants; NULL where a message has none, or one that no table can hold."""
    none = (kinds == 0) | (moments > LAST_MS) | (moments < FIRST_MS)
    return pa.array(np.where(none, 0, moments) * 1000, pa.int64(), mask=none).cast(pa.timestamp("us", tz="UTC"))


def _joined(batches: Sequence[Batch]) -> Batch:
    misfits = [batch.misfits for batch in batches if batch.misfits is not None]
    return Batch(pa.concat_batches([batch.rows for batch in batches]), pa.concat_batches(misfits) if misfits else None)


def _told(name: str, content: Any) -> dict[str, str | None]:
    """The key or the value of a message as text; `<name>_base64` where it is not UTF-8."""
    try:
        return {name: None if content is None else content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(content).decode()}


def _headers(messages: Sequence[Message]) -> list[Any]:
    """The headers of each message; `_UNFIT` in place of those that the client fails on: a name is not UTF-8.

    The client returns a list with holes, which kills whoever looks into it, and leaves its error pending. `map` checks
    for one after each call; a plain call does not once the interpreter has specialised it, and neither does a second
    call for the same message.
    """
    from confluent_kafka import Message

    found: list[Any] = []
    asked = map(Message.headers, messages)
    while len(found) < len(messages):
        try:
            for headers in asked:
                found.append(headers)  # noqa: PERF402  # what came before an error counts
        except (SystemError, UnicodeDecodeError):
            found.append(_UNFIT)
    return found


def _column(headers: Sequence[Any]) -> pa.Array:
    if not any(headers):
        return pa.nulls(len(headers), HEADERS)
    rows = [[{"key": pair[0], "value": pair[1]} for pair in pairs] if pairs else None for pairs in headers]
    return pa.array(rows, HEADERS)


def _silent() -> logging.Logger:
    """A logger that keeps what librdkafka says off standard error: what matters is raised."""
    logger = logging.getLogger("lakehouse_assets.kafka")
    logger.setLevel(logging.CRITICAL)
    return logger
