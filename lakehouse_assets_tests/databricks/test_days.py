"""Days of tables on Databricks: the days of a run reach the step, by Pipes and by the launcher, and come back told.

The workspace and the kdb+ process are stand-ins; engines, Delta, Dagster and the processes are real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from dagster_pipes import PipesContext, PipesUnityCatalogVolumesContextLoader
from dagster_pipes import encode_param as encoded
from deltalake import DeltaTable

from lakehouse_assets.databricks import pipes_main
from lakehouse_assets.simulators.kdb import KdbServer
from lakehouse_assets.simulators.kdb_config import KdbConfig
from lakehouse_assets.simulators.workspace.server import Options, serve
from lakehouse_assets_tests.conftest import need_spark
from lakehouse_assets_tests.databricks.lab import LAKE, TARGET, Ended, Lab

RUNTIME = "15.4.x-scala2.12"
PIPES = {"via": "pipes", "compute": {"serverless": {"environment_version": "2"}}}
DAYS = tuple(date(2018, 12, day) for day in (19, 20, 21))
FIRST, SECOND, LAST = map(str, DAYS)
RANGE = {"dagster/asset_partition_range_start": SECOND, "dagster/asset_partition_range_end": LAST}
MARKET = """
delta_live_store:
  - entity_id: xt
    source: trade
    source_format: kdb
    destination: extract.trade
    group: market
    read_options: {kdb.host: 127.0.0.1, kdb.port: PORT, kdb.partition: date}
    lakehouse: {partitions: {cadence: daily, start: "2018-12-03"}}
  - entity_id: t
    source: extract.trade
    source_format: dlt
    destination: bronze.trades
    group: market
    partition_cols: [date]
"""


@pytest.fixture(scope="module", name="kdb")
def _kdb() -> Iterator[KdbServer]:
    with KdbServer(KdbConfig(dates=DAYS, rows=100)) as found:
        yield found


def catalog(kdb: KdbServer) -> str:
    """The market in small, from the stand-in."""
    return MARKET.replace("PORT", str(kdb.port))


@pytest.mark.parametrize("sender", ["ours", "another"])
def test_pipes_makes_the_days_of_the_run(
    kdb: KdbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sender: str
) -> None:
    """A range of days comes with what we send, or the context of Pipes: it is made, each day sent back by itself."""
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "market.yaml").write_text(catalog(kdb))
    for name in ("catalog", "root"):
        monkeypatch.setenv(f"LAKEHOUSE_{name.upper()}", str(tmp_path / name))
    for asset in ("extract/trade", "bronze/trades"):
        sent = piped(tmp_path, asset, ours=sender == "ours")
        days = [json.loads(text) for text in sent]
        assert [day["partition"] for day in days] == [SECOND, LAST], asset
        assert all(day["tags"]["dagster/data_version"] for day in days)
    assert sorted(path.name for path in (tmp_path / "root" / "extract" / "trade").iterdir()) == [
        f"date={SECOND}",
        f"date={LAST}",
    ]


def piped(base: Path, asset: str, *, ours: bool) -> list[str]:
    """The days that a step's work on a cluster sends back."""
    place = base / asset
    (place / "messages").mkdir(parents=True)
    days = {"start": SECOND, "end": LAST}
    context = {
        "asset_keys": [asset], "code_version_by_asset_key": {}, "provenance_by_asset_key": {}, "run_id": "run",
        "partition_key": None, "partition_key_range": None if ours else days, "partition_time_window": None,
        "job_name": "job", "retry_number": 0, "extras": {pipes_main.SENT: {"days": list(days.values())}} if ours else {},
    }  # fmt: skip
    (place / "context.json").write_text(json.dumps(context))
    given = (encoded({"path": str(place / "context.json")}), encoded({"path": str(place / "messages")}))
    loader = PipesUnityCatalogVolumesContextLoader()
    with PipesContext(pipes_main.params_of(*given), loader, pipes_main.MessageFiles()) as pipes:
        pipes_main.work(pipes, {})
    lines = [json.loads(line) for file in (place / "messages").iterdir() for line in file.read_text().split("\n")]
    told = [line["params"]["payload"] for line in lines if line.get("method") == "report_custom_message"]
    return [payload[pipes_main.DAY] for payload in told if pipes_main.DAY in payload]


def told(ended: Ended, asset: str) -> list[str]:
    """The version of every materialization of an asset, in order."""
    found = ended.of("ASSET_MATERIALIZATION")
    return [str(event["tags"]["dagster/data_version"]) for event in found if event["asset"] == asset]


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.timeout(240)
@pytest.mark.parametrize("via", ["launcher", "pipes"])
def test_a_launched_step_makes_the_days_of_its_run(sdk: None, kdb: KdbServer, tmp_path: Path, via: str) -> None:
    """The tags of a run travel with its step: two days are made there, and told here one by one after the range."""
    need_spark()
    with serve(Options(directory=tmp_path / "ws", token="dapi-of-days")) as workspace:
        for volume in ("main.ops.staging", "main.lake.tables"):
            workspace.make_volume(volume)
        cluster = workspace.add_cluster(spark_version=RUNTIME, data_security_mode="SINGLE_USER")
        compute = PIPES["compute"] if via == "pipes" else {"existing_cluster": cluster}
        lab = Lab(tmp_path / "lab", workspace, compute, lake=f"{LAKE}/days", config={"via": via})  # type: ignore[arg-type]
        (lab.base / "catalog" / "market.yaml").write_text(catalog(kdb))
        ended = lab.run("extract/trade", "bronze/trades", tags={**TARGET, **RANGE})
        assert ended.status == "SUCCESS", ended.text[-3000:]
        for asset in ("extract/trade", "bronze/trades"):
            versions = told(ended, asset)
            assert versions[:2] == ["", ""]
            assert len([version for version in versions[2:] if version]) == 2
        made = DeltaTable(str(workspace.path(f"{lab.lake}/bronze/trades"))).to_pyarrow_table()
        assert {str(day) for day in made["date"].to_pylist()} == {SECOND, LAST}
