"""Topics of a real broker: the contract of a source, where a feed starts, and what a message can be."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_assets.errors import IncarnationChanged, SettingsError, SourceMissing, SourceUnreachable
from lakehouse_assets.simulators.kafka_mock import mock_cluster
from lakehouse_assets.sources.base import Past
from lakehouse_assets.sources.kafka import KafkaSource
from lakehouse_assets.sources.kafka_position import bounded
from lakehouse_assets.sources.kafka_reader import HEADER_NAME
from lakehouse_assets.sources.kafka_topic import NO_TOPIC_ID
from lakehouse_assets_tests.kafka_broker import Broker
from lakehouse_assets_tests.sources.contract import Case, SourceContract
from lakehouse_assets_tests.sources.kafka_lab import Shop, odd_headers, places, rows, values, wait_for, whole

MOCKED = {"kafka.api.version": "2.0"}


@pytest.fixture(scope="session")
def shop(kafka: Broker) -> Shop:
    """Topics of the broker that lives as long as the tests."""
    return Shop(kafka.plain)


@pytest.fixture(scope="module")
def mocked() -> Iterator[Shop]:
    """Topics of librdkafka's mock cluster."""
    with mock_cluster() as servers:
        yield Shop(servers)


class TopicCase(Case):
    """A topic of one partition whose messages are numbers."""

    def __init__(self, shop: Shop) -> None:
        self.shop, self.name = shop, shop.topic()

    def add(self, ids: Sequence[int]) -> None:
        """Produce them."""
        self.shop.send(self.name, [str(number) for number in ids])

    def ids(self, table: pa.Table) -> list[int]:
        """The messages as numbers."""
        return [int(value) for value in table.column("value").to_pylist()]

    def open(self) -> KafkaSource:
        """A fresh source."""
        return self.shop.open(self.name)

    def swap(self) -> None:
        """A topic of the same name with as many messages."""
        self.shop.again(self.name, count=5)


class TestKafka(SourceContract):
    """A topic keeps the contract."""

    @pytest.fixture
    def case(self, shop: Shop) -> Case:
        """A topic of its own for each test."""
        return TopicCase(shop)


def drained(source: KafkaSource, *read: dict) -> list[dict]:
    """The ends of all batches until nothing is new."""
    ends = list(read)
    while (end := source.latest(Past.of(*ends) if ends else Past())) not in ends[-1:]:
        ends.append(end)
    return ends


# where a feed starts


@pytest.fixture(scope="module")
def three(shop: Shop) -> str:
    """A topic of two partitions with five messages each, the first ones sent in 2025."""
    name = shop.topic(2, message_timestamp_before_max_ms=10**15)
    first = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp() * 1000)
    for part in (0, 1):
        for n in range(5):
            shop.send(name, [f"{part}.{n}"], part, timestamp=first + 1000 * n)
    return name


MOMENT = 1_735_689_602_000


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"0": 0, "1": 0}),
        ({"startingOffsets": "earliest"}, {"0": 0, "1": 0}),
        ({"startingOffsets": "latest"}, {"0": 5, "1": 5}),
        ({"startingOffsets": '{"T": {"0": 3, "1": -1}}'}, {"0": 3, "1": 5}),
        ({"startingOffsets": '{"T": {"0": -2, "1": 5}}'}, {"0": 0, "1": 5}),
        ({"startingTimestamp": MOMENT}, {"0": 2, "1": 2}),
        ({"startingTimestamp": MOMENT - 999}, {"0": 2, "1": 2}),
        ({"startingTimestamp": MOMENT * 2}, {"0": 5, "1": 5}),
        ({"startingOffsetsByTimestamp": json.dumps({"T": {"0": MOMENT, "1": 0}})}, {"0": 2, "1": 0}),
    ],
    ids=str,
)
def test_where_a_feed_starts(shop: Shop, three: str, options: dict, expected: dict) -> None:
    """Earliest, latest, an instant, given offsets: each partition starts there, and all after it is read."""
    given_ = {name: str(value).replace('"T"', f'"{three}"') for name, value in options.items()}
    with shop.open(three, **given_) as source:
        assert source.earliest() == expected
        read = values(whole(source))
    assert read == [f"{part}.{n}" for part in (0, 1) for n in range(expected[str(part)], 5)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"startingOffsets": '{"T": {"0": 3}}'}, "partition 1 is not named"),
        ({"startingOffsets": '{"T": {"0": 3, "1": 3, "2": 3}}'}, "partition 2 is not there"),
        ({"startingOffsets": '{"T": {"0": 3, "7": 3}}'}, "partition 7 is not there"),
        ({"startingOffsets": '{"T": {"0": 6, "1": 0}}'}, "partition 0 of T cannot be read from that offset"),
        ({"startingOffsetsByTimestamp": '{"T": {"1": 3}}'}, "partition 0 is not named"),
    ],
    ids=str,
)
def test_a_start_that_the_topic_does_not_have_is_refused(shop: Shop, three: str, options: dict, said: str) -> None:
    """Offsets and partitions that are not there are named, with those that are."""
    given_ = {name: value.replace('"T"', f'"{three}"') for name, value in options.items()}
    with shop.open(three, **given_) as source, pytest.raises(SettingsError) as refused:
        source.latest(Past())
    assert said.replace(" T ", f" {three} ") in str(refused.value)
    assert refused.value.choices


def test_a_feed_that_starts_at_the_end_reads_what_comes(shop: Shop) -> None:
    """latest: where the topic ended at the first look is the start, whatever comes while the batch is drafted."""
    name = shop.topic()
    shop.send(name, ["old"])
    with shop.open(name, startingOffsets="latest") as source:
        end = source.latest(Past())
        shop.send(name, ["new"])
        assert end == source.earliest() == {"0": 1}
    with shop.open(name, startingOffsets="latest") as source:
        assert values(rows(source, end, source.latest(Past.of(end)))) == ["new"]


def test_partitions_that_are_added_are_read_from_their_first_offset(shop: Shop) -> None:
    """A position that does not know them stays valid."""
    name = shop.topic()
    shop.send(name, ["a"])
    with shop.open(name, startingOffsets="latest") as source:
        before = source.latest(Past())
        identity = source.incarnation(before)
    shop.widen(name, 3)
    shop.send(name, ["b", "c"], 2)
    with shop.open(name, startingOffsets="latest") as source:
        assert source.verify(before, identity) == []
        assert source.resume(before) == before == {"0": 1}
        end = source.latest(Past.of(before))
        assert end == {"0": 1, "1": 0, "2": 2}
        assert source.holds(before, end)
        assert values(rows(source, before, end)) == ["b", "c"]
        assert source.lag(before) == {"0": 0, "1": 0, "2": 2}


# bounded batches


def test_batches_are_bounded_and_read_all_once(shop: Shop) -> None:
    """maxOffsetsPerTrigger: no batch is larger, none is empty, and together they are the topic."""
    name = shop.topic(3)
    for part, count in ((0, 50), (1, 7), (2, 0)):
        shop.send(name, [f"{part}.{n}" for n in range(count)], part)
    with shop.open(name, maxOffsetsPerTrigger=10) as source:
        ends = drained(source)
        starts = [source.earliest(), *ends]
        found = [places(rows(source, *pair)) for pair in zip(starts, ends, strict=False)]
    assert max(map(len, found)) <= 10
    assert min(map(len, found)) > 0
    assert sorted(place for batch in found for place in batch) == [
        *((0, n) for n in range(50)),
        *((1, n) for n in range(7)),
    ]


@given(
    st.dictionaries(st.integers(0, 9), st.tuples(st.integers(0, 10**12), st.integers(0, 10**12)), min_size=1),
    st.one_of(st.none(), st.integers(1, 10**12)),
)
def test_a_bound_shares_out_exactly(spans: dict, most: int | None) -> None:
    """Any offsets: a batch holds exactly the bound or all there is, stays in every range, and so comes to an end."""
    begin = {part: min(span) for part, span in spans.items()}
    end = {part: max(span) for part, span in spans.items()}
    found = bounded(begin, end, most)
    assert set(found) == set(end)
    assert all(begin[part] <= found[part] <= end[part] for part in end)
    there = sum(end.values()) - sum(begin.values())
    assert sum(found.values()) - sum(begin.values()) == (there if most is None else min(most, there))


# what a message can be


def test_what_a_message_can_hold(shop: Shop) -> None:
    """Keys that are no text, none, no value (a tombstone), several headers of one name: as received."""
    name = shop.topic()
    shop.send(name, [b"v"], key=b"\xff\x00\xfe")
    shop.send(name, ["v"], key=None)
    shop.send(name, [None], key="gone")
    shop.send(name, [b""], key=b"", headers=[("h", b"1"), ("h", b"\xff"), ("n", None), ("", b"")])
    with shop.open(name) as source:
        table = whole(source)
        stream = source.entity.entity_id
    assert table.column("key").to_pylist() == [b"\xff\x00\xfe", None, b"gone", b""]
    assert table.column("value").to_pylist() == [b"v", b"v", None, b""]
    headers = [("h", b"1"), ("h", b"\xff"), ("n", None), ("", b"")]
    assert table.column("headers").to_pylist() == [None] * 3 + [[{"key": k, "value": v} for k, v in headers]]
    assert set(table.column("topic").to_pylist()) == {name}
    assert places(table) == [(0, n) for n in range(4)]
    assert table.column("_position").to_pylist() == [f"0:{n}" for n in range(4)]
    assert set(table.column("_source").to_pylist()) == {stream}


@pytest.mark.parametrize(("config", "kind"), [("CreateTime", 0), ("LogAppendTime", 1)])
def test_when_a_message_was_sent_or_stored(shop: Shop, config: str, kind: int) -> None:
    """The time is that of the producer or, where the topic says so, that of the log; in whole milliseconds."""
    name = shop.topic(message_timestamp_type=config)
    at = int(time.time() * 1000) - 60_000
    shop.send(name, ["v"], timestamp=at)
    with shop.open(name) as source:
        (row,) = whole(source).select(["timestamp", "timestampType"]).to_pylist()
    found = round(row["timestamp"].timestamp() * 1000)
    assert row["timestampType"] == kind
    assert found == at if kind == 0 else 0 < found - at < 120_000
    assert row["timestamp"].microsecond % 1000 == 0


@pytest.mark.parametrize("stamp", [10**15, 2**62, -5], ids=["far", "overflow", "before 1970"])
def test_an_impossible_time_is_none(shop: Shop, stamp: int) -> None:
    """A time that no table can hold (after the year 9999) is NULL, never another one; an old one is kept."""
    most = 2**63 - 1
    name = shop.topic(message_timestamp_after_max_ms=most, message_timestamp_before_max_ms=most)
    shop.send(name, ["v"], timestamp=stamp)
    with shop.open(name) as source:
        (row,) = whole(source).select(["timestamp", "timestampType"]).to_pylist()
    assert row["timestampType"] == 0
    assert row["timestamp"] == (None if stamp > 0 else datetime(1969, 12, 31, 23, 59, 59, 995_000, tzinfo=UTC))


def test_a_huge_message_is_a_row(shop: Shop) -> None:
    """10 MB in one message, larger than what is fetched at once, between small ones."""
    name = shop.topic(max_message_bytes=20_000_000)
    shop.send(name, ["small", b"x" * 10_000_000, "small"])
    with shop.open(name) as source:
        assert [len(value) for value in whole(source).column("value").to_pylist()] == [5, 10_000_000, 5]


@pytest.mark.slow
def test_many_small_messages_are_all_read(shop: Shop) -> None:
    """100 000 messages in four partitions: each once, in the order of its partition."""
    name = shop.topic(4)
    for part in range(4):
        shop.send(name, (str(n) for n in range(25_000)), part)
    with shop.open(name) as source:
        batches = [batch.rows for batch in source.read(source.earliest(), source.latest(Past()))]
    assert max(batch.num_rows for batch in batches) < 40_000
    table = pa.Table.from_batches(batches)
    for part in range(4):
        own = table.filter(pa.compute.equal(table.column("partition"), part))
        assert own.column("offset").to_pylist() == list(range(25_000))
        assert own.column("value").to_pylist() == [str(n).encode() for n in range(25_000)]


def test_a_topic_that_is_not_there_is_named_with_those_that_are(shop: Shop) -> None:
    """Unknown topic: the others are the choices."""
    there = shop.topic()
    with shop.open("nowhere") as source, pytest.raises(SourceMissing) as refused:
        source.latest(Past())
    assert "nowhere" in str(refused.value)
    assert there in refused.value.choices
    assert not [name for name in refused.value.choices if name.startswith("__")]
    assert "nowhere" not in shop.admin.list_topics(timeout=10).topics


# offsets that hold no message


def test_aborted_messages_are_not_read(shop: Shop) -> None:
    """read_committed: what was aborted is passed over, and so are the markers; read_uncommitted reads all."""
    name = shop.topic()
    sender = shop.sender(f"t-{name}")
    for value, end in (("a", "commit"), ("b", "abort"), ("c", "commit"), ("d", "abort")):
        sender.begin_transaction()
        sender.produce(name, value)
        sender.flush(20)
        getattr(sender, f"{end}_transaction")(20)
    with shop.open(name) as source:
        wait_for(lambda: source.latest(Past()) == {"0": 8}, "the markers")
        assert values(whole(source)) == ["a", "c"]
    with shop.open(name, **{"kafka.isolation.level": "read_uncommitted"}) as source:
        assert values(whole(source)) == ["a", "b", "c", "d"]


def test_an_open_transaction_holds_back_what_comes_after_it(shop: Shop) -> None:
    """read_committed ends at the last stable offset; what was held back is read when it is committed."""
    name = shop.topic()
    sender = shop.sender(f"t-{name}")
    shop.send(name, ["before"])
    sender.begin_transaction()
    sender.produce(name, "inside")
    sender.flush(20)
    shop.send(name, ["after"])
    with shop.open(name) as source:
        end = source.latest(Past())
        assert end == {"0": 1}
        assert values(rows(source, source.earliest(), end)) == ["before"]
        with shop.open(name, **{"kafka.isolation.level": "read_uncommitted"}) as eager:
            ahead = eager.latest(Past())
            assert values(whole(eager)) == ["before", "inside", "after"]
        assert source.verify(ahead, source.incarnation(ahead)) == []  # read before, when more was let through
        assert source.latest(Past.of(ahead)) == ahead
        sender.commit_transaction(20)
        wait_for(lambda: source.latest(Past()) == {"0": 4}, "the marker")
        assert values(rows(source, end, source.latest(Past.of(end)))) == ["inside", "after"]


def test_a_range_that_ends_in_markers_ends_at_once(shop: Shop) -> None:
    """The last offsets hold no message: the end is seen without waiting, and again when later messages exist."""
    name = shop.topic()
    sender = shop.sender(f"t-{name}")
    for end in ("commit", "abort"):
        sender.begin_transaction()
        for value in ("a", "b"):
            sender.produce(name, value)
        sender.flush(20)
        getattr(sender, f"{end}_transaction")(20)
    with shop.open(name) as source:
        end = {"0": 6}
        wait_for(lambda: source.latest(Past()) == end, "the markers")
        for more in ([], ["later"], ["later", "still"]):
            shop.send(name, more)
            began = time.monotonic()
            assert values(rows(source, {"0": 0}, end)) == ["a", "b"]
            assert rows(source, {"0": 2}, end).num_rows == rows(source, {"0": 5}, end).num_rows == 0
            assert time.monotonic() - began < 2


@pytest.mark.slow
def test_compaction_leaves_gaps_that_are_no_loss(shop: Shop) -> None:
    """Offsets that were compacted away are passed over: in the middle, at the start and at the end of a range."""
    name = shop.topic()
    for n in range(40):
        shop.send(name, [f"{n}"], key=f"{n % 2}" if n not in (7, 20) else f"kept {n}")
    with shop.open(name) as source:
        full = whole(source)
        end = source.latest(Past())
        assert full.num_rows == 40
        cleaned = {"min_cleanable_dirty_ratio": "0.01", "segment_ms": 100, "delete_retention_ms": 100}
        shop.configure(name, cleanup_policy="compact", max_compaction_lag_ms=100, **cleaned)

        def is_clean() -> bool:
            time.sleep(0.3)
            shop.send(name, ["roll"], key="roll")
            return rows(source, {"0": 0}, end).num_rows < 10

        wait_for(is_clean, "compaction", 60)
        left = places(rows(source, {"0": 0}, end))
        assert {(0, 7), (0, 20)} <= set(left)
        assert source.holds({"0": 0}, end)
        assert source.resume({"0": 1}) == {"0": 1}
        assert source.losses(Past(first=lambda: {"0": 0}, last=end)) == []
        for first, last in ((0, 7), (8, 20), (1, 15), (21, 39), (8, 9)):
            inside = [(0, n) for (_, n) in left if first <= n < last]
            assert places(rows(source, {"0": first}, {"0": last})) == inside


# headers that no table can hold


@pytest.mark.parametrize("body", [b"text", b"\xff\x00", None], ids=["text", "bytes", "none"])
def test_a_header_whose_name_is_no_text(shop: Shop, body: bytes | None) -> None:
    """Such a message is a misfit, with key and value as far as they are text; its neighbours are rows."""
    name = shop.topic()
    shop.send(name, ["before"], headers=[("h", b"1")])
    odd_headers(shop, name, body)
    shop.send(name, ["after"])
    with shop.open(name) as source:
        (batch,) = source.read(source.earliest(), source.latest(Past()))
    assert batch.rows.column("value").to_pylist() == [b"before", b"after"]
    assert batch.rows.column("headers").to_pylist() == [[{"key": "h", "value": b"1"}], None]
    assert batch.misfits is not None
    (row,) = batch.misfits.to_pylist()
    assert (row["_reasons"], row["_position"], row["_source"]) == ([HEADER_NAME], "0:1", "k")
    told = {"value_base64": "/wA="} if body == b"\xff\x00" else {"value": body and body.decode()}
    assert json.loads(row["_upstream"]) == {"partition": 0, "offset": 1, "key": "k1", **told}


def test_many_headers_whose_names_are_no_text(shop: Shop) -> None:
    """However many there are, and whatever the interpreter makes of a call that it has often seen."""
    name = shop.topic()
    for n in range(10):
        shop.send(name, [f"{n}"] * 5, headers=[("h", b"1")])
        odd_headers(shop, name, b"odd")
    with shop.open(name) as source:
        end = source.latest(Past())
        for _ in range(3):
            batches = list(source.read({"0": 0}, end))
            assert sum(batch.rows.num_rows for batch in batches) == 50
            odd = [row["_position"] for batch in batches if batch.misfits for row in batch.misfits.to_pylist()]
            assert odd == [f"0:{n}" for n in range(5, 60, 6)]
            gc.collect()


# what ends a batch


def test_what_came_since_is_not_more(shop: Shop) -> None:
    """Only offsets that the same look saw behind the end are `more`: a topic that never rests has an end all the same.

    With `maxOffsetsPerTrigger`, the batch that reaches what was the end of the topic has none behind it.
    """
    name = shop.topic()
    shop.send(name, ["x"] * 5)
    for bound in ({}, {"maxOffsetsPerTrigger": "3"}):
        with shop.open(name, **bound) as source:
            end = source.latest(Past())
            shop.send(name, ["late"])
            assert source.more(Past(), end) is bool(bound)
            past = Past.of({"0": 3})
    with shop.open(name, maxOffsetsPerTrigger="4") as source:
        end = source.latest(past)
        assert end == {"0": 7}
        shop.send(name, ["late"])
        assert not source.more(past, end)


# a stand-in for a broker


def test_a_broker_without_topic_ids(mocked: Shop) -> None:
    """The mock cluster: a topic is read, its identity says that it has none, and a shorter one is refused."""
    name = "short"
    mocked.send(name, ["a", "b", "c"])
    with mocked.open(name, **MOCKED) as source:
        end = source.latest(Past())
        assert source.earliest() == {str(n): 0 for n in range(4)}
        assert end == {"0": 3, "1": 0, "2": 0, "3": 0}
        assert values(whole(source)) == ["a", "b", "c"]
        identity = f"{NO_TOPIC_ID}:{name}"
        assert source.incarnation(end) == identity
        assert source.verify(end, identity) == []
        with pytest.raises(IncarnationChanged, match="gives topics no id"):
            source.verify({**end, "0": 4}, identity)
        with pytest.raises(IncarnationChanged, match="partition 9 was read up to offset 1, and is no longer there"):
            source.verify({**end, "9": 1}, identity)


def test_subscribe_names_another_topic_of_a_broker_without_ids(mocked: Shop) -> None:
    """Behind the offsets of the old topic nothing is read: it is another stream, and the error says why."""
    mocked.send("before", ["a"])
    mocked.send("after", ["b", "c"])
    with mocked.open("feed", subscribe="before", **MOCKED) as source:
        end = source.latest(Past())
        recorded = source.incarnation(end)
    changed = pytest.raises(IncarnationChanged, match="or subscribe names another topic now")
    with mocked.open("feed", subscribe="after", **MOCKED) as source, changed:
        source.verify(end, recorded)


def test_a_stand_in_that_was_not_declared_as_one(mocked: Shop) -> None:
    """It answers nothing that a newer broker is asked: the error says so once, and names the option."""
    mocked.send("undeclared", ["a"])
    refused = pytest.raises(SourceUnreachable)
    with mocked.open("undeclared", **{"kafkaConsumer.pollTimeoutMs": "1500"}) as source, refused as error:
        source.latest(Past())
    assert str(error.value).count("KafkaTimeoutError") == 1
    assert "a stand-in or a broker before 2.0 needs kafka.api.version: 2.0" in str(error.value)


# memory

_PEAK = """
import sys
from lakehouse_assets.entities.model import Entity
from lakehouse_assets.sources.base import Past, open_source
fields = dict(entity_id="k", source=sys.argv[2], source_format="kafka", destination="bronze.k")
source = open_source(Entity(**fields, read_options={"kafka.bootstrap.servers": sys.argv[1]}))
rows = sum(batch.rows.num_rows for batch in source.read(source.earliest(), source.latest(Past())))
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(rows, int(peak) >> 10)
"""
"""Reads a topic and prints its rows and the peak of its memory in MB (`ru_maxrss` would begin with its parent's)."""


@pytest.mark.slow
@pytest.mark.parametrize("size", [200, 100_000], ids=str)
def test_memory_does_not_grow_with_the_backlog(shop: Shop, size: int) -> None:
    """Five times the backlog, of small or of large messages, takes no more memory, and less than 350 MB."""
    peaks = []
    for count in (40_000_000 // size, 200_000_000 // size):
        name = shop.topic(2)
        for part in (0, 1):
            shop.send(name, (b"x" * size for _ in range(count // 2)), part)
        command = [sys.executable, "-c", _PEAK, shop.servers, name]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        found, peak = map(int, done.stdout.split())
        shop.delete(name)
        assert found == count
        peaks.append(peak)
    assert peaks[1] < peaks[0] * 1.25 + 20, peaks
    assert max(peaks) < 350, peaks
