"""One step's work on Databricks through Dagster Pipes: sent, followed to its end, and what it reported.

It is the launcher's way of staging, submitting, cancelling and losing patience with a run, with Pipes messages in place
of pickled steps and their events. Dagster's own Pipes clients are not used: they take an interrupt for a success, read
messages in a thread that outlives the run, and wait ten seconds for each. What belongs here: the orchestrator's side.
What does not: the cluster's side (`pipes_main.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster import open_pipes_session
from dagster._core.pipes.context import PipesMessageHandler, PipesSession
from dagster._serdes import deserialize_value, serialize_value
from dagster._utils.interrupts import capture_interrupts
from dagster_pipes import PipesContextData, PipesParams
from databricks.sdk.service.jobs import PythonWheelTask

from lakehouse_assets.databricks import pipes_main, step_main
from lakehouse_assets.databricks.faults import api_faults
from lakehouse_assets.databricks.provenance import history
from lakehouse_assets.databricks.staging import Staging
from lakehouse_assets.databricks.step import DatabricksStepLauncher, Launch
from lakehouse_assets.errors import LaunchLost

if TYPE_CHECKING:
    from lakehouse_assets.assets.step import Event
    from lakehouse_assets.databricks.config import DatabricksConfig

CONTEXT = "context.json"
_MAIN, _CHECKS = "pipes_main.py", "step_main.py"


class OnCluster(Exception):
    """What was raised on the cluster, or what caused that: its class and its text."""


@dataclass(frozen=True)
class Done:
    """What a step's work came to.

    Attributes:
        events: what the step yields, in the order in which it was reported.
        failure: what it raises after that.
        cause: what that was caused by on the cluster.
        days: what is logged of days when the events were yielded.
    """

    events: Sequence[Event]
    failure: dg.Failure | None = None
    cause: OnCluster | None = None
    days: Sequence[dg.AssetMaterialization] = ()


class ContextFile(dg.PipesContextInjector):
    """Puts what the cluster is told into a file of the staging directory."""

    def __init__(self, staging: Staging, place: str) -> None:
        self._staging, self._path = staging, f"{place}/{CONTEXT}"

    @contextmanager
    def inject_context(self, context_data: PipesContextData) -> Iterator[PipesParams]:
        """Write the file, and say where the cluster finds it."""
        with api_faults(f"write {self._path}"):
            self._staging.put(self._path, json.dumps(context_data).encode())
        yield {"path": self._staging.on_cluster(self._path)}

    def no_messages_debug_text(self) -> str:
        """Where to look when nothing was heard."""
        return f"the work was described in {self._staging.on_cluster(self._path)}"


class MessageFiles(dg.PipesMessageReader):
    """Hands on what the cluster reports, file by file, when it is asked to.

    Args:
        staging: where the files are.
        place: the directory in it.
        pauses: seconds to wait before each further look at a last file that cannot be read.
    """

    def __init__(self, staging: Staging, place: str, pauses: Sequence[float] = (0.2, 1.0, 3.0)) -> None:
        self._staging, self._place, self._pauses = staging, place, pauses
        self._next = 1
        self._handler: PipesMessageHandler | None = None

    @property
    def expected_writer_count(self) -> int:
        """One task."""
        return 1

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[PipesParams]:
        """Say where the cluster is to write."""
        self._handler = handler
        yield {"path": self._staging.on_cluster(self._place), "include_stdio_in_messages": False}

    def no_messages_debug_text(self) -> str:
        """Where to look when nothing was heard."""
        return f"messages were expected in {self._staging.on_cluster(self._place)}; the output of the run says more"

    def hand_on(self, *, final: bool) -> None:
        """Hand on what came since.

        Args:
            final: nobody writes any more: what cannot be read is lost.

        Raises:
            LaunchLost: it was final, and a file was broken or out of reach.
        """
        while (messages := self._file(final=final)) is not None:
            self._next += 1
            for message in messages:
                if self._handler is not None:
                    self._handler.handle_message(message)

    @property
    def is_closed(self) -> bool:
        """Whether the cluster has said its last word."""
        return self._handler is not None and self._handler.received_closed_message

    def _file(self, *, final: bool) -> list[Any] | None:
        """The messages of the next file; `None` if it is not there yet, or not whole yet."""
        path = f"{self._place}/{self._next}.json"
        for pause in (*self._pauses, None) if final else (None,):
            try:
                with api_faults(f"read {path}"):
                    data = self._staging.get(path)
                return None if data is None else _messages(data)
            except (ValueError, LaunchLost) as error:
                if pause is None:
                    if final:
                        raise LaunchLost(f"the messages of the step cannot be read: {path}: {error}") from error
                    return None
                time.sleep(pause)
        return None


def _messages(data: bytes) -> list[Any]:
    """The messages of a file.

    Raises:
        ValueError: a part of it is missing.
    """
    if not data.endswith(pipes_main.END):
        raise ValueError("the file is cut off")
    return [json.loads(line) for line in data.removesuffix(pipes_main.END).decode().split("\n")]


class PipesLaunch(Launch):
    """The work of one step, from its files to its last message."""

    def __init__(
        self, launcher: DatabricksStepLauncher, config: DatabricksConfig, context: dg.AssetExecutionContext
    ) -> None:
        super().__init__(launcher, config, context.get_step_execution_context())
        self._context = context
        self._messages = MessageFiles(launcher.staging, self._place)

    def done(self) -> Done:
        """Send the work, wait for its end, clean up.

        Raises:
            LakehouseError: it was not done, or was lost.
            dagster.DagsterExecutionInterruptedError: the step is to stop; the run is cancelled by then.
        """
        self._launcher.runtime()  # it has to be supported; its Python may be another
        self._launcher.sweep(self._step.log)
        self._stage()
        with capture_interrupts(), self._session() as session:  # interrupts are raised where a run can be cancelled
            run_id = self._submit(session)
            with self._cancelled_unless_done(run_id):
                with api_faults("ask for the run"):
                    self._launcher.get_databricks_run_dagster_event(self._step, run_id)
                for _ in self._follow(run_id):
                    pass
        for told in _told(session, pipes_main.OBSERVED):
            self._context.log_event(deserialize_value(told, dg.AssetObservation))
        failure = next(iter(_told(session, pipes_main.FAILED)), None)
        events = list(_events(session))
        days = [deserialize_value(told, dg.AssetMaterialization) for told in _told(session, pipes_main.DAY)]
        if failure is not None:
            return Done(events, _failure(failure), _cause(failure["causes"]), days)
        self._clean(self._step.log)
        return Done(events, days=days)

    def _session(self) -> Any:
        return open_pipes_session(
            context=self._context.op_execution_context,
            context_injector=ContextFile(self._launcher.staging, self._place),
            message_reader=self._messages,
            extras={pipes_main.SENT: self._sent()},
        )

    def _sent(self) -> dict[str, Any]:
        """What the cluster is told beside the usual; nothing in it is secret."""
        return {
            **self._launcher.job_of(self._step),
            "place": self._launcher.staging.on_cluster(self._place),
            "config": dict(self._context.op_execution_context.op_config or {}),
            "history": serialize_value(history(self._step)),
            "days": self._days(),
        }

    def _days(self) -> list[str]:
        """The first and the last day of the run; none if it is about no days: Pipes itself leaves ranges out."""
        context = self._context
        keys = context.partition_keys if context.has_partition_key or context.has_partition_key_range else ()
        return [keys[0], keys[-1]] if keys else []

    def _stage(self) -> None:
        files = {step_main.CODE: self._launcher.package.data}
        if not self._config.wheel:
            files |= {name: Path(__file__).with_name(name).read_bytes() for name in (_CHECKS, _MAIN)}
        self._launcher.write(self._place, files)

    def _submit(self, session: PipesSession) -> int:
        given = [part for pair in session.get_bootstrap_cli_arguments().items() for part in pair]
        arguments = self._launcher.request(self._place, _MAIN, self._step)
        task = arguments["tasks"][0]
        if self._config.wheel:
            task.spark_python_task = None
            task.python_wheel_task = PythonWheelTask(
                package_name=step_main.PACKAGE, entry_point="lakehouse-task", parameters=["run", *given]
            )
        else:
            task.spark_python_task.parameters = given
        return self._launcher.submit(arguments)

    def _arrived(self, *, final: bool) -> Iterator[dg.DagsterEvent]:
        """Hand on the messages that came since; what they say is yielded at the end."""
        self._messages.hand_on(final=final)
        self.is_over = self._messages.is_closed
        yield from ()


def _told(session: PipesSession, kind: str) -> list[Any]:
    return [message[kind] for message in session.get_custom_messages() if kind in message]


def _events(session: PipesSession) -> Iterator[Event]:
    """The reports as a step here would yield them: the checks of an asset together with its materialization."""
    found = session.get_reported_results()
    made = {one.asset_key for one in found if isinstance(one, dg.MaterializeResult)}
    for one in found:
        if isinstance(one, dg.MaterializeResult):
            checks = [c for c in found if isinstance(c, dg.AssetCheckResult) and c.asset_key == one.asset_key]
            yield one._replace(check_results=checks)
        elif one.asset_key not in made:
            yield one


def _failure(told: Mapping[str, Any]) -> dg.Failure:
    from dagster._core.definitions.metadata import metadata_map_from_external

    return dg.Failure(
        told["text"], metadata=metadata_map_from_external(told["metadata"]), allow_retries=told["allow_retries"]
    )


def _cause(causes: Sequence[str]) -> OnCluster | None:
    """The first cause, itself caused by the next."""
    found: OnCluster | None = None
    for text in reversed(causes):
        error = OnCluster(text)
        error.__cause__ = found
        found = error
    return found
