"""The stocks pipeline in Dagster: lag, schedule, producer, chart and reset, over librdkafka's mock cluster.

The mock cluster is a stand-in (see `simulators/kafka_mock.py`); what a broker does is proven with a real one elsewhere.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lakehouse_assets.assets.naming import source_key
from lakehouse_assets.assets.resources import LakehouseResource, Project
from lakehouse_assets.assets.step import CONFIRM_TAG
from lakehouse_assets.build import build_defs
from lakehouse_assets.entities.catalog import Catalog, load_catalog, parse_catalog
from lakehouse_assets.entities.model import TableName
from lakehouse_assets.settings import PACKAGED_CATALOG, Settings
from lakehouse_assets.simulators.kafka_mock import VERSION, mock_cluster

LIMITED = """
delta_live_store:
  - entity_id: limited
    source: Stocks
    source_format: kafka
    destination: bronze.limited
    read_options: {kafka.bootstrap.servers: "${LAKEHOUSE_KAFKA}", kafka.api.version: "2.0"}
    lakehouse: {lag: {warn: 1, fail: 3}}
"""


@pytest.fixture(scope="module", name="address")
def _address() -> Iterator[str]:
    with mock_cluster() as address:
        yield address


class Graph:
    """The definitions over a lake, and what is asked of them."""

    def __init__(self, base: Path, instance: dg.DagsterInstance, catalog: Catalog, environ: dict[str, str]) -> None:
        self.instance, self.catalog = instance, catalog
        self.settings = Settings(root=str(base / "lake"))
        self.project = Project(self.settings, catalog, environ)
        self.defs = build_defs(self.settings, catalog, environ)

    def job(self, name: str, **how: Any) -> dg.ExecuteInProcessResult:
        """Run a job as the UI would; failures are in the result."""
        found = self.defs.resolve_job_def(name)
        return found.execute_in_process(instance=self.instance, raise_on_error=False, **how)

    def tick(self, sensor: str, cursor: str | None = None) -> Any:
        """One tick of a sensor."""
        context = dg.build_sensor_context(
            self.instance, cursor=cursor, definitions=self.defs, sensor_name=sensor,
            resources={"lakehouse": LakehouseResource.of(self.settings)},
        )  # fmt: skip
        return self.defs.resolve_sensor_def(sensor).evaluate_tick(context)

    def count(self, table: str) -> int:
        """The rows of a table; -1 if it is not there."""
        with LakehouseResource.of(self.settings).open(self.project) as work:
            handle = work.engine.find(work.uri(TableName(*table.split("."))))
            return -1 if handle is None else len(work.engine.rows(work.engine.read(handle)))


@pytest.fixture(name="topic")
def _topic(request: pytest.FixtureRequest) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in request.node.name)[:60]


@pytest.fixture(name="graph")
def _graph(tmp_path: Path, instance: dg.DagsterInstance, address: str, topic: str) -> Graph:
    environ = {"LAKEHOUSE_KAFKA": address, "LAKEHOUSE_KAFKA_VERSION": VERSION, "LAKEHOUSE_KAFKA_TOPIC": topic}
    return Graph(tmp_path, instance, load_catalog(PACKAGED_CATALOG, environ), environ)


def produced(graph: Graph, last_date: str = "1999-01-08", **config: Any) -> dg.ExecuteInProcessResult:
    """A run of the producer."""
    given = {"first_date": "1999-01-01", "last_date": last_date, **config}
    return graph.job("produce_prices", run_config={"ops": {"produce": {"config": given}}})


def event(result: Any, kind: type) -> Any:
    """The only event of a kind that a tick reports."""
    (found,) = (one for one in result.asset_events if isinstance(one, kind))
    return found


def test_the_producer_job_adds_nothing_twice(graph: Graph) -> None:
    """Q2: the producer is a job; what the topic holds is not sent again."""
    assert produced(graph).success
    assert graph.job("stocks_job").success
    first = graph.count("bronze.stocks")
    assert first > 0
    assert produced(graph).success
    assert graph.job("stocks_job").success
    assert graph.count("bronze.stocks") == first


def test_a_producer_that_fails_says_why(graph: Graph) -> None:
    """The error of the producer is the failure of the run."""
    result = produced(graph, csv="/nowhere/prices.csv")
    assert not result.success
    failed = next(entry for entry in result.all_events if entry.is_step_failure)
    assert "/nowhere/prices.csv" in str(failed.event_specific_data)


def test_the_lag_sensor_tells_what_waits(graph: Graph, topic: str) -> None:
    """The lag of a topic is an observation of the source and a verdict; told once, and again when it has changed."""
    produced(graph)
    (feed,) = graph.catalog.destinations[TableName("bronze", "stocks")]
    told = graph.tick(f"lag_{topic}")
    waiting = event(told, dg.AssetObservation)
    assert waiting.asset_key == source_key(feed)
    lag = waiting.metadata["lag"].value
    assert lag > 0
    assert sum(waiting.metadata["lag_by_part"].value.values()) == lag
    verdict = event(told, dg.AssetCheckEvaluation)
    assert (verdict.check_name, verdict.asset_key, verdict.passed) == ("lag", dg.AssetKey(["bronze", "stocks"]), True)
    assert not graph.tick(f"lag_{topic}", told.cursor).asset_events
    graph.job("stocks_job")
    assert event(graph.tick(f"lag_{topic}", told.cursor), dg.AssetObservation).metadata["lag"].value == 0


@pytest.mark.parametrize(("rows", "passed", "severity"), [(1, True, "WARN"), (2, False, "WARN"), (9, False, "ERROR")])
def test_lag_is_judged_by_its_limits(
    tmp_path: Path, instance: dg.DagsterInstance, address: str, topic: str, rows: int, passed: bool, severity: str
) -> None:
    """`lakehouse: {lag: …}`: more messages than that warn, or fail."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": address})
    for number in range(rows):
        producer.produce(topic, str(number).encode())
    producer.flush()
    environ = {"LAKEHOUSE_KAFKA": address}
    catalog = parse_catalog({"limited.yaml": LIMITED.replace("Stocks", topic)}, {}, environ)
    verdict = event(Graph(tmp_path, instance, catalog, environ).tick(f"lag_{topic}"), dg.AssetCheckEvaluation)
    assert (verdict.passed, verdict.metadata["lag"].value) == (passed, rows)
    assert passed or verdict.severity.value == severity


@pytest.mark.slow
def test_a_broker_that_does_not_answer_stops_no_sensor(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    """A tick without a broker ends in order: the check fails once for each outage, and every tick says why."""
    environ = {"LAKEHOUSE_KAFKA": "127.0.0.1:1"}
    graph = Graph(tmp_path, instance, load_catalog(PACKAGED_CATALOG, environ), environ)
    told = graph.tick("lag_Stocks")
    verdict = event(told, dg.AssetCheckEvaluation)
    assert not verdict.passed
    assert "127.0.0.1:1" in verdict.metadata["problem"].value
    again = graph.tick("lag_Stocks", told.cursor)
    assert not again.asset_events
    assert "127.0.0.1:1" in again.skip_message


def test_a_run_reports_lag_and_draws(graph: Graph) -> None:
    """The run's own check tells the lag that is left, and gold.index_returns carries its chart as a picture."""
    produced(graph)
    result = graph.job("stocks_job")
    assert result.success
    lag = next(one for one in result.get_asset_check_evaluations() if one.check_name == "lag")
    assert (lag.passed, lag.metadata["lag"].value) == (True, 0)
    (made,) = result.asset_materializations_for_node("gold__index_returns")
    text = made.metadata["chart"].value
    picture = base64.b64decode(text.partition("base64,")[2].rstrip(")"))
    assert picture.startswith(b"\x89PNG")


def test_reset_asks_for_confirmation(graph: Graph) -> None:
    """Q17: a reset without the tag fails before anything is touched, and names the tag."""
    produced(graph)
    graph.job("stocks_job")
    before = graph.count("bronze.stocks")
    result = graph.job("stocks_reset")
    assert not result.success
    failed = next(entry for entry in result.all_events if entry.is_step_failure)
    said = str(failed.event_specific_data)
    assert CONFIRM_TAG in said
    assert "'stocks'" in said
    assert graph.count("bronze.stocks") == before
    assert not list(result.get_asset_materialization_events())


def test_reset_starts_tables_and_plans_over(graph: Graph) -> None:
    """Q17: with the tag every table is made again from the topic, and the next run finds nothing new."""
    produced(graph)
    graph.job("stocks_job")
    names = ("bronze.stocks", "silver.stocks", "silver.close_price", "gold.updated_stocks", "gold.index_returns")
    before = {name: graph.count(name) for name in names}
    result = graph.job("stocks_reset", tags={CONFIRM_TAG: "stocks"})
    assert result.success
    assert {name: graph.count(name) for name in names} == before
    (bronze,) = result.asset_materializations_for_node("bronze__stocks")
    assert bronze.metadata["plans"].value[0]["rebuild"] is True
    again = graph.job("stocks_job")
    assert again.asset_materializations_for_node("bronze__stocks")[0].metadata["batches"].value == 0


def test_the_daily_schedule_names_the_bronze_table(graph: Graph) -> None:
    """Q18: 08:37 in Amsterdam, whatever the season."""
    (found,) = (
        schedule
        for schedule in graph.defs.get_repository_def().schedule_defs
        if schedule.execution_timezone == "Europe/Amsterdam"
    )
    assert found.cron_schedule == "37 8 * * *"
    (request,) = found.evaluate_tick(dg.build_schedule_context(graph.instance)).run_requests or ()
    assert request.asset_selection == [dg.AssetKey(["bronze", "stocks"])]
