"""Sources that show a part: growing from round to round, the same at every look, whatever is added meanwhile."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from confluent_kafka import Producer

from lakehouse_assets.entities.model import Entity
from lakehouse_assets.prove.pace import PacedPartitions, bounded, measure, paced
from lakehouse_assets.simulators.kafka_mock import mock_cluster
from lakehouse_assets.sources.base import Past, Source, open_source
from lakehouse_assets_tests.prove.lab import orders
from lakehouse_assets_tests.tables.partition_lab import Memory, days_of

DECLARED = "id BIGINT, k STRING, v BIGINT"


def sqlite(directory: Path) -> Entity:
    """A table of thirty rows, three of which do not fit."""
    database = directory / "one.db"
    if not database.exists():
        orders(database, 30)
    fields = {"entity_id": "b", "source": str(database), "source_format": "sqlite", "destination": "bronze.t"}
    return Entity(**fields, source_schema=DECLARED)


def whole(directory: Path) -> Entity:
    """A file of ten rows, one of which does not fit."""
    rows = [f"{n if n != 4 else 'x'}" for n in range(10)]
    (directory / "w.csv").write_text("\n".join(["n", *rows]) + "\n")
    fields = {"entity_id": "b", "source": str(directory / "w.csv"), "source_format": "csv", "destination": "bronze.t"}
    return Entity(**fields, read_options={"header": "true"}, source_schema="n INT")


def read(source: Source, start: dict, end: dict) -> int:
    """The number of rows of a range, misfits included."""
    found = list(source.read(start, end))
    return sum(part.rows.num_rows + (part.misfits.num_rows if part.misfits else 0) for part in found)


def batches(entity: Entity, rows: int, shown: int) -> list[int]:
    """The sizes of the batches that a refresh would read, one after the other."""
    source, ends, sizes = paced(open_source, {"b": rows}, shown)(entity), [], []
    while (end := source.latest(Past.of(*ends) if ends else Past())) not in ends[-1:]:
        if not ends and end == source.earliest():
            break
        start = ends[-1] if ends and source.incremental else source.earliest()
        sizes.append(read(source, start, end))
        ends.append(end)
    source.close()
    return sizes


def test_an_incremental_source_shows_batch_after_batch(tmp_path: Path) -> None:
    """Each round shows one batch more, and what is added to the source meanwhile is not looked at."""
    entity = sqlite(tmp_path)
    assert [batches(entity, 10, shown) for shown in (0, 1, 2, 3)] == [[], [10], [10, 10], [10, 10, 10]]
    orders(tmp_path / "one.db", 50)
    assert batches(entity, 10, 3) == [10, 10, 10]


def test_a_whole_source_shows_more_rows_each_round(tmp_path: Path) -> None:
    """The position changes with each round, so the table is replaced; misfits count as rows."""
    entity = whole(tmp_path)
    assert [batches(entity, 3, shown) for shown in (1, 2, 3, 4)] == [[3], [6], [9], [10]]


@pytest.mark.parametrize(("make", "expected"), [(sqlite, 10), (whole, 3)])
def test_a_source_is_measured_for_full_batches(tmp_path: Path, make, expected: int) -> None:
    """There is a full batch for each round, no larger than asked for, and never an empty one."""
    source = open_source(make(tmp_path))
    assert measure(source, 3, 1000) == expected
    assert measure(source, 3, 2) == 2
    assert measure(source, 1000, 1000) == 1


def test_a_topic_shows_batch_after_batch() -> None:
    """Each round shows one batch more of all partitions, and what is sent meanwhile is not looked at."""
    with mock_cluster() as servers:
        producer = Producer({"bootstrap.servers": servers, "log_level": 0})

        def send(count: int) -> None:
            for n in range(count):
                producer.produce("t", f"{n}", partition=n % 2)
            assert producer.flush(30) == 0

        send(30)
        options = {"kafka.bootstrap.servers": servers, "kafka.api.version": "2.0"}
        fields = {"entity_id": "b", "source": "t", "source_format": "kafka", "destination": "bronze.t"}
        entity = Entity(**fields, read_options={**options, "maxOffsetsPerTrigger": "1000"})
        with open_source(entity) as source:
            assert measure(source, 3, 1000) == 10
        assert [batches(entity, 10, shown) for shown in (0, 1, 2, 3)] == [[], [10], [10, 10], [10, 10, 10]]
        send(50)
        assert batches(entity, 10, 3) == [10, 10, 10]
        late = paced(open_source, {"b": 10}, 3)(entity)
        start, end = late.earliest(), late.latest(Past())
        assert late.verify(end, late.incarnation(end)) == []
        assert late.holds(start, end)
        assert late.resume(end) == end
        assert late.losses(Past(last=end, first=lambda: start)) == []
        assert late.frame(start, end).format == "kafka"
        late.close()


def test_a_users_own_bound_gives_way() -> None:
    """The option stands once, whichever way it was spelled."""
    fields = {"entity_id": "b", "source": "/d", "source_format": "cloudFiles", "destination": "bronze.t"}
    entity = Entity(**fields, read_options={"cloudFiles.format": "csv", "maxFilesPerTrigger": "9"})
    assert bounded(entity, 2).read_options == {"cloudFiles.format": "csv", "cloudFiles.maxFilesPerTrigger": "2"}


def test_a_replay_reads_what_was_shown(tmp_path: Path) -> None:
    """A closed range is the same rows in a later round, identity included."""
    for entity in (sqlite(tmp_path), whole(tmp_path)):
        early, late = (paced(open_source, {"b": 3}, shown)(entity) for shown in (1, 3))
        end = early.latest(Past())
        assert late.verify(end, early.incarnation(end)) == []
        assert late.holds(late.earliest(), end)
        assert read(late, late.earliest(), end) == 3


def days() -> Entity:
    """Days in memory, which are extracted."""
    options = {"kdb.host": "localhost", "kdb.port": "5000", "kdb.partition": "date"}
    days = {"partitions": {"cadence": "daily", "start": "2024-01-02"}}
    return Entity(
        entity_id="b",
        source="trade",
        source_format="kdb",
        destination="extract.trade",
        read_options=options,
        lakehouse=days,
    )


def open_days(entity: Entity) -> Memory:
    """Six days, the second of them empty; half of the others is three rows."""
    return Memory(entity, days_of("trade"), [])


def shown(count: int, rows: int = 2) -> PacedPartitions:
    """The days that so many rounds show."""
    found = paced(open_days, {"b": rows}, count)(days())
    assert isinstance(found, PacedPartitions)
    return found


def test_a_partitioned_source_shows_days_and_half_of_the_last() -> None:
    """Each round shows days more, and finds the last one of the round before corrected."""
    assert [list(shown(n).partitions().values()) for n in range(4)] == [
        [],
        ["6", "0"],
        ["6", "0", "6", "3"],
        ["6", "0", "6", "6", "6", "3"],
    ]
    half, whole = (source.fingerprint("2024-01-05") for source in (shown(2), shown(3)))
    assert (half.rows, whole.rows) == (3, 6)
    assert half.checksum != whole.checksum


def test_a_half_of_a_day_is_its_first_rows() -> None:
    """As many as its fingerprint says, in their order, with the columns of the day."""
    source = shown(2)
    parts = list(source.read_partition("2024-01-05"))
    rows = pa.Table.from_batches(parts)
    assert rows.column("_row").to_pylist() == [0, 1, 2]
    assert rows.schema == source.columns_of("2024-01-05")
    assert pa.Table.from_batches(source.read_partition("2024-01-04")).num_rows == 6
    source.close()


@pytest.mark.parametrize(
    ("rounds", "most", "expected"), [(3, 1000, 2), (3, 5, 1), (1, 10, 2), (1, 1000, 6), (100, 1000, 1)]
)
def test_a_partitioned_source_is_measured_in_days(rounds: int, most: int, expected: int) -> None:
    """As many days a round as there are, of no more rows than asked for on average, and never none."""
    assert measure(open_days(days()), rounds, most) == expected
