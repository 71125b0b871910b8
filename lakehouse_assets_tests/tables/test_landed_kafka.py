"""Topics of a real broker, landed in real tables: each message once, losses as rows, and the remedies of errors."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lakehouse_assets.engines.embedded import EmbeddedEngine
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import (
    ConcurrentWriter,
    FeedExpired,
    IncarnationChanged,
    SettingsError,
    SourceError,
    SourceUnreachable,
)
from lakehouse_assets.sources.base import Past, Position
from lakehouse_assets.sources.kafka import KafkaSource
from lakehouse_assets.tables.refresh import preview, refresh
from lakehouse_assets_tests.cli.lab import Machine
from lakehouse_assets_tests.kafka_broker import Broker
from lakehouse_assets_tests.sources.kafka_lab import Shop, odd_headers
from lakehouse_assets_tests.tables.lab import Lab

MARK = "on_data_loss: mark"


@pytest.fixture(scope="session")
def shop(kafka: Broker) -> Shop:
    """Topics of the broker that lives as long as the tests."""
    return Shop(kafka.plain)


def declared(shop: Shop, topic: str, lakehouse: str = "", more: str = "", entity_id: str = "k", **options: str) -> str:
    """A catalog with one entity that lands a topic."""
    return f"delta_live_store:\n{listed(shop, topic, lakehouse, more, entity_id, **options)}"


def listed(shop: Shop, topic: str, lakehouse: str = "", more: str = "", entity_id: str = "k", **options: str) -> str:
    """An entity that lands a topic."""
    return (
        f"  - entity_id: {entity_id}\n    source: {topic}\n    source_format: kafka\n    destination: bronze.k\n"
        f"    read_options: {json.dumps(shop.options(**options))}\n    lakehouse: {{{lakehouse}}}\n    {more}\n"
    )


@pytest.fixture
def topic(shop: Shop) -> str:
    """Two partitions with ten messages each."""
    name = shop.topic(2)
    for part in (0, 1):
        shop.send(name, [f"{part}.{n}" for n in range(10)], part)
    return name


def landed(it: Lab) -> list[tuple[int, int]]:
    """Partition and offset of each row, sorted."""
    return sorted(it.rows("bronze.k", "partition", "offset"))


def losses(it: Lab) -> list[dict]:
    """What the quarantine says was lost."""
    found = it.rows("bronze.k_quarantine", "_raw", "_reasons")
    assert all(reasons == ["offsets_lost"] for _, reasons in found)
    return sorted((json.loads(raw) for raw, _ in found), key=str)


def span(part: int, first: int, last: int) -> list[tuple[int, int]]:
    """The places of a range."""
    return [(part, n) for n in range(first, last)]


def test_a_topic_is_landed_as_it_grows(tmp_path: Path, shop: Shop, topic: str) -> None:
    """Every column as received, each message once, in bounded batches, partitions that are added too."""
    it = Lab(tmp_path, declared(shop, topic, maxOffsetsPerTrigger="7"))
    assert [outcome.valid for outcome in it.run()] == [7, 7, 6]
    shop.widen(topic, 3)
    shop.send(topic, [None, b"\xff"], 2, key=b"\x00\xff", headers=[("h", b"1"), ("h", None)])
    assert [outcome.valid for outcome in it.run()] == [2]
    assert it.run() == []
    assert landed(it) == [*span(0, 0, 10), *span(1, 0, 10), *span(2, 0, 2)]
    (row,) = (
        row
        for row in it.rows("bronze.k", "_position", "key", "value", "topic", "headers", "_source")
        if row[0] == "2:1"
    )
    headers = [{"key": "h", "value": b"1"}, {"key": "h", "value": None}]
    assert row == ("2:1", b"\x00\xff", b"\xff", topic, headers, "k")


def test_a_topic_without_messages_is_an_empty_table(tmp_path: Path, shop: Shop) -> None:
    """The table is there with its columns before the first message is."""
    name = shop.topic()
    it = Lab(tmp_path, declared(shop, name))
    it.run()
    shop.send(name, ["a"])
    it.run()
    assert it.rows("bronze.k", "value") == [(b"a",)]


def test_a_feed_that_starts_at_the_end(tmp_path: Path, shop: Shop, topic: str) -> None:
    """latest: the first batch is empty and recorded, the second has what came since."""
    it = Lab(tmp_path, declared(shop, topic, startingOffsets="latest"))
    (first,) = it.run()
    assert (first.plan.number, first.valid, landed(it)) == (1, 0, [])
    shop.send(topic, ["a", "b"], 1)
    (second,) = it.run()
    assert (second.plan.number, landed(it)) == (2, span(1, 10, 12))
    with pytest.raises(SourceError, match="would lose rows.*partition 1 before offset 12"):
        it.run(rebuild=True)
    assert landed(it) == span(1, 10, 12)


def test_a_loss_stops_before_anything_is_written(tmp_path: Path, shop: Shop, topic: str) -> None:
    """fail: no plan, no row; the remedy `on_data_loss: mark` then goes on where it stopped."""
    it = Lab(tmp_path, declared(shop, topic))
    it.run()
    shop.send(topic, ["x"] * 10)
    shop.remove_before(topic, {0: 15})
    before = it.version("bronze.k")
    for _ in range(2):
        with pytest.raises(FeedExpired, match="partition 0 from 10 to 14"):
            it.run()
    assert it.version("bronze.k") == before
    it.declare(declared(shop, topic, MARK))
    (outcome,) = it.run()
    assert [notice.code for notice in outcome.notices] == ["offsets_lost"]
    assert landed(it) == [*span(0, 0, 10), *span(0, 15, 20), *span(1, 0, 10)]
    assert losses(it) == [{"partition": 0, "from": 10, "to": 15}]
    assert it.run() == []


def test_the_other_remedy_of_a_loss(tmp_path: Path, shop: Shop, topic: str) -> None:
    """A rebuild of what is left: refused without --accept-loss, for the table holds more than the topic."""
    it = Lab(tmp_path, declared(shop, topic))
    it.run()
    shop.send(topic, ["x"] * 10)
    shop.remove_before(topic, {0: 15})
    with pytest.raises(SourceError, match="(?s)would lose rows.*partition 0 before offset 15.*--accept-loss"):
        it.run(rebuild=True)
    assert landed(it) == [*span(0, 0, 10), *span(1, 0, 10)]
    it.run(rebuild=True, accept_loss=True)
    assert landed(it) == [*span(0, 15, 20), *span(1, 0, 10)]


def test_all_that_was_new_is_lost(tmp_path: Path, shop: Shop, topic: str) -> None:
    """A batch without a row still has its lost range, and rows, losses and offsets add up in the end."""
    it = Lab(tmp_path, declared(shop, topic, MARK, maxOffsetsPerTrigger="4"))
    it.run()
    shop.send(topic, ["x"] * 10)
    shop.send(topic, ["y"] * 3, 1)
    shop.remove_before(topic, {0: 20, 1: 12})
    it.run()
    shop.send(topic, ["z"], 0)
    shop.remove_before(topic, {0: 21})
    it.run()
    assert landed(it) == [*span(0, 0, 10), *span(1, 0, 10), (1, 12)]
    lost = losses(it)
    assert sorted((one["partition"], one["from"], one["to"]) for one in lost) == [(0, 10, 20), (0, 20, 21), (1, 10, 12)]
    assert len(landed(it)) + sum(one["to"] - one["from"] for one in lost) == 21 + 13


def killed(root: Path, yaml: str, directory: Path) -> None:
    """Run until the quarantine is written, in a process that is killed then."""
    (directory / "crash.yaml").write_text(yaml)
    command = [
        sys.executable,
        "-m",
        "lakehouse_assets_tests.tables.kafka_crash",
        str(root),
        str(directory / "crash.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_killed_between_quarantine_and_target(tmp_path: Path, shop: Shop, topic: str) -> None:
    """The rerun leaves what a run that was never killed leaves: the lost range once, each message once."""
    yaml = declared(shop, topic, MARK)
    lakes = [Lab(tmp_path / name, yaml) for name in ("whole", "cut")]
    for it in lakes:
        it.run()
    shop.send(topic, ["x"] * 10)
    shop.remove_before(topic, {0: 15})
    killed(tmp_path / "cut", yaml, tmp_path)
    assert losses(lakes[1]) == [{"partition": 0, "from": 10, "to": 15}]
    assert len(landed(lakes[1])) == 20
    shop.send(topic, ["later"] * 3)
    for it in lakes:
        it.run()
    assert landed(lakes[0]) == landed(lakes[1]) == [*span(0, 0, 10), *span(0, 15, 23), *span(1, 0, 10)]
    assert losses(lakes[0]) == losses(lakes[1])
    whole, cut = (it.rows("bronze.k_quarantine") for it in lakes)
    assert whole == cut


RULES = "is_quarantined: true\n    expectations: {expect_all: {even: offset % 2 = 0}}"
JUDGED = f"select_expr: [topic, partition, offset, CAST(value AS STRING) AS text]\n    {RULES}"


def half_made(tmp_path: Path, shop: Shop, topic: str, more: str = "") -> tuple[Lab, str]:
    """A lake whose second batch, the offsets 15 to 19, reached the quarantine and not the target; and its catalog."""
    yaml = declared(shop, topic, MARK, more)
    it = Lab(tmp_path / "cut", yaml)
    it.run()
    shop.send(topic, ["x"] * 10)
    shop.remove_before(topic, {0: 15})
    killed(tmp_path / "cut", yaml, tmp_path)
    return it, yaml


def judged(it: Lab) -> tuple[list[int], list[int]]:
    """The offsets of partition 0 that a rule spoke against, and those that were lost, from offset 10 on."""
    found = it.rows("bronze.k_quarantine", "_reasons", "_upstream", "_raw")
    odd = [row["offset"] for reasons, row, _ in found if reasons == ["even"] and row["partition"] == 0]
    lost = [json.loads(raw) for reasons, _, raw in found if reasons == ["offsets_lost"]]
    return sorted(n for n in odd if n > 9), sorted(n for one in lost for n in range(one["from"], one["to"]))


@pytest.mark.slow
def test_a_range_that_expired_after_its_quarantine_was_written(tmp_path: Path, shop: Shop, topic: str) -> None:
    """mark: the rest of the batch is made, and what went since is told as lost, once, whatever is run again."""
    it, yaml = half_made(tmp_path, shop, topic)
    shop.remove_before(topic, {0: 17})
    killed(tmp_path / "cut", yaml, tmp_path)  # once more: what was lost was told, the rest is not there
    assert losses(it) == [{"partition": 0, "from": 10, "to": 15}, {"partition": 0, "from": 15, "to": 17}]
    shop.send(topic, ["later"] * 3)
    shop.remove_before(topic, {0: 18})
    rest, more = it.run()
    assert [notice.code for notice in rest.notices] == ["replayed", "offsets_lost"]
    assert "the offsets 17 to 17 of partition 0" in rest.notices[1].message
    assert (rest.valid, more.valid) == (2, 3)
    assert landed(it) == [*span(0, 0, 10), *span(0, 18, 23), *span(1, 0, 10)]
    assert [(one["from"], one["to"]) for one in losses(it)] == [(10, 15), (15, 17), (17, 18)]
    assert it.run() == []


@pytest.mark.parametrize("first", [18, 20, 22], ids=["a part", "the rest", "and more"])
def test_rows_that_are_kept_are_not_lost(tmp_path: Path, shop: Shop, topic: str, first: int) -> None:
    """Each offset is landed, or in the quarantine, or told as lost: one of these, whatever the select list keeps."""
    it, _ = half_made(tmp_path, shop, topic, JUDGED)
    assert judged(it) == ([15, 17, 19], [10, 11, 12, 13, 14])
    shop.send(topic, ["later"] * 4)
    shop.remove_before(topic, {0: first})
    it.run()
    odd, lost = judged(it)
    there = [n for part, n in landed(it) if part == 0]
    assert sorted([*there, *odd, *lost]) == sorted([*range(0, 10, 2), *range(10, 24)])
    assert [n for n in lost if n >= 15] == [n for n in range(15, first) if n not in (15, 17, 19)]
    assert it.run() == []


def test_a_message_that_is_kept_as_text_is_not_lost(tmp_path: Path, shop: Shop) -> None:
    """A row of the quarantine that has no position, for the select list leaves it out: what it says counts."""
    topic = shop.topic()
    shop.send(topic, ["a"] * 2)
    yaml = declared(shop, topic, MARK, "select_expr: [topic, partition, offset, CAST(value AS STRING) AS text]")
    it = Lab(tmp_path / "cut", yaml)
    it.run()
    odd_headers(shop, topic, b"odd")
    shop.send(topic, ["b"] * 2)
    killed(tmp_path / "cut", yaml, tmp_path)
    shop.remove_before(topic, {0: 4})
    it.run()
    assert landed(it) == [(0, 0), (0, 1), (0, 4)]
    found = [
        (json.loads(raw).get("offset"), json.loads(raw).get("from"))
        for (raw,) in it.rows("bronze.k_quarantine", "_raw")
    ]
    assert sorted(found, key=str) == [(2, None), (None, 3)]


def test_a_stalled_writer_does_not_mix_with_the_rest_of_its_batch(tmp_path: Path, shop: Shop, topic: str) -> None:
    """A writer that had read all before it went, and commits when the rest was made: refused, nothing is doubled."""
    it, _ = half_made(tmp_path, shop, topic)
    name = it.work.feed_name(it.catalog.entities[0])
    stalled = it.work.book.open(name).last(name)
    assert stalled is not None
    stage = it.engine.appender(it.engine.find(it.work.uri(TableName("bronze", "k"))))
    shop.remove_before(topic, {0: 18})
    it.run()
    with pytest.raises(ConcurrentWriter):
        stage.commit(stalled.as_number)
    assert landed(it) == [*span(0, 0, 10), *span(0, 18, 20), *span(1, 0, 10)]


def test_a_writer_that_commits_before_the_rest_is_made(tmp_path: Path, shop: Shop, topic: str) -> None:
    """The batch was whole after all: nothing of it is told as lost."""
    it, _ = half_made(tmp_path, shop, topic)
    name = it.work.feed_name(it.catalog.entities[0])
    stalled = it.work.book.open(name).last(name)
    assert stalled is not None
    shop.remove_before(topic, {0: 18})

    class Late(KafkaSource):
        def left(self, *given: Any, **how: Any) -> Any:
            it.engine.appender(it.engine.find(it.work.uri(TableName("bronze", "k")))).commit(stalled.as_number)
            return super().left(*given, **how)

    it.run(open_source=Late)
    assert losses(it) == [{"partition": 0, "from": 10, "to": 15}]
    assert it.run() == []


def test_the_rest_of_a_batch_is_refused_until_losses_may_be_marked(tmp_path: Path, shop: Shop, topic: str) -> None:
    """fail: the error names both remedies, and each of them mends it."""
    it, yaml = half_made(tmp_path, shop, topic)
    shop.remove_before(topic, {0: 18})
    it.declare(declared(shop, topic))
    with pytest.raises(FeedExpired, match="(?s)partition 0 from 15 to 17.*on_data_loss: mark.*--full-refresh"):
        it.run()
    it.declare(yaml)
    it.run()
    assert landed(it) == [*span(0, 0, 10), *span(0, 18, 20), *span(1, 0, 10)]
    assert losses(it) == [{"partition": 0, "from": 10, "to": 15}, {"partition": 0, "from": 15, "to": 18}]


class DyingEngine(EmbeddedEngine):
    """The embedded engine, interrupted before it writes a row."""

    def appender(self, handle):
        """The plan is recorded; nothing follows."""
        raise InterruptedError("interrupted before the first row")


def interrupted(it: Lab) -> None:
    """Run until the plan is recorded."""
    with pytest.raises(InterruptedError):
        it.run(engine=DyingEngine(it.storage))


@pytest.mark.parametrize("marks", [False, True], ids=["fail", "mark"])
def test_a_plan_that_was_interrupted_and_whose_range_has_expired(
    tmp_path: Path, shop: Shop, topic: str, marks: bool
) -> None:
    """What it meant to read is gone in part: it is a loss like any other, from the last row that was landed."""
    it = Lab(tmp_path, declared(shop, topic, MARK if marks else ""))
    it.run()
    shop.send(topic, ["x"] * 10)
    interrupted(it)
    shop.remove_before(topic, {0: 15})
    if not marks:
        with pytest.raises(FeedExpired, match="partition 0 from 10 to 14"):
            it.run()
        assert landed(it) == [*span(0, 0, 10), *span(1, 0, 10)]
        return
    it.run()
    assert landed(it) == [*span(0, 0, 10), *span(0, 15, 20), *span(1, 0, 10)]
    assert losses(it) == [{"partition": 0, "from": 10, "to": 15}]


def test_an_interrupted_plan_is_read_again_as_it_was(tmp_path: Path, shop: Shop, topic: str) -> None:
    """Messages that came since are the next batch's; the one that was planned is made first."""
    it = Lab(tmp_path, declared(shop, topic))
    interrupted(it)
    shop.send(topic, ["later"] * 5)
    first, second = it.run()
    assert (first.valid, second.valid) == (20, 5)
    assert [notice.code for notice in first.notices] == ["replayed"]
    assert landed(it) == [*span(0, 0, 15), *span(1, 0, 10)]


def test_a_preview_judges_options_without_a_broker(tmp_path: Path, shop: Shop, topic: str) -> None:
    """Of an interrupted plan too, which needs no draft; and before anything is asked of a broker that is not there."""
    it = Lab(tmp_path, declared(shop, topic))
    interrupted(it)
    for wrong in (
        {"startingOffsets": "first"},
        {"kafka.isolation.level": "dirty", "kafka.bootstrap.servers": "none:1"},
    ):
        it.declare(declared(shop, topic, **wrong))
        with pytest.raises(SettingsError, match="cannot have"):
            list(preview(it.work, TableName("bronze", "k")))


def test_made_again_between_plan_and_write(tmp_path: Path, shop: Shop, topic: str) -> None:
    """An interrupted plan of a topic that was replaced since: refused, nothing of the new topic is landed."""
    it = Lab(tmp_path, declared(shop, topic))
    it.run()
    shop.send(topic, ["x"] * 10)
    interrupted(it)
    shop.again(topic, 2, 40)
    with pytest.raises(IncarnationChanged):
        it.run()
    assert landed(it) == [*span(0, 0, 10), *span(1, 0, 10)]


def test_a_rebuild_reads_the_topic_again(tmp_path: Path, shop: Shop, topic: str) -> None:
    """A topic that still holds all that was read is no loss, bounded batches or not."""
    it = Lab(tmp_path, declared(shop, topic, maxOffsetsPerTrigger="6"))
    it.run()
    it.run(rebuild=True)
    assert landed(it) == [*span(0, 0, 10), *span(1, 0, 10)]


@pytest.mark.parametrize("extra", ["select_expr: [topic, partition, offset, CAST(value AS STRING) AS text]", ""])
def test_selected_columns_are_landed_as_they_arrive(tmp_path: Path, shop: Shop, topic: str, extra: str) -> None:
    """A select list that judges nothing changes columns alone; lost offsets go to the quarantine all the same."""
    it = Lab(tmp_path, declared(shop, topic, MARK, extra))
    it.run()
    shop.send(topic, ["x"] * 4)
    shop.remove_before(topic, {0: 12})
    it.run()
    if extra:
        assert it.rows("bronze.k", "text")[-1:] == [("x",)]
    assert landed(it) == [*span(0, 0, 10), *span(0, 12, 14), *span(1, 0, 10)]
    assert losses(it) == [{"partition": 0, "from": 10, "to": 12}]


def test_judged_rows_beside_lost_offsets(tmp_path: Path, shop: Shop, topic: str) -> None:
    """Rows that break a rule and ranges that were lost stand in one quarantine."""
    rules = "is_quarantined: true\n    expectations: {expect_all: {even: offset % 2 = 0}}"
    it = Lab(tmp_path, declared(shop, topic, MARK, rules))
    it.run()
    shop.send(topic, ["x"] * 4)
    shop.remove_before(topic, {0: 12})
    it.run()
    assert landed(it) == [(part, n) for part in (0, 1) for n in range(10 if part else 14) if n % 2 == 0 and n != 10]
    reasons = [tuple(found) for (found,) in it.rows("bronze.k_quarantine", "_reasons")]
    assert sorted(reasons) == [("even",)] * 11 + [("offsets_lost",)]


def test_a_message_with_headers_that_cannot_be_had(tmp_path: Path, shop: Shop, topic: str) -> None:
    """It is a row of the quarantine and stops nothing."""
    odd_headers(shop, topic, b"v")
    (place,) = [(part, 10) for part in (0, 1) if shop.ends(topic, part)[1] == 11]
    it = Lab(tmp_path, declared(shop, topic))
    (outcome,) = it.run()
    assert (outcome.rows_in, outcome.valid, outcome.quarantined) == (21, 20, 1)
    assert landed(it) == [*span(0, 0, 10), *span(1, 0, 10)]
    ((raw, reasons),) = it.rows("bronze.k_quarantine", "_raw", "_reasons")
    assert reasons == ["header_name_not_utf8"]
    assert json.loads(raw) == {"partition": place[0], "offset": place[1], "key": "k1", "value": "v"}
    assert it.run() == []


def test_a_run_ends_while_somebody_produces(tmp_path: Path, shop: Shop, topic: str) -> None:
    """A message that arrives while a batch is drafted or made is the next run's."""
    it = Lab(tmp_path, declared(shop, topic))

    class Busy(KafkaSource):
        def latest(self, past: Past) -> Position:
            end = super().latest(past)
            shop.send(topic, ["more"])
            return end

    for expected in ([20], [1], [1]):
        outcomes = refresh(replace(it.work, open_source=Busy), TableName("bronze", "k"))
        assert [outcome.valid for outcome in itertools.islice(outcomes, 3)] == expected


def test_two_topics_feed_one_table(tmp_path: Path, shop: Shop, topic: str) -> None:
    """Several feeds may share a destination: each has its own positions."""
    other = shop.topic()
    shop.send(other, ["o"] * 3)
    yaml = declared(shop, topic, "feed: one") + listed(shop, other, "feed: two", entity_id="l")
    it = Lab(tmp_path, yaml)
    it.run()
    shop.send(other, ["o"])
    it.run()
    assert len(landed(it)) == 24
    assert set(it.rows("bronze.k", "topic", "_source")) == {(topic, "one"), (other, "two")}


# the broker is gone


def test_no_broker_leaves_everything_as_it_was(tmp_path: Path, kafka_brokers: Callable[..., Broker]) -> None:
    """Killed between two runs: an error in bounded time, nothing written; back again, it goes on."""
    broker = kafka_brokers()
    shop = Shop(broker.plain)
    name = shop.topic()
    shop.send(name, ["a"] * 5)
    it = Lab(tmp_path, declared(shop, name))
    it.run()
    before = it.version("bronze.k")
    shop.send(name, ["b"] * 5)
    broker.kill()
    with pytest.raises(SourceUnreachable, match="cannot be reached"):
        it.run()
    assert it.version("bronze.k") == before
    broker.start()
    it.run()
    assert landed(it) == span(0, 0, 10)


def test_a_broker_that_dies_while_a_batch_is_made(tmp_path: Path, kafka_brokers: Callable[..., Broker]) -> None:
    """Rows were staged already: nothing of them is committed, and the next run makes the same batch."""
    broker = kafka_brokers()
    shop = Shop(broker.plain)
    name = shop.topic()
    shop.send(name, ["x" * 1000] * 100_000)
    it = Lab(tmp_path, declared(shop, name))

    def dies(table: str, count: int) -> None:
        broker.kill()

    with pytest.raises(SourceUnreachable, match="cannot be reached"):
        it.run(progress=dies)
    assert not it.exists("bronze.k") or landed(it) == []
    broker.start()
    (outcome,) = it.run()
    assert [notice.code for notice in outcome.notices] == ["replayed"]
    assert landed(it) == span(0, 0, 100_000)


# what the errors say, followed literally


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with nothing on it."""
    return Machine(tmp_path)


def said(machine: Machine, *arguments: str, code: int) -> str:
    """What the command said, its lines joined."""
    done = machine.lakehouse(*arguments)
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def put(machine: Machine, yaml: str) -> None:
    """Declare a catalog, braces and all."""
    machine.declare(yaml.replace("{", "{{").replace("}", "}}"))


@pytest.mark.parametrize("count", [3, 10, 40], ids=["fewer", "equal", "more"])
def test_a_topic_made_again_replaces_the_old_one(machine: Machine, shop: Shop, topic: str, count: int) -> None:
    """IncarnationChanged, first remedy: --full-refresh, which asks for --accept-loss, and then takes the new topic."""
    put(machine, declared(shop, topic))
    said(machine, "run", "bronze.k", code=0)
    shop.again(topic, 1, count)
    told = said(machine, "run", "bronze.k", code=1)
    assert "lakehouse run --full-refresh bronze.k" in told
    assert "--accept-loss" in told
    assert "--accept-loss" in said(machine, "run", "--full-refresh", "bronze.k", code=1)
    assert len(machine.rows("bronze.k", "offset")) == 20
    said(machine, "run", "--full-refresh", "bronze.k", "--accept-loss", code=0)
    assert machine.rows("bronze.k", "partition", "offset") == sorted(span(0, 0, count), key=repr)
    shop.send(topic, ["more"])
    said(machine, "run", "bronze.k", code=0)
    assert len(machine.rows("bronze.k", "offset")) == count + 1


def test_a_topic_made_again_is_added_to_the_old_one(machine: Machine, shop: Shop, topic: str) -> None:
    """IncarnationChanged, second remedy: the rows stay, and the new topic is a feed of its own."""
    put(machine, declared(shop, topic))
    said(machine, "run", "bronze.k", code=0)
    shop.again(topic, 1, 12)
    told = said(machine, "run", "bronze.k", code=1)
    assert "feed" in told
    old = listed(shop, topic, more="is_enabled: false")
    put(machine, f"delta_live_store:\n{old}{listed(shop, topic, 'feed: again', entity_id='l')}")
    said(machine, "run", "bronze.k", code=0)
    found = machine.rows("bronze.k", "_source", "partition", "offset")
    assert [row for row in found if row[0] == "again"] == sorted(
        (("again", *place) for place in span(0, 0, 12)), key=repr
    )
    assert len([row for row in found if row[0] == "k"]) == 20
    shop.send(topic, ["more"])
    said(machine, "run", "bronze.k", code=0)
    assert len(machine.rows("bronze.k", "offset")) == 33


def test_a_secret_is_in_no_plan_and_no_word(machine: Machine, kafka: Broker, topic: str) -> None:
    """Q3: what a run writes and says, of a topic behind a password: the password is nowhere (it was a task value)."""
    shop = Shop(kafka.plain)
    options = kafka.options("SASL_SSL", "SCRAM-SHA-512", "${secret:KAFKA_PASSWORD}")
    put(machine, declared(shop, topic, **options))
    secret = "nobody-may-see-this"
    done = machine.lakehouse("run", "bronze.k", KAFKA_PASSWORD=secret)
    assert done.exit_code == 0, done.output
    wrong = machine.lakehouse("run", "bronze.k", KAFKA_PASSWORD="another-secret")
    assert wrong.exit_code != 0
    assert "refused this client" in wrong.output
    for text in (done.output, wrong.output, *_texts(Path(machine.root))):
        assert secret not in text
        assert "another-secret" not in text


def _texts(root: Path) -> list[str]:
    return [path.read_bytes().decode("latin-1") for path in root.rglob("*") if path.is_file()]
