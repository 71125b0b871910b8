"""The producer of daily prices against a real broker: each row once, in order, whatever happens."""

from __future__ import annotations

import gc
import itertools
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.errors import (
    SecretError,
    SettingsError,
    SourceBusy,
    SourceError,
    SourceMissing,
    SourceUnreachable,
    SourceUnreadable,
)
from lakehouse_assets.simulators.kafka import Production, Summary, produce
from lakehouse_assets.simulators.kafka_client import Client, client_of
from lakehouse_assets.simulators.kafka_held import FAULT, HEADER, LIVE
from lakehouse_assets.simulators.kafka_mock import VERSION, mock_cluster
from lakehouse_assets.simulators.kafka_prices import COLUMNS, Message, Selection, faults, read_rows
from lakehouse_assets_tests.kafka_broker import PASSWORD, Broker

ENVIRON = {"GOOD": PASSWORD, "BAD": "wrong"}
SOME = Selection(since=date(2018, 6, 1))
"""Rows enough to see an order: about six hundred."""
_topics = itertools.count()


@pytest.fixture
def topic() -> str:
    """A topic that no other test has."""
    return f"stocks-{next(_topics)}"


@pytest.fixture
def client(kafka: Broker, topic: str) -> Client:
    """How the broker is reached without security."""
    return client_of(kafka.options(), {}, topic)


def messages(settings: Mapping[str, Any], topic: str) -> dict[int, list[Any]]:
    """All records of a topic, by partition, in their order."""
    from kafka import KafkaConsumer, TopicPartition

    with closing(KafkaConsumer(**settings, enable_auto_commit=False)) as consumer:
        parts = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
        ends = consumer.end_offsets(parts)
        consumer.assign(parts)
        found: dict[int, list[Any]] = {part.partition: [] for part in parts}
        for part in parts:
            consumer.seek(part, 0)
        while any(consumer.position(part) < ends[part] for part in parts):
            for part, records in consumer.poll(timeout_ms=500).items():
                found[part.partition] += records
    return found


def rows_of(client: Client, topic: str) -> list[Message]:
    """All messages, one partition after the other."""
    return [Message(each.key, each.value) for part in messages(client.kafka_python, topic).values() for each in part]


def expected(selection: Selection = SOME, csv: Path | None = None) -> list[Message]:
    """The messages of the rows that are meant, in the order of the file."""
    return [row.message for row, meant in selection.mark(read_rows(csv)) if meant]


def by_key(sent: list[Message]) -> dict[bytes | None, list[bytes]]:
    """Values of each key, in their order."""
    found: dict[bytes | None, list[bytes]] = {}
    for key, value in sent:
        found.setdefault(key, []).append(value)
    return found


def send(client: Client, topic: str, *sent: Message, partition: int | None = None) -> None:
    """Put messages there that the producer has not made."""
    from kafka import KafkaProducer

    with closing(KafkaProducer(**client.kafka_python)) as producer:
        for key, value in sent:
            producer.send(topic, value, key, partition=partition).get(10)


def write(path: Path, *rows: str) -> Path:
    """A CSV file."""
    path.write_text("\n".join([",".join(COLUMNS), *rows, ""]))
    return path


def test_each_row_is_a_message(client: Client, topic: str) -> None:
    """Q1, Q2: every row of the packaged prices is there once as JSON of its fields, without headers."""
    summary = produce(Production(topic), client)
    found = messages(client.kafka_python, topic)
    assert (summary.held, summary.rows) == (0, len(expected(Selection())))
    assert by_key(rows_of(client, topic)) == by_key(expected(Selection()))
    records = [each for part in found.values() for each in part]
    assert {tuple(json.loads(each.value)) for each in records} == {COLUMNS, ("Index", "Date", "Close")}
    assert not any(each.headers for each in records)


def test_all_rows_of_an_index_are_in_one_partition(client: Client, topic: str) -> None:
    """Q2 (regression: no key was set): an Index is in the partition that Java's clients choose, in order of Date."""
    from confluent_kafka import Producer

    produce(Production(topic, selection=SOME), client)
    found = messages(client.kafka_python, topic)
    assert len(found) == 4
    where = {each.key: number for number, part in found.items() for each in part}
    assert sum(len({each.key for each in part}) for part in found.values()) == len(where) == 4
    for part in found.values():
        for key in {each.key for each in part}:
            days = [json.loads(each.value)["Date"] for each in part if each.key == key]
            assert days == sorted(days)
    landed: dict[bytes, int] = {}
    java = Producer({**client.librdkafka, "partitioner": "murmur2_random"})
    for key in where:
        java.produce(topic, b"x", key, on_delivery=lambda _, told: landed.update({told.key(): told.partition()}))
    java.flush(10)
    assert landed == where


def test_a_topic_keeps_its_messages(client: Client, topic: str) -> None:
    """A topic that is made here has the partitions that were asked for, and its messages are never deleted."""
    from confluent_kafka.admin import AdminClient, ConfigResource

    produce(Production(topic, selection=SOME, partitions=3), client)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    admin = AdminClient(dict(client.librdkafka))
    (config,) = admin.describe_configs([resource]).values()
    assert config.result(10)["retention.ms"].value == "-1"
    assert len(messages(client.kafka_python, topic)) == 3


def test_run_twice_adds_nothing(client: Client, topic: str) -> None:
    """The second run finds every row."""
    first = produce(Production(topic, selection=SOME), client)
    again = produce(Production(topic, selection=SOME), client)
    assert (first.rows, again.held, again.rows) == (len(expected()), len(expected()), 0)
    assert by_key(rows_of(client, topic)) == by_key(expected())


def test_days_are_added_and_none_is_repeated(client: Client, topic: str) -> None:
    """Runs for stretches of time, a gap between them, and each of them again: every row of a stretch once."""
    stretches = [Selection(date(2018, 1, 1), date(2018, 1, 31)), Selection(date(2018, 3, 1), date(2018, 3, 31))]
    for selection in (*stretches, *stretches):
        produce(Production(topic, selection=selection), client)
    assert by_key(rows_of(client, topic)) == by_key(expected(stretches[0]) + expected(stretches[1]))


def test_a_stretch_before_what_is_there_is_refused(client: Client, topic: str) -> None:
    """Rows of an Index are sent in order: earlier ones need the choice --append, and then arrive late."""
    late, early = Selection(date(2018, 3, 1), date(2018, 3, 31)), Selection(date(2018, 1, 1), date(2018, 1, 31))
    produce(Production(topic, selection=late), client)
    with pytest.raises(SourceError, match=r"lacks row .* \(.* of 2018-01-02\)") as error:
        produce(Production(topic, selection=early), client)
    assert "--append" in str(error.value)
    assert len(rows_of(client, topic)) == len(expected(late))
    produce(Production(topic, selection=early, append=True), client)
    assert by_key(rows_of(client, topic)) == by_key(expected(late) + expected(early))


def test_a_file_that_grows(client: Client, topic: str, tmp_path: Path) -> None:
    """Rows that come to the file are sent; equal rows count as often as they stand there; so do rows without Index."""
    old = ["A,2020-01-01,,,,1,,", "A,2020-01-01,,,,1,,", ",2020-01-01,,,,7,,", "B,2020-01-01,,,,2,,"]
    new = ["A,2020-01-02,,,,1,,", ",2020-01-02,,,,7,,", "A,2020-01-02,,,,1,,"]
    path = write(tmp_path / "a.csv", *old)
    assert produce(Production(topic, path), client).rows == 4
    write(path, *old, *new)
    assert [produce(Production(topic, path), client).rows for _ in range(2)] == [3, 0]
    assert by_key(rows_of(client, topic)) == by_key(expected(Selection(), path))


@pytest.mark.parametrize("foreign", [Message(b"SP500", b"hello"), Message(b"DAX", b"{}"), Message(None, b"x")])
def test_a_topic_with_something_else_is_refused(client: Client, topic: str, foreign: Message) -> None:
    """The error names the place and the choices; nothing is sent."""
    produce(Production(topic, selection=Selection(rows=10)), client)
    send(client, topic, foreign)
    with pytest.raises(SourceError, match="holds something else") as error:
        produce(Production(topic, selection=SOME), client)
    assert "offset" in str(error.value)
    assert "--append" in str(error.value)
    assert len(rows_of(client, topic)) == 11


def test_a_row_that_was_changed_is_refused(client: Client, topic: str, tmp_path: Path) -> None:
    """The rows that a topic holds have to be those of the file, not only as many."""
    path = write(tmp_path / "a.csv", "A,2020-01-01,,,,1,,", "A,2020-01-02,,,,2,,")
    produce(Production(topic, path), client)
    write(path, "A,2020-01-01,,,,9,,", "A,2020-01-02,,,,2,,", "A,2020-01-03,,,,3,,")
    with pytest.raises(SourceError, match="holds something else"):
        produce(Production(topic, path), client)


def test_a_topic_that_lost_its_start_is_refused(client: Client, topic: str) -> None:
    """What it held cannot be told any more: a choice is asked for."""
    from kafka import KafkaAdminClient, TopicPartition

    produce(Production(topic, selection=SOME), client)
    part = next(number for number, records in messages(client.kafka_python, topic).items() if len(records) > 5)
    with closing(KafkaAdminClient(**client.kafka_python)) as admin:
        admin.delete_records({TopicPartition(topic, part): 5})
    with pytest.raises(SourceError, match="has lost its first messages"):
        produce(Production(topic, selection=SOME), client)


def test_partitions_that_are_added(client: Client, topic: str) -> None:
    """An Index may move to another partition: its rows are found wherever they are."""
    from kafka import KafkaAdminClient

    produce(Production(topic, selection=Selection(date(2018, 1, 1), date(2018, 1, 31)), partitions=1), client)
    with closing(KafkaAdminClient(**client.kafka_python)) as admin:
        admin.create_partitions({topic: 7})
    both = Selection(date(2018, 1, 1), date(2018, 2, 28))
    assert [produce(Production(topic, selection=both), client).rows > 0 for _ in range(2)] == [True, False]
    assert sorted(rows_of(client, topic)) == sorted(expected(both))


def test_faults_are_added_once(client: Client, topic: str) -> None:
    """Malformed messages are told by a header: those that are there count, and rows go on after them."""
    first = Selection(since=date(2018, 6, 1), until=date(2018, 6, 30))
    made = [produce(Production(topic, selection=first, faults=many), client).faults for many in (5, 5, 7)]
    assert made == [5, 0, 2]
    assert produce(Production(topic, selection=SOME, faults=7), client).faults == 0
    records = [each for part in messages(client.kafka_python, topic).values() for each in part]
    marked = [Message(each.key, each.value) for each in records if each.headers == [("simulated", b"fault")]]
    assert sorted(marked, key=repr) == sorted(faults(7), key=repr)
    assert by_key([Message(each.key, each.value) for each in records if not each.headers]) == by_key(expected())


def test_live_days_go_on_where_a_run_stopped(client: Client, topic: str) -> None:
    """Made-up days follow the last row; a later run goes on after the last of them, none twice."""
    few = Selection(since=date(2018, 12, 20))
    many = len(expected(few))
    for most in (many + 30, 25):
        stop = threading.Event()
        halt = lambda count, stop=stop, most=most: stop.set() if count >= most else None  # noqa: E731
        summary = produce(Production(topic, selection=few, live=1000), client, stop=stop, progress=halt)
        assert (summary.rows, summary.live) == ((many, 30) if most > many else (0, 25))
    found = by_key(rows_of(client, topic))
    for values in found.values():
        days = [json.loads(value)["Date"] for value in values]
        assert days == sorted(set(days))
    assert produce(Production(topic, selection=few), client).rows == 0


@contextmanager
def meanwhile(client: Client, topic: str, sent: Iterable[Message], header: bytes | None) -> Iterator[None]:
    """Somebody who goes on sending messages to a topic, each with this header; one is there when the block begins."""
    from kafka import KafkaProducer

    over, begun = threading.Event(), threading.Event()

    def work() -> None:
        headers = [(HEADER, header)] if header else None
        with closing(KafkaProducer(**client.kafka_python)) as producer:
            for key, value in sent:
                producer.send(topic, value, key, headers).get(10)
                begun.set()
                if over.wait(0.02):
                    return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert begun.wait(20)
        yield
    finally:
        over.set()
        thread.join()


FEW = Selection(since=date(2018, 12, 27))


@pytest.mark.slow
def test_made_up_days_of_others_may_go_on(client: Client, topic: str) -> None:
    """The rows that the topic lacks are told all the same, and sent once."""
    produce(Production(topic, selection=replace(FEW, until=date(2018, 12, 28))), client)
    days = itertools.repeat(Message(b"SP500", b'{"Index":"SP500"}'))
    with meanwhile(client, topic, days, LIVE):
        first, again = (produce(Production(topic, selection=FEW, faults=3), client) for _ in range(2))
    assert first.held > 0 < first.rows
    assert first.held + first.rows == again.held == len(expected(FEW))
    assert (first.faults, again.rows, again.faults) == (3, 0, 0)
    found = [each for part in messages(client.kafka_python, topic).values() for each in part if not each.headers]
    assert by_key([Message(each.key, each.value) for each in found]) == by_key(expected(FEW))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "live"), [(None, None), (FAULT, None), (LIVE, 1000.0)], ids=["rows", "faults", "both live"]
)
def test_others_who_write_are_told_of(client: Client, topic: str, header: bytes | None, live: float | None) -> None:
    """Rows, faults, or days where this run makes up days as well: refused, with the way on."""
    rows = expected()
    produce(Production(topic, selection=replace(SOME, rows=1)), client)
    with (
        meanwhile(client, topic, rows[1:] if header is None else itertools.repeat(rows[0]), header),
        pytest.raises(SourceBusy, match="(?s)somebody else is writing.*--topic.*run this again") as refused,
    ):
        produce(Production(topic, selection=SOME, live=live), client)
    assert ("may go on" in str(refused.value)) == (live is None)


def test_stopped_in_order(client: Client, topic: str) -> None:
    """A stop ends a run after what was sent is confirmed; the next one sends the rest."""
    stop = threading.Event()
    production = Production(topic, selection=SOME, rate=2000)
    summary = produce(production, client, stop=stop, progress=lambda count: stop.set() if count == 100 else None)
    assert summary.rows == len(rows_of(client, topic)) == 100
    assert produce(Production(topic, selection=SOME), client).rows == len(expected()) - 100
    assert by_key(rows_of(client, topic)) == by_key(expected())


def test_killed_anywhere(kafka: Broker, client: Client, topic: str, tmp_path: Path) -> None:
    """SIGKILL at random moments, then a run to the end: each row once, and in the order of the file for each Index."""
    from kafka import KafkaConsumer, TopicPartition

    command = [sys.executable, "-m", "lakehouse_assets.cli.main", "simulate", "kafka", "--rate", "5000"]
    command += ["--bootstrap-servers", kafka.plain, "--topic", topic]
    chance = random.Random(4)
    with closing(KafkaConsumer(**client.kafka_python)) as consumer:
        parts = [TopicPartition(topic, number) for number in range(4)]
        for _ in range(4):
            there = sum(consumer.end_offsets(parts).values()) if consumer.partitions_for_topic(topic) else 0
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            enough = there + chance.randrange(1, 4000)
            while child.poll() is None:
                if consumer.partitions_for_topic(topic) and sum(consumer.end_offsets(parts).values()) >= enough:
                    break
                time.sleep(0.01)
            child.send_signal(signal.SIGKILL)
            _, told = child.communicate(timeout=30)
            assert child.returncode == -signal.SIGKILL, told
    summary = produce(Production(topic), client)
    assert 0 < summary.held < len(expected(Selection()))
    assert by_key(rows_of(client, topic)) == by_key(expected(Selection()))


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
def test_a_broker_that_is_killed_meanwhile(kafka_brokers: Any, topic: str, tmp_path: Path) -> None:
    """The producer goes on when the broker is back: each row once, in order."""
    broker = kafka_brokers()
    client = client_of(broker.options(), {}, topic)
    back = threading.Event()

    def fall(count: int) -> None:
        if count >= 2000 and not back.is_set():
            back.set()
            broker.kill()
            threading.Timer(0.5, broker.start).start()

    produce(Production(topic, rate=10_000), client, progress=fall)
    assert back.is_set()
    assert by_key(rows_of(client, topic)) == by_key(expected(Selection()))
    gc.collect()  # kafka-python leaves sockets behind that could not connect: they are told of here, not elsewhere


@pytest.fixture(params=["SASL_PLAINTEXT PLAIN", "SASL_PLAINTEXT SCRAM-SHA-256", "SASL_SSL SCRAM-SHA-512", "SSL PLAIN"])
def secured(kafka: Broker, request: pytest.FixtureRequest) -> dict[str, str]:
    """Options of each way in; the password by reference."""
    return kafka.options(*request.param.split(), password="${secret:GOOD}")


def test_each_way_in(secured: dict[str, str], client: Client, topic: str) -> None:
    """SSL, SASL PLAIN and SCRAM, with Spark's names of the options."""
    produce(Production(topic, selection=SOME), client_of(secured, ENVIRON, topic))
    assert by_key(rows_of(client, topic)) == by_key(expected())


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_a_wrong_password(kafka: Broker, topic: str, mechanism: str) -> None:
    """The error names the broker and the options, within seconds, and no secret."""
    client = client_of(kafka.options("SASL_PLAINTEXT", mechanism, "${secret:BAD}"), ENVIRON, topic)
    begun = time.monotonic()
    with pytest.raises(SourceUnreadable, match="refuses user and password") as error:
        produce(Production(topic), client)
    assert time.monotonic() - begun < 5
    assert kafka.sasl in str(error.value)
    assert ENVIRON["BAD"] not in str(error.value) + repr(client)


def test_a_broker_that_is_not_trusted(kafka: Broker, topic: str) -> None:
    """Without its authority the certificate is refused: the error names the option."""
    options = {name: value for name, value in kafka.options("SSL").items() if "truststore" not in name}
    with pytest.raises(SourceUnreadable, match=r"kafka\.ssl\.truststore\.location"):
        produce(Production(topic), client_of(options, {}, topic))


@pytest.mark.slow
def test_no_broker() -> None:
    """A clear error within ten seconds that names the address."""
    begun = time.monotonic()
    with pytest.raises(SourceUnreachable, match=r"127\.0\.0\.1:9\b.*refused"):
        produce(Production(), client_of({"kafka.bootstrap.servers": "127.0.0.1:9"}, {}, "t"))
    assert time.monotonic() - begun < 10


def test_a_secret_in_clear_is_refused() -> None:
    """A password is a reference; the message does not repeat it."""
    options = {"kafka.bootstrap.servers": "a:1", "kafka.sasl.password": "hush"}
    with pytest.raises(SecretError, match=r"kafka\.sasl\.password") as error:
        client_of(options, {}, "t")
    assert "hush" not in str(error.value)


def test_an_option_that_nobody_knows() -> None:
    """Refused with the legal ones."""
    with pytest.raises(SettingsError, match=r"kafka\.bootstrap\.servers"):
        client_of({"kafka.bootstrap.servers": "a:1", "kafka.bootstrap.server": "b:1"}, {}, "t")


def test_a_wrong_file_makes_no_topic(client: Client, topic: str, tmp_path: Path) -> None:
    """The file is looked at first."""
    from confluent_kafka.admin import AdminClient

    path = tmp_path / "a.csv"
    path.write_text("Index,Date\nA,2020-01-01\n")
    with pytest.raises(SourceMissing, match="lacks Open, High"):
        produce(Production(topic, path), client)
    assert topic not in AdminClient(dict(client.librdkafka)).list_topics(timeout=10).topics


def test_a_mock_cluster_is_enough() -> None:
    """Without Java: the same rows in the same order, and a second run adds nothing."""
    with mock_cluster() as address:
        client = client_of({"kafka.bootstrap.servers": address, "kafka.api.version": VERSION}, {}, "Stocks")
        told: list[Summary] = []
        first = produce(Production(selection=SOME), client, ready=told.append)
        again = produce(Production(selection=SOME), client)
        assert (first.rows, again.held, again.rows) == (len(expected()), len(expected()), 0)
        assert by_key(rows_of(client, "Stocks")) == by_key(expected())
        assert told == [first]
