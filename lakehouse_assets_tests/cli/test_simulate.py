"""`lakehouse simulate sensors` and `lakehouse simulate kafka`."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from lakehouse_assets_tests.cli.lab import Machine, eventually
from lakehouse_assets_tests.kafka_broker import PASSWORD, Broker


def everything(path: Path) -> list[tuple]:
    """All readings of a file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM sensor_readings").fetchall()


def test_history(machine: Machine) -> None:
    """Hours of readings, about one a minute and sensor; the same arguments write the same rows."""
    paths = [machine.directory / name for name in ("a.db", "b.db", "c.db")]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        how = ("--hours", "2", "--sensors", "3", "--start", "2025-05-01", "--seed", seed)
        done = machine.lakehouse("simulate", "sensors", "--database", path, *how)
        assert done.exit_code == 0, done.stderr
        assert f"{path}: " in done.stderr
    one, two, three = map(everything, paths)
    assert 300 < len(one) <= 370
    assert one == two
    assert one != three


def test_about_so_many_rows(machine: Machine) -> None:
    """`--rows N` instead of hours."""
    path = machine.directory / "a.db"
    machine.lakehouse(
        "simulate", "sensors", "--database", path, "--rows", "1000", "--sensors", "10", "--fault-rate", "0"
    )
    assert len(everything(path)) == 1000


def test_live_until_stopped(machine: Machine) -> None:
    """`--live` writes until SIGTERM, then says what it wrote and ends with 0."""
    path = machine.directory / "live.db"
    child = machine.start("simulate", "sensors", "--database", path, "--live", "--rate", "300")
    eventually(lambda: path.exists() and _count(path) > 20)
    child.send_signal(signal.SIGTERM)
    _, told = child.communicate(timeout=60)
    assert child.returncode == 0
    assert f"{_count(path):,} readings" in told


def _count(path: Path) -> int:
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        if not connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'sensor_readings'").fetchone()[0]:
            return 0
        return connection.execute("SELECT count(*) FROM sensor_readings").fetchone()[0]


def test_live_for_so_many_rows(machine: Machine) -> None:
    """`--live --rows N` ends by itself."""
    path = machine.directory / "live.db"
    done = machine.lakehouse("simulate", "sensors", "--database", path, "--live", "--rate", "5000", "--rows", "500")
    assert done.exit_code == 0
    assert len(everything(path)) >= 500


@pytest.mark.parametrize(
    "how", [("--live", "--hours", "1"), ("--rate", "5"), ("--hours", "1", "--rows", "5"), ("--live", "--rate", "-1")]
)
def test_arguments_that_do_not_go_together(machine: Machine, how: tuple[str, ...]) -> None:
    """Wrong use: exit code 2, no file."""
    done = machine.lakehouse("simulate", "sensors", "--database", machine.directory / "a.db", *how)
    assert done.exit_code == 2
    assert not (machine.directory / "a.db").exists()


def test_a_file_that_is_no_database_is_left_as_it_is(machine: Machine) -> None:
    """Exit code 1, and the file is as it was."""
    path = machine.directory / "notes.txt"
    path.write_text("notes " * 500)
    assert machine.lakehouse("simulate", "sensors", "--database", path).exit_code == 1
    assert path.read_text() == "notes " * 500


def held(address: str, topic: str = "Stocks", **settings: object) -> int:
    """How many messages a topic holds."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": address, "group.id": "nobody", **settings})
    try:
        parts = consumer.list_topics(topic, timeout=20).topics[topic].partitions
        return sum(consumer.get_watermark_offsets(TopicPartition(topic, part), timeout=20)[1] for part in parts)
    finally:
        consumer.close()


def test_kafka_is_sent_each_row_once(machine: Machine, kafka: Broker) -> None:
    """`simulate kafka` says what was there and what it sent; run twice, it adds nothing."""
    topic = "cli-prices"
    how = ("--bootstrap-servers", kafka.plain, "--topic", topic, "--from", "2018-01-01", "--to", "2018-03-31")
    first = machine.lakehouse("simulate", "kafka", *how, "--rows", "100", "--partitions", "2")
    assert first.exit_code == 0, first.stderr
    assert f"{topic}: 0 rows were there, 100 sent" in first.stderr
    for told in ("100 rows were there, 144 sent, 3 malformed messages", "244 rows were there, 0 sent"):
        assert told in machine.lakehouse("simulate", "kafka", *how, "--faults", "3").stderr
    assert held(kafka.plain, topic) == 247
    assert "0 rows were there, 244 sent" in machine.lakehouse("simulate", "kafka", *how, "--append").stderr


def test_kafka_with_options_and_secrets(machine: Machine, kafka: Broker) -> None:
    """Options come from a file and from the command line; a secret is a reference to a variable."""
    path = machine.directory / "kafka.yaml"
    options = kafka.options("SASL_SSL", "SCRAM-SHA-256", "${secret:KAFKA_PASSWORD}")
    path.write_text("".join(f"{name}: '{value}'\n" for name, value in options.items() if "password" not in name))
    how = ("simulate", "kafka", "--topic", "cli-secured", "--rows", "5", "--options-file", path)
    password = ("--option", "kafka.sasl.password=${secret:KAFKA_PASSWORD}")
    assert machine.lakehouse(*how, *password, KAFKA_PASSWORD=PASSWORD).exit_code == 0
    assert held(kafka.plain, "cli-secured") == 5
    unset = machine.lakehouse(*how, *password)
    assert unset.exit_code == 2
    assert "KAFKA_PASSWORD" in unset.stderr
    clear = machine.lakehouse(*how, "--option", f"kafka.sasl.password={PASSWORD}")
    assert clear.exit_code == 2
    assert PASSWORD not in clear.stderr


@pytest.mark.slow
def test_kafka_on_a_broker_of_its_own(machine: Machine) -> None:
    """`--broker --live`: rows, then the address in a file, then made-up days until SIGTERM."""
    path = machine.directory / "new" / "address"
    how = ("--broker", "--address-file", path, "--rows", "200", "--live", "--rate", "100")
    child = machine.start("simulate", "kafka", *how)
    eventually(path.exists)
    address = path.read_text().strip()
    quiet = {"broker.version.fallback": "2.0.0", "log_level": 0}
    assert held(address, **quiet) >= 200
    eventually(lambda: held(address, **quiet) > 250)
    child.send_signal(signal.SIGTERM)
    _, told = child.communicate(timeout=60)
    assert child.returncode == 0, told
    assert address in told
    assert "200 sent" in told
    assert "made-up days" in told


@pytest.mark.parametrize(
    "how",
    [
        ("--broker", "--bootstrap-servers", "127.0.0.1:1"),
        ("--broker", "--partitions", "5"),
        ("--address-file", "a"),
        ("--rate", "0"),
        ("--option", "kafka.sasl.mechanism"),
        ("--options-file", "nowhere.yaml"),
    ],
)
def test_kafka_arguments_that_do_not_go_together(machine: Machine, how: tuple[str, ...]) -> None:
    """Wrong use: exit code 2, before anything is reached."""
    assert machine.lakehouse("simulate", "kafka", *how).exit_code == 2


def test_kafka_with_a_wrong_file(machine: Machine) -> None:
    """A header that lacks columns: exit code 1, with their names, before a broker is asked."""
    path = machine.directory / "prices.csv"
    path.write_text("Index,Date,Close\nA,2020-01-01,1\n")
    done = machine.lakehouse("simulate", "kafka", "--csv", path, "--bootstrap-servers", "127.0.0.1:9")
    assert done.exit_code == 1
    assert "lacks Open, High, Low, Adj Close, Volume" in done.stderr
