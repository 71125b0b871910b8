"""Runs a run's steps in this process, or each in one of its own where they only wait for Databricks.

The two engines of a laptop would stand in each other's way; steps on clusters do not, so they run side by side. What
belongs here: this choice. What does not: where a step runs (`launcher.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
from dagster._core.execution.api import ExecutionPlan
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.base import Executor
from dagster._core.executor.in_process import InProcessExecutor
from dagster._core.executor.multiprocess import MultiprocessExecutor

from lakehouse_assets.databricks.launcher import target_of

MODULES = ["lakehouse_assets.definitions", "lakehouse_assets.databricks.step"]
"""What each step's process needs: loaded once for all of them."""


class ByTarget(Executor):
    """Delegates by the target of the run.

    Args:
        target: of runs without the tag `lakehouse/target`.
        max_concurrent: how many steps of a run may be on Databricks at once; 1 needs no further process.
    """

    def __init__(self, target: str, max_concurrent: int) -> None:
        self._target, self._max_concurrent = target, max_concurrent

    @property
    def retries(self) -> RetryMode:
        """Steps are tried again as their own policies say."""
        return RetryMode.ENABLED

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[dg.DagsterEvent]:
        """Execute the plan.

        Raises:
            SettingsError: the run's tag names no target.
        """
        here = target_of(plan_context.dagster_run.tags, self._target) == "local" or self._max_concurrent == 1
        chosen = InProcessExecutor(self.retries) if here else self._apart()
        yield from chosen.execute(plan_context, execution_plan)

    def _apart(self) -> MultiprocessExecutor:
        return MultiprocessExecutor(
            self.retries, self._max_concurrent, start_method="forkserver", explicit_forkserver_preload=MODULES
        )


def by_target(target: str) -> dg.ExecutorDefinition:
    """The executor of a graph: in process where a run's target is local, else a process for each step.

    Args:
        target: of runs without the tag `lakehouse/target`.
    """

    @dg.executor(
        name="by_target",
        config_schema={
            "max_concurrent": dg.Field(int, default_value=4, description="How many steps may be on Databricks at once")
        },
    )
    def made(init_context: dg.InitExecutorContext) -> Executor:
        return ByTarget(target, int(init_context.executor_config["max_concurrent"]))  # type: ignore[call-overload]

    return made
