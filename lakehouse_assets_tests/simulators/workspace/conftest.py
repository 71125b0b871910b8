"""Workspaces for tests: a fresh one, and one with a warm cluster for those that need Spark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lakehouse_assets_tests.conftest import need, need_spark
from lakehouse_assets_tests.simulators.workspace.lab import Lab, hollow, laboratory


@pytest.fixture(scope="session")
def sdk() -> None:
    """The Databricks SDK, unmodified."""
    try:
        import databricks.sdk
    except ImportError:
        databricks = None
    need(databricks is not None, "the Databricks SDK", "`make setup-jvm`")


@pytest.fixture
def lab(tmp_path: Path, sdk: None) -> Iterator[Lab]:
    """A workspace with nothing in it but a volume, whose clusters have no Spark."""
    with laboratory(tmp_path / "ws", runtimes=hollow(tmp_path / "runtime")) as lab:
        yield lab


@pytest.fixture(scope="package")
def warm(tmp_path_factory: pytest.TempPathFactory, sdk: None) -> Iterator[Lab]:
    """One workspace for all tests that run tasks: its clusters start once."""
    need_spark()
    with laboratory(tmp_path_factory.mktemp("warm") / "ws") as lab:
        lab.workspace.put_secret("scope", "key", "nobody-may-see-this")
        yield lab


@pytest.fixture(scope="package")
def cluster(warm: Lab) -> str:
    """An all-purpose cluster of the warm workspace."""
    return warm.workspace.add_cluster(
        spark_version="4.2",
        data_security_mode="SINGLE_USER",
        spark_conf={"spark.lab.secret": "{{secrets/scope/key}}"},
        spark_env_vars={"LAB_PLAIN": "plain", "LAB_SECRET": "{{secrets/scope/key}}"},
        cluster_log_conf={"dbfs": {"destination": "dbfs:/logs"}},
    )


@pytest.fixture
def oldest(warm: Lab) -> Lab:
    """The workspace, where the oldest runtime is installed."""
    runtime = warm.workspace.options.runtimes["15.4.x-scala2.12"]
    need(runtime.missing() is None, "the oldest runtime", f"`{runtime.setup}`")
    return warm
