"""The configuration of Databricks: what it may hold, and how each fault is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakehouse_assets.databricks.config import DatabricksConfig, reachable, read_config
from lakehouse_assets.errors import SettingsError

SERVERLESS = """
volume: /Volumes/main/ops/lakehouse
compute: {serverless: {environment_version: "2"}}
"""


def read(tmp_path: Path, text: str, **environ: str) -> DatabricksConfig:
    """The configuration that a text is."""
    file = tmp_path / "databricks.yaml"
    file.write_text(text)
    return read_config(file, environ)


def refused(tmp_path: Path, text: str) -> str:
    """What is said of a text that is not legal."""
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    return str(caught.value)


def test_the_least_that_is_needed(tmp_path: Path) -> None:
    """A volume and a compute are enough; the rest has defaults."""
    config = read(tmp_path, SERVERLESS)
    assert (config.transport, config.poll_seconds, config.run_timeout) == ("volumes", 5.0, 7200)
    assert config.compute.serverless is not None


def test_variables_are_replaced(tmp_path: Path) -> None:
    """`${VAR}` and `${VAR:-default}` stand for values of the environment."""
    text = SERVERLESS + "host: ${WORKSPACE}\nroot: ${LAKE:-s3://bucket/lake}\n"
    config = read(tmp_path, text, WORKSPACE="https://example.cloud.databricks.com")
    assert (config.host, config.root) == ("https://example.cloud.databricks.com", "s3://bucket/lake")


def test_every_fault_is_told_with_its_line(tmp_path: Path) -> None:
    """All faults come at once, each with file, line and key."""
    text = 'volume: /mnt/x\npool_seconds: 1\nrun_timeout: 0\ncompute: {serverless: {environment_version: "2"}}\n'
    said = refused(tmp_path, text)
    assert "databricks.yaml:1: volume: must be a path in a volume" in said
    assert "databricks.yaml:2: unknown key 'pool_seconds'" in said
    assert "poll_seconds" in said
    assert "databricks.yaml:3: run_timeout" in said


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("volume: /Volumes/a/b/c\ncompute: {}\n", "exactly one of job_cluster, existing_cluster, serverless"),
        (SERVERLESS.replace("volume:", "transport: dbfs\n#"), "serverless compute cannot read the DBFS root"),
        ("compute: {existing_cluster: abc}\n", "transport volumes needs `volume:"),
        ("transport: dbfs\ncompute: {job_cluster: {num_workers: 1}}\n", "needs a spark_version"),
        (SERVERLESS + "token: dapi123\n", "must be a reference to a secret"),
        (SERVERLESS + "env: {DB_PASSWORD: x}\n", "DB_PASSWORD: a secret belongs into `secrets:`"),
        (SERVERLESS + "env: {A: x}\nsecrets: {A: {scope: s, key: k}}\n", "A stands in env and in secrets"),
        (SERVERLESS + "root: demo/lake\n", "a cluster cannot reach the root 'demo/lake'"),
        (SERVERLESS + "permissions: {cluster: {CAN_MANAGE: [{group_name: x}]}}\n", "is for job clusters"),
        (SERVERLESS + "permissions: {run: {CAN_VIEW: [{}]}}\n", "exactly one of user_name, group_name"),
        ("transport: dbfs\nstaging_prefix: /Volumes/x\ncompute: {existing_cluster: a}\n", "absolute path of DBFS"),
        (
            "volume: /Volumes/a/b/c\ncompute: {job_cluster: {spark_version: x, spark_conf: {my.password: y}}}\n",
            "job_cluster.spark_conf: my.password: write {{secrets/scope/key}}",
        ),
        (SERVERLESS + "root: /Volumes/a/b/c/d\nunity_catalog: main\n", "tables cannot be registered in a volume"),
        (SERVERLESS + "root: /Volumes/main/ops/lakehouse/tables\n", "root and volume stand in one another"),
        (SERVERLESS + "root: /Volumes/main/ops\n", "a cluster cannot reach the root"),
        (SERVERLESS.replace("lakehouse", "x/../y"), "must be a path in a volume"),
        (SERVERLESS + "libraries: ['--index-url https://u:pw@x']\n", "must name a package as pip does"),
        (SERVERLESS + "poll_seconds: 600\nlost_after: 5\n", "poll_seconds must not be longer than lost_after"),
        (SERVERLESS + "env: {MY_API_KEY: x}\n", "MY_API_KEY: a secret belongs into `secrets:`"),
        ("- a\n", "must hold keys and values"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, text: str, part: str) -> None:
    """What contradicts itself, or could not work there, is refused when it is read."""
    assert part in refused(tmp_path, text)


def test_a_secret_in_clear_is_not_repeated(tmp_path: Path) -> None:
    """Design §7.9: the message about a token in clear does not hold it."""
    assert "dapi123" not in refused(tmp_path, SERVERLESS + "token: dapi123\n")


def test_numbers_of_a_cluster_are_numbers(tmp_path: Path) -> None:
    """Numbers and flags reach the API as such, settings of Spark as text."""
    text = (
        "volume: /Volumes/a/b/c\ncompute: {job_cluster: {spark_version: 15.4.x-scala2.12, autoscale: {min_workers: 1},"
        " enable_elastic_disk: true, spark_conf: {spark.sql.shuffle.partitions: 8}}}\n"
    )
    spec = read(tmp_path, text).compute.job_cluster
    assert spec is not None
    assert (spec["autoscale"], spec["enable_elastic_disk"]) == ({"min_workers": 1}, True)
    assert spec["spark_conf"] == {"spark.sql.shuffle.partitions": "8"}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The message names the file and its setting."""
    with pytest.raises(SettingsError, match=r"LAKEHOUSE_DATABRICKS: .*none\.yaml"):
        read_config(tmp_path / "none.yaml", {})


@pytest.mark.parametrize(
    ("root", "can"),
    [
        ("s3://bucket/lake", True),
        ("abfss://c@a.dfs.core.windows.net/lake", True),
        ("/Volumes/main/lake/tables", True),
        ("/Volumes/main/lake", False),
        ("lake", False),
        ("/data/lake", False),
        ("file:///data/lake", False),
        ("dbfs:/lake", False),
    ],
)
def test_roots_that_a_cluster_reaches(root: str, can: bool) -> None:
    """An object store or a volume; never a directory of this machine."""
    assert reachable(root) is can
