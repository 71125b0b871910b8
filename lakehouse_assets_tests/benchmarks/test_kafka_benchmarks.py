"""Tests of the benchmarks of the stocks pipeline: what they send, and that they see when gold is fresh."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from pathlib import Path

import pytest

from benchmarks import common, data
from lakehouse_assets_tests.kafka_broker import Broker

ROWS, NEW = 6_000, 1_000


def fits(message: bytes) -> bool:
    """Whether a message is JSON with a price for its close."""
    try:
        Decimal(json.loads(message)["Close"])
    except (ValueError, InvalidOperation):
        return False
    return True


def test_messages_are_days_of_indices_and_few_are_malformed() -> None:
    """No index has a day twice, a message is about 174 bytes, and as many as are said do not fit."""
    messages = [data.price(number) for number in range(20_000)]
    found = [json.loads(message[1]) for message in messages if fits(message[1])]
    assert len({(one["Index"], one["Date"]) for one in found}) == len(found)
    assert len(messages) - len(found) == data.unfit_messages(20_000) == 19
    assert {len(message[1]) for message in messages if fits(message[1])} <= set(range(160, 190))
    assert all(json.loads(value)["Index"].encode() == key for key, value in messages if fits(value))


def test_some_malformed_messages_are_json() -> None:
    """Every fourth of them is well-formed, with a text where a price belongs."""
    last = data.UNFIT_EVERY * 4 - 1
    assert json.loads(data.price(last)[1])["Close"] == "n/a"
    with pytest.raises(json.JSONDecodeError):
        json.loads(data.price(data.UNFIT_EVERY - 1)[1])


@pytest.fixture(name="landed")
def _landed(kafka: Broker, tmp_path: Path) -> tuple[str, str, Path]:
    """A broker, a topic, and a lake that holds its messages."""
    topic, lake = "bench_gold", tmp_path / "lake"
    environ = {"LAKEHOUSE_KAFKA": kafka.bootstrap, "LAKEHOUSE_KAFKA_TOPIC": topic}
    common.sample(common.ours("data", "produce_prices", kafka.bootstrap, topic, 0, ROWS))
    common.sample(common.run_command(None, lake, "group:stocks"), environ=environ)
    return kafka.bootstrap, topic, lake


@pytest.mark.slow
def test_the_way_to_gold_is_measured(landed: tuple[str, str, Path]) -> None:
    """A tick requests the run, and afterwards gold has a row for each message that fits; one turn is told."""
    servers, topic, lake = landed
    environ = {"LAKEHOUSE_KAFKA": servers, "LAKEHOUSE_KAFKA_TOPIC": topic}
    command = common.ours("stocks_end_to_end", "in_process", servers, topic, lake, ROWS, NEW, 1)
    (turn,) = common.sample(command, environ=environ).said
    assert turn["inside"] == pytest.approx(turn["tick s"] + turn["run s"])
    assert turn["tick s"] > 0
