"""The shipped stocks pipeline on a real broker, on both engines: Spark reads the topic by itself, the tables are equal."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lakehouse_assets.engines.base import Engine
from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.lake.names import Lake
from lakehouse_assets.lake.storage import Storage
from lakehouse_assets.tables.base import Work
from lakehouse_assets.tables.refresh import refresh
from lakehouse_assets_tests.catalog.stocks_lab import message, shipped

if TYPE_CHECKING:
    from lakehouse_assets_tests.kafka_broker import Broker

pytestmark = [pytest.mark.spark, pytest.mark.timeout(900)]
NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
FIRST = [
    *((b"SP500", message("SP500", f"2024-01-{day:02}", f"{100 + day}.25", Volume=str(day))) for day in range(2, 20)),
    *((b"NASDAQ", message("NASDAQ", f"2024-01-{day:02}", "200.5")) for day in range(2, 9)),
    (b"SP500", message("SP500", "2024-01-05", "105.250")),
    (b"SP500", None),
    (b"\xff\xfe", b"{not json"),
    (None, message(None, "2024-01-02", "1")),
    (b"SP500", message("SP500", "2024-02-30", "1")),
    (b"VIX", message("VIX", "2024-01-03", "1e1000")),
    (b"VIX", b'{"Index":"VIX","Date":"2024-01-03","Close":13.10} x'),
    (b"VIX", '{"Index":"V\\u00cdX ü","Date":"2024-01-03","Close":13.10,"Volume":null}'.encode()),
]
SECOND = [
    (b"SP500", message("SP500", "2023-12-29", "99")),
    (b"SP500", message("SP500", "2024-03-01", "130")),
    (b"NASDAQ", message("NASDAQ", "2024-01-04", "201")),
    (b"DAX", message("DAX", "2024-01-04", "7")),
]


def sent(broker: Broker, topic: str, messages: list[tuple[bytes | None, bytes | None]]) -> None:
    """Put messages into a topic, some with headers."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for number, (key, value) in enumerate(messages):
        headers = [("source", b"csv"), ("odd", None), ("source", b"\xff")] if number % 5 == 0 else None
        producer.produce(topic, value, key, headers=headers)
    producer.flush()


def content(work: Work) -> dict[str, Any]:
    """Every table of the group with its columns and rows."""
    found: dict[str, Any] = {}
    engine = EmbeddedEngine(Storage())
    for table in work.catalog.select("group:stocks"):
        for one in (table, table.quarantine, table.changes):
            handle = engine.find(work.uri(one))
            if handle is not None:
                columns = [(field.name, str(field.type)) for field in handle.schema]
                rows = Counter(repr(sorted(row.items())) for row in engine.rows(engine.read(handle)))
                found[str(one)] = {"columns": columns, "rows": rows}
    return found


def test_both_engines_make_equal_tables_of_one_topic(tmp_path: Path, kafka: Broker, spark: Engine) -> None:
    """Q5-Q16: bronze to gold, quarantines and the log: Spark's own reader and the embedded one give the same rows."""
    from kafka import KafkaAdminClient
    from kafka.admin import NewTopic

    topic = f"engines-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    admin.create_topics([NewTopic(topic, 3, 1)])
    admin.close()
    catalog = shipped(LAKEHOUSE_KAFKA=kafka.bootstrap, LAKEHOUSE_KAFKA_TOPIC=topic)
    storage, embedded = Storage(), EmbeddedEngine(Storage())
    works = {
        name: Work(catalog, Lake(str(tmp_path / name), storage), embedded, clock=lambda: NOW)
        for name in ("embedded", "spark", "turns")
    }
    for round_, messages in enumerate((FIRST, SECOND)):
        sent(kafka, topic, messages)
        for number, table in enumerate(catalog.select("group:stocks")):
            engines = {"embedded": embedded, "spark": spark, "turns": (embedded, spark)[(number + round_) % 2]}
            for name, work in works.items():
                list(refresh(replace(work, engine=engines[name]), table))
    expected = content(works["embedded"])
    assert len(expected["bronze.stocks"]["rows"]) == len(FIRST) + len(SECOND)
    assert expected["silver.stocks_quarantine"]["rows"]
    for name in ("spark", "turns"):
        found = content(works[name])
        assert found.keys() == expected.keys()
        for table in expected:
            assert found[table]["columns"] == expected[table]["columns"], (name, table)
            assert found[table]["rows"] == expected[table]["rows"], (name, table)
