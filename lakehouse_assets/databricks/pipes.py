"""Whether a step's work goes to Databricks through Dagster Pipes: as its run's tag and the configuration say.

With `via: pipes` a step stays here and sends its work: nothing is pickled, so the cluster may have another minor
version of Python, and what it read is known here. Loading this imports nothing of Databricks. What belongs here: the
choice. What does not: sending and following the work (`pipes_client.py`), doing it on the cluster (`pipes_main.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.errors import DagsterError, DagsterExecutionInterruptedError

from lakehouse_assets.assets.step import Event, failures
from lakehouse_assets.databricks.config import DatabricksConfig, read_config
from lakehouse_assets.databricks.launcher import check_run_config, make, target_of
from lakehouse_assets.entities.catalog import Catalog
from lakehouse_assets.settings import Settings

if TYPE_CHECKING:
    from lakehouse_assets.databricks.pipes_client import Done


class Cancelled(DagsterError, DagsterExecutionInterruptedError):
    """The step was interrupted, and is not to be tried again.

    In a step with a retry policy Dagster takes an interrupt for something to be retried; not so an error of its own.
    """


Cancelled.__name__ = DagsterExecutionInterruptedError.__name__  # by which the multiprocess executor knows an interrupt


class Pipes:
    """Sends the work of steps to Databricks, where the run and the configuration say so.

    Args:
        settings: say what is the target of runs without a tag, and name the configuration.
        catalog: what the graph was made from; a snapshot of it is sent along.
    """

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings, self._catalog = settings, catalog

    def __call__(self, context: dg.AssetExecutionContext) -> Iterator[Event] | None:
        """What the step yields when its work was done there; `None`: it is not to be sent by Pipes.

        Raises:
            dagster.Failure: the configuration is not legal.
        """
        if self._settings.databricks is None:  # so it is on a cluster, too
            return None
        with failures():
            if target_of(context.run.tags, self._settings.target) == "local":
                return None
            config = read_config(self._settings.databricks, os.environ)
        return self._sent(context, config) if config.via == "pipes" else None

    def _sent(self, context: dg.AssetExecutionContext, config: DatabricksConfig) -> Iterator[Event]:
        try:
            with failures():
                done = self._done(context, config)
        except DagsterExecutionInterruptedError as error:
            raise Cancelled("the step was interrupted while its work was on Databricks") from error
        yield from done.events
        for day in done.days:
            context.log_event(day)
        if done.failure is not None:
            raise done.failure from done.cause

    def _done(self, context: dg.AssetExecutionContext, config: DatabricksConfig) -> Done:
        run_config = context.get_step_execution_context().run_config
        check_run_config(run_config)
        asked = run_config.get("resources", {}).get("lakehouse", {}).get("config", {}).get("root")
        config = config.model_copy(update={"root": asked}) if asked else config
        launcher = make(config, self._catalog, self._settings.root)
        from lakehouse_assets.databricks.pipes_client import PipesLaunch

        return PipesLaunch(launcher, config, context).done()
