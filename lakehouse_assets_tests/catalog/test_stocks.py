"""The shipped stocks pipeline: each fault of the system that it replaces must not come back (Q rows)."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakehouse_assets.entities.catalog import parse_catalog
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.errors import CatalogError
from lakehouse_assets.sources.kafka_options import options_of
from lakehouse_assets.tables.corrections import discard, quarantined, requeue
from lakehouse_assets_tests.catalog.stocks_lab import SENT, Model, Pipeline, columns, message, shipped

MESSAGES = (
    message("SP500", "2024-01-02", "100.5", "99.5", Open="99", High="101", Low="98", Volume="1000"),
    message("SP500", "2024-01-03", "101"),
    message("NASDAQ", "2024-01-02", "200.25"),
)


@pytest.fixture(name="pipeline")
def _pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(tmp_path)


def money(text: str) -> Decimal:
    """A price as the tables hold it."""
    return Decimal(text).quantize(Decimal("0.000001"))


def test_bronze_holds_messages_as_received(pipeline: Pipeline) -> None:
    """Q5: every column of Kafka and the month of the timestamp; bytes stay bytes, a tombstone is a row, too."""
    pipeline.send(MESSAGES[0], None, b"\xff{", key=b"\xfe")
    pipeline.run("bronze.stocks")
    rows = sorted(pipeline.table("bronze.stocks"), key=lambda row: row["offset"])
    assert [row["value"] for row in rows] == [MESSAGES[0], None, b"\xff{"]
    assert [row["key"] for row in rows] == [b"\xfe"] * 3
    assert [(row["topic"], row["partition"], row["offset"]) for row in rows] == [("Stocks", 0, n) for n in range(3)]
    assert rows[0]["timestamp"] == SENT
    assert {row["timestampType"] for row in rows} == {0}
    assert {row["year_month"] for row in rows} == {"2024-05"}


def test_an_environment_is_a_lake_of_its_own(tmp_path: Path) -> None:
    """Q4: dev and prod are settings: the same catalog fills bronze, silver and gold under each root, and no other."""
    dev, prod = Pipeline(tmp_path / "dev"), Pipeline(tmp_path / "prod")
    dev.send(*MESSAGES)
    dev.run()
    assert sorted(path.name for path in (tmp_path / "dev" / "lake").iterdir()) == [
        "bronze",
        "control",
        "gold",
        "silver",
    ]
    assert prod.table("bronze.stocks") == []
    assert not (tmp_path / "prod" / "lake").exists()


def test_a_topic_behind_a_password_is_declared_by_references() -> None:
    """Q3: SASL_SSL and SCRAM-SHA-256, user and password from a secret scope, as the page shows it; none in clear."""
    page = (Path(__file__).parents[2] / "docs" / "stocks.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (entity,) = parse_catalog({"page.yaml": block}, {}, {}).entities
    found = options_of(entity)
    assert (found.protocol, found.mechanism, found.topic) == ("SASL_SSL", "SCRAM-SHA-256", "orders")
    environ = {"KAFKA_KAFKA_SASL_USERNAME": "u", "KAFKA_KAFKA_SASL_PASSWORD": "p"}
    assert 'username="u" password="p"' in found.of_spark(environ)["kafka.sasl.jaas.config"]
    clear = block.replace("{{secrets/kafka/kafka-sasl-password}}", "p4ss")
    with pytest.raises(CatalogError, match="must hold a reference to a secret"):
        parse_catalog({"page.yaml": clear}, {}, {})


def test_bronze_is_partitioned_by_month_and_only_grows(pipeline: Pipeline) -> None:
    """Q5: the files of bronze are split by `year_month`, and a second batch appends."""
    for _ in range(2):
        pipeline.send(*MESSAGES)
        written = pipeline.run("bronze.stocks")
    handle = pipeline.work.engine.find(pipeline.work.uri(TableName("bronze", "stocks")))
    assert handle is not None
    assert handle.partition_by == ("year_month",)
    assert written["bronze.stocks"].plan.mode == "append"
    assert len(pipeline.table("bronze.stocks")) == 6


def test_silver_is_typed(pipeline: Pipeline) -> None:
    """Q1, Q6: the fields of the CSV as date, decimals and integer; `Adj Close` is Adj_Close."""
    pipeline.send(MESSAGES[0])
    pipeline.run()
    (row,) = pipeline.table("silver.stocks")
    row.pop("_ingested_at", None)
    assert row == {
        "Index": "SP500", "Date": date(2024, 1, 2), "Open": money("99"), "High": money("101"), "Low": money("98"),
        "Close": money("100.5"), "Adj_Close": money("99.5"), "Volume": 1000,
    }  # fmt: skip


NO_JSON = ["malformed_json:value"]
FAULTY = {
    b'{"Index":"SP500","Date":"2024-01-0': NO_JSON,
    b"": NO_JSON,
    b"[]": NO_JSON,
    b'{"Index":"SP500","Date":"2024-01-04","Close":"1"} trailing': NO_JSON,
    b'\xff\xfe{"Index":"SP500"}': NO_JSON,
    b"{}": ["index_is_there", "date_is_there", "close_is_there"],
    message("SP500", "2024-13-04", "1"): ["cast_failed:Date", "date_is_there"],
    message("SP500", "2024-01-04", "twelve"): ["cast_failed:Close", "cast_failed:Adj_Close", "close_is_there"],
    message("SP500", "2024-01-04", "1", Volume="many"): ["cast_failed:Volume"],
    message("SP500", "2024-01-04", "1", "1000000000000000"): ["cast_failed:Adj_Close"],
    message(None, "2024-01-04", "1"): ["index_is_there"],
    message("SP500", None, "1"): ["date_is_there"],
    message("SP500", "2024-01-04", None): ["close_is_there"],
    None: ["index_is_there", "date_is_there", "close_is_there"],
}
"""Messages that are no prices -> the reasons for which they are quarantined."""


@pytest.mark.parametrize("value", FAULTY, ids=lambda value: repr(value)[:40])
def test_what_is_no_price_is_quarantined_as_received(pipeline: Pipeline, value: bytes | None) -> None:
    """Q6, Q13: malformed JSON was a row of NULLs; here it is in quarantine with the one reason and the raw bytes."""
    pipeline.send(MESSAGES[0], value)
    outcome = pipeline.run()["silver.stocks"]
    (row,) = pipeline.table("silver.stocks_quarantine")
    assert row["_reasons"] == FAULTY[value]
    assert sorted(v.rule for v in outcome.verdicts if v.broken) == sorted(FAULTY[value])
    assert row["_upstream"]["value"] == value
    assert (row["_upstream"]["partition"], row["_upstream"]["offset"]) == (0, 1)
    assert len(pipeline.table("silver.stocks")) == 1


def test_of_a_message_that_is_no_json_every_column_is_said(pipeline: Pipeline) -> None:
    """What nobody says is not taken for NULL; said in full, it is a price, and a rebuild makes it again."""
    pipeline.send(MESSAGES[0], b"{")
    pipeline.run()
    table = TableName("silver", "stocks")
    said = ["Index = 'SP500'", "Date = DATE'2024-01-04'", "Close = 7", "Open = NULL", "High = NULL", "Low = NULL"]
    done = requeue(pipeline.work, table, rule=NO_JSON[0], patch=said)
    assert [row["_reasons"] for row in done.still_broken] == [["cast_failed:Adj_Close", "cast_failed:Volume"]]
    assert requeue(pipeline.work, table, rule=NO_JSON[0], patch=[*said, "Adj_Close = NULL", "Volume = NULL"]).woven == 1
    for rebuild in (False, True):
        pipeline.run(rebuild=rebuild)
        assert pipeline.table("silver.stocks_quarantine") == []
        assert columns(pipeline.table("silver.stocks"), "Close") == [(money("100.5"),), (money("7"),)]


def test_numbers_in_json_are_prices_as_written(pipeline: Pipeline) -> None:
    """A producer that writes numbers as numbers is understood to the last digit."""
    pipeline.send(b'{"Index":"SP500","Date":"2024-01-02","Close":1234567.10,"Volume":7}')
    pipeline.run()
    (row,) = pipeline.table("silver.stocks")
    assert (row["Close"], row["Volume"], row["Adj_Close"]) == (money("1234567.10"), 7, None)


def test_a_quarantined_message_can_be_mended_and_requeued(pipeline: Pipeline) -> None:
    """A dead letter is corrected by hand, and everything downstream follows."""
    pipeline.send(MESSAGES[0], message("SP500", "2024-01-05", "12O.5"))
    pipeline.run()
    patch = [f"{name} = CAST(120.5 AS DECIMAL(18, 6))" for name in ("Close", "Adj_Close")]
    assert requeue(pipeline.work, TableName("silver", "stocks"), rule="cast_failed:Close", patch=patch).woven == 1
    pipeline.run()
    assert pipeline.table("silver.stocks_quarantine") == []
    assert {row["Close"] for row in pipeline.table("silver.current_close")} == {money("120.5")}


def test_history_goes_by_trading_day(pipeline: Pipeline) -> None:
    """Q7, Q12: a version holds from its trading day to the next; the time of processing is no part of it."""
    pipeline.send(*MESSAGES)
    pipeline.run()
    assert pipeline.history() == [
        ("NASDAQ", money("200.25"), money("200.25"), date(2024, 1, 2), None),
        ("SP500", money("100.5"), money("99.5"), date(2024, 1, 2), date(2024, 1, 3)),
        ("SP500", money("101"), money("101"), date(2024, 1, 3), None),
    ]


def test_an_equal_close_opens_no_version(pipeline: Pipeline) -> None:
    """Q9: the same close sent again, or standing on the next day, is no new version."""
    pipeline.send(message("SP500", "2024-01-02", "100.5"))
    pipeline.run()
    for again in (message("SP500", "2024-01-02", "100.5"), message("SP500", "2024-01-03", "100.500")):
        pipeline.send(again)
        pipeline.run()
    assert pipeline.history() == [("SP500", money("100.5"), money("100.5"), date(2024, 1, 2), None)]


def test_an_older_day_does_not_replace_the_current_close(pipeline: Pipeline) -> None:
    """Q10: a day that arrives late takes its place in the history; the newest day stays current."""
    pipeline.send(message("SP500", "2024-01-03", "103"))
    pipeline.run()
    pipeline.send(message("SP500", "2024-01-02", "102"))
    pipeline.run()
    assert [(v[1], v[3], v[4]) for v in pipeline.history()] == [
        (money("102"), date(2024, 1, 2), date(2024, 1, 3)),
        (money("103"), date(2024, 1, 3), None),
    ]
    assert columns(pipeline.table("silver.current_close"), "Index", "Close") == [("SP500", money("103"))]


def test_every_day_of_a_batch_is_kept(pipeline: Pipeline) -> None:
    """Q8, Q11: the days inside one batch are versions, each; only the newest was kept."""
    days = [message("SP500", f"2024-01-{day:02}", str(100 + day)) for day in range(2, 12)]
    pipeline.send(*days)
    pipeline.run()
    assert [version[1] for version in pipeline.history()] == [money(str(100 + day)) for day in range(2, 12)]


def test_contradicting_closes_are_quarantined(pipeline: Pipeline) -> None:
    """Q13: two closes for one day of an index: neither is taken, both are in quarantine, in whatever order they came."""
    pipeline.send(message("SP500", "2024-01-02", "1"))
    pipeline.run()
    pipeline.send(message("SP500", "2024-01-03", "2"), message("SP500", "2024-01-03", "3"))
    pipeline.run()
    rows = pipeline.table("silver.close_price_quarantine")
    assert columns(rows, "Close", "_reasons") == [
        (money("2"), ["ambiguous_sequence"]),
        (money("3"), ["ambiguous_sequence"]),
    ]
    assert [version[1] for version in pipeline.history()] == [money("1")]
    assert columns(pipeline.table("gold.index_returns"), "Date") == [(date(2024, 1, 2),)]


@pytest.mark.parametrize("how", ["discard", "correct"])
def test_a_resolved_contradiction_comes_back(pipeline: Pipeline, how: str) -> None:
    """Q13: one of two contradicting closes is discarded, or corrected: the day has a close again, in gold as well."""
    pipeline.send(*(message("SP500", f"2024-01-0{day}", str(close)) for day, close in ((1, 1), (2, 2), (2, 3), (3, 4))))
    pipeline.run()
    table = TableName("silver", "close_price")
    ids = {row["Close"]: row["_event"] for row in pipeline.work.engine.rows(quarantined(pipeline.work, table))}
    if how == "discard":
        discard(pipeline.work, table, [ids[money("2")]])
    else:
        patch = [f"{name} = CAST(3 AS DECIMAL(18, 6))" for name in ("Close", "Adj_Close")]
        requeue(pipeline.work, table, ids=[ids[money("2")]], patch=patch)
    pipeline.run()
    assert [(v[1], v[3]) for v in pipeline.history()] == [(money(str(n + n // 2)), date(2024, 1, n)) for n in (1, 2, 3)]
    found = columns(pipeline.table("gold.updated_stocks"), "Date", "Close", "Close_Diff")
    assert found == [(date(2024, 1, n), money(str(n + n // 2)), money(str(4 - n - n // 2))) for n in (1, 2, 3)]
    assert len(pipeline.table("gold.index_returns")) == 3


def test_an_index_without_current_close_stays(pipeline: Pipeline) -> None:
    """Q15: a day whose index has no current close was dropped for ever; here its latest close is NULL until there is one."""
    pipeline.send(MESSAGES[0])
    pipeline.run()
    pipeline.send(MESSAGES[2])
    pipeline.run("bronze.stocks", "silver.stocks", "silver.stocks_close")
    ours, theirs = money("100.5"), money("200.25")
    found = columns(pipeline.table("silver.stocks_close"), "Index", "Close", "Latest_Close")
    assert found == [("NASDAQ", theirs, None), ("SP500", ours, ours)]
    pipeline.run()
    found = columns(pipeline.table("silver.stocks_close"), "Index", "Close", "Latest_Close")
    assert found == [("NASDAQ", theirs, theirs), ("SP500", ours, ours)]


def test_the_latest_close_follows(pipeline: Pipeline) -> None:
    """Q14, Q15: rows that were there before get the new close; it was frozen when they were loaded."""
    pipeline.send(*MESSAGES)
    pipeline.run()
    pipeline.send(message("SP500", "2024-01-04", "150.25"))
    written = pipeline.run()
    found = columns(pipeline.table("silver.stocks_close"), "Index", "Close", "Latest_Close", "Latest_Adj_Close")
    latest = money("150.25")
    assert found == [
        ("NASDAQ", money("200.25"), money("200.25"), money("200.25")),
        *(("SP500", money(close), latest, latest) for close in ("100.5", "101", "150.25")),
    ]
    assert written["silver.stocks_close"].plan.mode == "keys"


def test_a_late_day_that_changes_nothing_current_moves_no_other_row(pipeline: Pipeline) -> None:
    """Q10, Q15: only the keys that changed are refreshed downstream."""
    pipeline.send(*MESSAGES)
    pipeline.run()
    before = columns(pipeline.table("gold.updated_stocks"), "Index", "Date", "Close_Diff")
    pipeline.send(message("SP500", "2023-12-29", "90"))
    pipeline.run()
    after = columns(pipeline.table("gold.updated_stocks"), "Index", "Date", "Close_Diff")
    assert set(after) - set(before) == {("SP500", date(2023, 12, 29), money("11"))}
    assert set(before) < set(after)


def test_close_diff_is_of_the_right_row(pipeline: Pipeline) -> None:
    """Q16: every row names its own index, and the difference is exact: newest close minus the close of the day."""
    pipeline.send(*MESSAGES)
    pipeline.run()
    assert columns(pipeline.table("gold.updated_stocks"), "Index", "Date", "Close_Diff") == [
        ("NASDAQ", date(2024, 1, 2), money("0")),
        ("SP500", date(2024, 1, 2), money("0.5")),
        ("SP500", date(2024, 1, 3), money("0")),
    ]


def test_a_message_that_was_sent_twice_counts_once(pipeline: Pipeline) -> None:
    """Q9, Q12: bronze holds both, the tables that people read hold the day once."""
    pipeline.send(*MESSAGES, *MESSAGES)
    pipeline.run()
    assert len(pipeline.table("bronze.stocks")) == 6
    assert len(pipeline.table("gold.updated_stocks")) == len(pipeline.table("gold.index_returns")) == 3


def test_nothing_new_writes_nothing(pipeline: Pipeline) -> None:
    """A run without new messages makes no batch."""
    pipeline.send(*MESSAGES)
    pipeline.run()
    assert pipeline.run() == {}


def test_starting_over_gives_the_same_tables(pipeline: Pipeline) -> None:
    """Q17: every table and its plans are started over together, and hold what they held."""
    pipeline.send(*MESSAGES, b"{")
    pipeline.run()
    pipeline.send(message("SP500", "2024-01-01", "99"))
    pipeline.run()
    names = ("silver.stocks", "silver.close_price", "gold.updated_stocks", "gold.index_returns")
    before = {name: Counter(map(repr, pipeline.table(name))) for name in names}
    pipeline.run(rebuild=True)
    assert {name: Counter(map(repr, pipeline.table(name))) for name in names} == before
    assert pipeline.run() == {}


def test_returns(pipeline: Pipeline) -> None:
    """gold.index_returns: changes since the day before and since the last day of the month before, and the drawdown."""
    prices = {"2024-01-30": 100.0, "2024-01-31": 110.0, "2024-02-01": 99.0, "2024-02-29": 121.0, "2024-03-01": 60.5}
    pipeline.send(*(message("SP500", day, str(price)) for day, price in prices.items()))
    pipeline.run()
    rows = sorted(pipeline.table("gold.index_returns"), key=lambda row: row["Date"])
    assert [row["daily_return"] for row in rows] == _close([None, 0.1, -0.1, 121 / 99 - 1, -0.5])
    assert [row["monthly_return"] for row in rows] == _close([None, None, -0.1, 0.1, -0.5])
    assert [row["drawdown"] for row in rows] == _close([0, 0, -0.1, 0, -0.5])


def _close(values: list[float | None]) -> list[Any]:
    return [None if value is None else pytest.approx(value, abs=1e-9) for value in values]


def test_the_schedule_runs_in_amsterdam() -> None:
    """Q18: 08:37 every day, in the time zone of Amsterdam."""
    (bronze,) = shipped().destinations[TableName("bronze", "stocks")]
    schedule = bronze.lakehouse.schedule
    assert schedule is not None
    assert (schedule.cron, schedule.timezone) == ("37 8 * * *", "Europe/Amsterdam")


def test_the_order_of_the_tables() -> None:
    """Q19: bronze, then prices, then their history and what is derived of it."""
    catalog = shipped()
    ups = {str(t): sorted(map(str, catalog.upstreams(t))) for t in catalog.select("group:stocks")}
    assert ups == {
        "bronze.stocks": [],
        "silver.stocks": ["bronze.stocks"],
        "silver.close_price": ["silver.stocks"],
        "silver.current_close": ["silver.close_price"],
        "silver.stocks_close": [
            "silver.close_price",
            "silver.close_price_quarantine",
            "silver.current_close",
            "silver.stocks",
        ],
        "gold.updated_stocks": ["silver.stocks_close"],
        "gold.index_returns": ["silver.stocks_close"],
    }


DAYS = st.integers(1, 6).map(lambda day: f"2024-01-{day:02}")
PRICES = st.builds(
    message, st.sampled_from(["SP500", "NASDAQ", None]), DAYS, st.sampled_from(["1", "1.0", "2", "3.25", "x"])
)
ANY = st.one_of(PRICES, st.sampled_from([None, b"", b"{", b'{"Index":"SP500"}']))


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(ANY, min_size=1, max_size=14), st.lists(st.integers(1, 5), min_size=1), st.randoms(use_true_random=False)
)
def test_order_and_batches_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, values: list[bytes | None], cuts: list[int], chance: random.Random
) -> None:
    """Q10, Q11, Q12: any order and any batches of the same messages end in the tables of the model."""
    model, shuffled = Model(tuple(values)), list(values)
    chance.shuffle(shuffled)
    pipeline, sizes = Pipeline(tmp_path_factory.mktemp("any")), itertools.cycle(cuts)
    while shuffled:
        size = next(sizes)
        pipeline.send(*shuffled[:size])
        shuffled = shuffled[size:]
        pipeline.run()
    assert pipeline.history() == model.history()
    names = ("Index", "Date", "Close", "Adj_Close", "Latest_Close", "Latest_Adj_Close", "Close_Diff")
    assert columns(pipeline.table("gold.updated_stocks"), *names) == model.beside()
    assert len(pipeline.table("silver.stocks")) == len(model.events())
    assert len(pipeline.table("silver.stocks_quarantine")) == len(values) - len(model.events())
    drawdowns = [row["drawdown"] for row in pipeline.table("gold.index_returns")]
    assert all(math.isfinite(value) and value <= 0 for value in drawdowns)
