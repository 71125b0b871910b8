"""Messages that are gone before they were read, and topics that are not the ones that were read: never in silence."""

from __future__ import annotations

import json

import pytest

from lakehouse_assets.errors import FeedExpired, IncarnationChanged
from lakehouse_assets.sources.base import Past
from lakehouse_assets.sources.kafka import OFFSETS_LOST
from lakehouse_assets.sources.kafka_position import LOST
from lakehouse_assets_tests.kafka_broker import Broker
from lakehouse_assets_tests.sources.kafka_lab import Shop, rows, values, whole

MARK = {"on_data_loss": "mark"}


@pytest.fixture(scope="session")
def shop(kafka: Broker) -> Shop:
    """Topics of the broker that lives as long as the tests."""
    return Shop(kafka.plain)


@pytest.fixture
def topic(shop: Shop) -> str:
    """Two partitions with ten messages each."""
    name = shop.topic(2)
    for part in (0, 1):
        shop.send(name, [f"{part}.{n}" for n in range(10)], part)
    return name


def first(position: dict) -> Past:
    """A past of one plan that started at the beginning."""
    return Past(lambda: [position], position, lambda: {"0": 0, "1": 0})


def test_removed_before_they_were_read_stops(shop: Shop, topic: str) -> None:
    """fail, the default: partition and offsets are told, with the choices."""
    shop.remove_before(topic, {0: 7})
    with shop.open(topic) as source:
        for ask in (lambda: source.latest(Past.of({"0": 5, "1": 5})), lambda: source.resume({"0": 5, "1": 5})):
            with pytest.raises(FeedExpired) as refused:
                ask()
            assert "partition 0 from 5 to 6" in str(refused.value)
            assert "on_data_loss: mark" in str(refused.value)
            assert "--full-refresh bronze.k --accept-loss" in str(refused.value)


def test_removed_after_they_were_read_is_no_loss(shop: Shop, topic: str) -> None:
    """Retention behind the position is what it is for: only a rebuild would miss those."""
    shop.remove_before(topic, {0: 5, 1: 10})
    with shop.open(topic) as source:
        position = {"0": 5, "1": 10}
        assert source.resume(position) == position
        assert source.latest(Past.of(position)) == {"0": 10, "1": 10}
        assert source.audit(first(position)) == []
        (told,) = source.losses(first(position))
        assert told.code == "pruned"
        assert "partition 0 before offset 5, 1 before offset 10" in told.message


def test_marked_losses_are_rows(shop: Shop, topic: str) -> None:
    """mark: one row for each range, the batch goes on behind it, and rows and lost offsets add up."""
    shop.remove_before(topic, {0: 7, 1: 10})
    with shop.open(topic, MARK) as source:
        position = {"0": 5, "1": 2}
        (one, two) = source.audit(Past.of(position))
        start, end = source.resume(position), source.latest(Past.of(position))
        assert start == {"0": 7, "1": 10, LOST: {"0": [5, 7], "1": [2, 10]}}
        assert (one.code, two.code) == (OFFSETS_LOST, OFFSETS_LOST)
        assert "the offsets 5 to 6 of partition 0" in one.message
        for _ in range(2):  # at a replay, too
            lost, *batches = source.read(*(json.loads(json.dumps(place)) for place in (start, end)))
            assert lost.rows.num_rows == 0
            assert [json.loads(row["_upstream"]) for row in lost.misfits.to_pylist()] == [
                {"partition": 0, "from": 5, "to": 7},
                {"partition": 1, "from": 2, "to": 10},
            ]
            assert lost.misfits.column("_reasons").to_pylist() == [[OFFSETS_LOST]] * 2
            assert lost.misfits.column("_position").to_pylist() == ["0:5", "1:2"]
            assert sum(batch.rows.num_rows for batch in batches) == 3
        assert source.latest(Past.of(end)) == end
        assert source.resume(end) == end


def test_what_is_lost_while_a_batch_is_drafted_is_lost_once(shop: Shop, topic: str) -> None:
    """Start and end of a batch come from one look: a loss between them is the next look's."""
    shop.remove_before(topic, {0: 3})
    position = {"0": 1, "1": 10}
    with shop.open(topic, MARK) as source:
        end = source.latest(Past.of(position))
        shop.send(topic, ["late"] * 5)
        shop.remove_before(topic, {0: 12})
        start = source.resume(position)
    assert (start[LOST], start["0"], end["0"]) == ({"0": [1, 3]}, 3, 10)
    with shop.open(topic, MARK) as source:
        assert not source.holds(start, end)
        source.latest(Past.of(position))
        assert source.resume(position)[LOST] == {"0": [1, 12]}


def test_a_partition_that_lost_its_first_messages_before_it_was_known(shop: Shop) -> None:
    """New partitions are read from offset 0: what they lost before is a loss."""
    name = shop.topic()
    shop.widen(name, 2)
    shop.send(name, ["a", "b", "c"], 1)
    shop.remove_before(name, {1: 2})
    with shop.open(name) as source, pytest.raises(FeedExpired, match="partition 1 from 0 to 1"):
        source.latest(Past.of({"0": 0}))
    with shop.open(name, MARK) as source:
        start, end = source.resume({"0": 0}), source.latest(Past.of({"0": 0}))
        assert start == {"0": 0, "1": 2, LOST: {"1": [0, 2]}}
        assert values(rows(source, start, end)) == ["c"]


def test_a_range_holds_until_a_message_of_it_is_gone(shop: Shop, topic: str) -> None:
    """An interrupted plan can be read again while the topic has all of it; what is not in the range does not count."""
    with shop.open(topic) as source:
        assert source.holds({"0": 0, "1": 0}, {"0": 10, "1": 10})
        shop.remove_before(topic, {0: 4})
        assert not source.holds({"0": 0, "1": 0}, {"0": 10, "1": 10})
        assert source.holds({"0": 4, "1": 0}, {"0": 10, "1": 10})
        assert source.holds({"0": 2, "1": 0}, {"0": 2, "1": 10})  # nothing of partition 0 is in it


def test_removed_while_it_is_read(shop: Shop, topic: str) -> None:
    """A message of the range that goes between plan and read: an error, never a shorter batch."""
    with shop.open(topic) as source:
        start, end = source.earliest(), source.latest(Past())
        shop.remove_before(topic, {1: 4})
        with pytest.raises(FeedExpired, match="partition 1 from offset 0"):
            rows(source, start, end)


def test_removed_up_to_the_end_while_it_is_read(shop: Shop, topic: str) -> None:
    """Nothing is left of a partition: its end is no sign that all was read."""
    with shop.open(topic) as source:
        start, end = source.earliest(), source.latest(Past())
        shop.remove_before(topic, {1: 10})
        with pytest.raises(FeedExpired, match="partition 1 from offset 0"):
            rows(source, start, end)


@pytest.mark.parametrize("count", [3, 10, 40], ids=["fewer", "equal", "more"])
def test_a_topic_that_was_made_again_is_another(shop: Shop, topic: str, count: int) -> None:
    """Whatever it holds: its id is not the one that was read."""
    position = {"0": 10, "1": 10}
    with shop.open(topic) as source:
        recorded = source.incarnation(position)
        assert source.verify(position, recorded) == []
    shop.again(topic, 2, count)
    with shop.open(topic) as source:
        with pytest.raises(IncarnationChanged) as refused:
            source.verify(position, recorded)
        (told,) = source.losses(Past(lambda: [position], position, lambda: {"0": 0, "1": 0}, recorded))
    assert recorded in str(refused.value)
    assert all(choice in str(refused.value) for choice in ("--full-refresh bronze.k", "--accept-loss", "feed: "))
    assert "another topic" in told.message


def test_made_again_between_the_check_and_the_read(shop: Shop, topic: str) -> None:
    """What was verified is what is read: rows of another topic are never taken for those of the plan."""
    with shop.open(topic) as source:
        start, end = source.earliest(), source.latest(Past())
        source.verify(end, source.incarnation(end))
        shop.again(topic, 2, 40)
        shop.send(topic, ["x"] * 40, 1)
        with pytest.raises(IncarnationChanged):
            rows(source, start, end)


def test_made_again_while_a_batch_is_drafted(shop: Shop, topic: str) -> None:
    """Between any two of check, end and identity: refused, or recorded under the identity of what was looked at."""
    position = {"0": 5, "1": 5}
    with shop.open(topic) as source, shop.open(topic) as other:
        recorded = source.incarnation(position)
        source.verify(position, recorded)
        end = other.latest(Past())
        shop.again(topic, 2, 40)
        with pytest.raises(IncarnationChanged):
            source.latest(Past.of(position))
        assert other.incarnation(end) == recorded
        with pytest.raises(IncarnationChanged):
            other.verify(end, recorded)


def test_made_again_while_it_is_read(shop: Shop) -> None:
    """A reader that is half way through when the topic is replaced ends in the error that tells of it."""
    name = shop.topic()
    shop.send(name, ["x" * 1000] * 60_000)
    with shop.open(name) as source:
        start, end = source.earliest(), source.latest(Past())
        batches = source.read(start, end)
        next(batches)
        shop.again(name, 1, 10)
        with pytest.raises(IncarnationChanged):
            list(batches)


def test_a_rebuild_from_the_end_would_lose_what_was_read(shop: Shop, topic: str) -> None:
    """startingOffsets: latest: the topic has moved on, so a rebuild would start behind what the table holds."""
    position = {"0": 10, "1": 10}
    with shop.open(topic, startingOffsets="latest") as source:
        past = Past(lambda: [position], position, lambda: {"0": 4, "1": 10})
        (told,) = source.losses(past)
        assert "partition 0 before offset 10" in told.message
    with shop.open(topic) as source:
        assert source.losses(past) == []
        assert whole(source).num_rows == 20
