"""A project of two assets that do nothing, each sent to Databricks by another launcher: for `launched_steps.py`.

It is copied to the cluster as it is, so it imports nothing but Dagster before a step is sent. What belongs here: the
same step for ours and for the launcher of dagster-databricks. What does not: measuring.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import dagster as dg

STOCK = "BENCH_STOCK"
"""The variable with what the stock launcher is told: host, token, cluster, poll_seconds."""


class Ours(dg.ConfigurableResource, dg.StepLauncher):
    """The project's launcher, which is made for each step, as the project makes it."""

    def launch_step(self, step_context: Any) -> Iterator[dg.DagsterEvent]:
        """Send a step, with this file beside the package."""
        from lakehouse_assets.databricks.config import read_config
        from lakehouse_assets.databricks.launcher import make
        from lakehouse_assets.entities.catalog import load_catalog

        config = read_config(Path(os.environ["LAKEHOUSE_DATABRICKS"]), os.environ)
        launcher = make(config, load_catalog(Path(os.environ["LAKEHOUSE_CATALOG"]), os.environ), "")
        held = io.BytesIO(launcher.package.data)
        with zipfile.ZipFile(held, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.write(__file__, "nothing.py")
        data = held.getvalue()
        launcher.package = replace(launcher.package, data=data, sha256=sha256(data).hexdigest())
        yield from launcher.launch_step(step_context)


@dg.resource
def stock(_: Any) -> Any:
    """The launcher of dagster-databricks; it is made on the cluster, too, and wants the same there."""
    from dagster_databricks.databricks_pyspark_step_launcher import DatabricksPySparkStepLauncher

    told = json.loads(os.environ[STOCK])
    return DatabricksPySparkStepLauncher(
        run_config={"run_name": "nothing", "cluster": {"existing": told["cluster"]}},
        permissions={},
        databricks_host=told["host"],
        databricks_token=told["token"],
        secrets_to_env_variables=[],
        env_variables={STOCK: os.environ[STOCK]},
        staging_prefix="/stock_staging",
        wait_for_logs=False,
        max_completion_wait_time_seconds=600,
        poll_interval_sec=told["poll_seconds"],
        local_dagster_job_package_path=str(Path(__file__).parent),
    )


@dg.asset(required_resource_keys={"stock"})
def by_stock() -> None:
    """Nothing, sent by the stock launcher."""


@dg.asset(required_resource_keys={"ours"})
def by_ours() -> None:
    """Nothing, sent by ours."""


@dg.definitions
def defs() -> dg.Definitions:
    """Both assets."""
    resources = {"stock": stock, "ours": Ours()}
    return dg.Definitions([by_stock, by_ours], resources=resources, executor=dg.in_process_executor)
