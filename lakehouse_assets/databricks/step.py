"""The launcher that sends a step to Databricks: dagster-databricks' own, with what it gets wrong put right.

It stages the step's files, submits a run, brings its events back as they come, and cleans up. What of the stock
launcher stays: how it signs in, and the event that names the run. What belongs here: one launched step from start to
end. What does not: which steps are launched (`launcher.py`), what is sent (`package.py`, `job.py`).
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import pickle
import sys
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster import DagsterEvent, RetryRequested
from dagster import __version__ as dagster_version
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.errors import DagsterExecutionInterruptedError, raise_execution_interrupts
from dagster._core.events.log import EventLogEntry
from dagster._core.execution.context.system import StepExecutionContext
from dagster._core.execution.plan.external_step import step_context_to_step_run_ref
from dagster._serdes import serialize_value
from dagster_databricks.databricks_pyspark_step_launcher import DatabricksPySparkStepLauncher
from databricks.sdk.service import iam
from databricks.sdk.service.jobs import Run

from lakehouse_assets.assets.step import failure_of
from lakehouse_assets.databricks import job, step_main
from lakehouse_assets.databricks.config import DatabricksConfig
from lakehouse_assets.databricks.faults import api_fault, api_faults, of_run
from lakehouse_assets.databricks.package import Package
from lakehouse_assets.databricks.provenance import Provenance, history
from lakehouse_assets.databricks.runs import WAITING, cycle, entries, has_ended, is_success
from lakehouse_assets.databricks.runtimes import Runtime, check_python, supported, supported_environment
from lakehouse_assets.databricks.staging import TEMPORARY, DbfsStaging, Staging, VolumeStaging
from lakehouse_assets.engines.spark_frames import SPOOL
from lakehouse_assets.errors import LakehouseError, LaunchLost, NotRunnable, TransientError

SILENT_SECONDS = 30.0
"""How long to look for the last events of a run that has ended: DBFS and volumes may show a file late."""


class DatabricksStepLauncher(DatabricksPySparkStepLauncher):
    """Runs steps as one-time runs of Databricks.

    Args:
        config: where and how.
        credentials: `databricks_host` and what signs in, as the stock launcher takes them.
        package: what is sent.
        env: environment variables of the step, besides those of the configuration.
        secrets: environment variable -> scope and key, besides those of the configuration.
        libraries: packages of the step, pinned.
    """

    def __init__(
        self,
        config: DatabricksConfig,
        credentials: Mapping[str, Any],
        package: Package,
        env: Mapping[str, str],
        secrets: Mapping[str, Mapping[str, str]],
        libraries: tuple[str, ...],
    ) -> None:
        base = config.volume if config.transport == "volumes" else config.staging_prefix
        super().__init__(
            run_config={"cluster": {}},
            permissions={},
            secrets_to_env_variables=[],
            staging_prefix=str(base),
            wait_for_logs=False,
            max_completion_wait_time_seconds=config.run_timeout,
            poll_interval_sec=config.poll_seconds,
            local_dagster_job_package_path=str(Path(__file__).parents[2]),
            **credentials,
        )
        self._config, self.package = config, package
        self._env, self._secrets, self._libraries = dict(env), dict(secrets), libraries

    @property
    def client(self) -> Any:
        """The workspace's API."""
        return self.databricks_runner.client.workspace_client

    @property
    def staging(self) -> Staging:
        """Where files of steps stand."""
        kind = VolumeStaging if self._config.transport == "volumes" else DbfsStaging
        return kind(self.client, self.staging_prefix)

    def launch_step(self, step_context: StepExecutionContext) -> Iterator[DagsterEvent]:
        """Run the step on Databricks and yield its events.

        Raises:
            RetryRequested: what went wrong may go well the next time, and the step has a retry policy.
            LakehouseError: it was not run, or was lost.
        """
        launch = Launch(self, self._config, step_context)
        try:
            yield from launch.events()
        except TransientError as error:
            policy = step_context.op_retry_policy
            if policy is None or launch.is_over:
                raise
            wait = policy.calculate_delay(step_context.previous_attempt_count + 1)
            raise RetryRequested(policy.max_retries, wait) from failure_of(error)

    def runtime(self) -> Runtime:
        """The runtime that a step will find.

        Raises:
            SettingsError: it is not supported.
        """
        if serverless := self._config.compute.serverless:
            return supported_environment(serverless.environment_version)
        with api_faults("look at the cluster", _CLUSTER_FIXES):
            return supported(str(job.spark_version(self._config, self.client)))

    def job_of(self, step: StepExecutionContext) -> dict[str, Any]:
        """What the step's entry on the cluster is told; nothing in it is secret."""
        return {
            "python": "{}.{}".format(*sys.version_info[:2]),
            "dagster": dagster_version,
            "attempt": step.previous_attempt_count,
            "code_sha256": self.package.sha256,
            "package_sha256": self.package.package_sha256,
            "env": {**self._env, **self._config.env},
            "secrets": {
                **self._secrets, **{name: where.model_dump() for name, where in self._config.secrets.items()}
            },
        }  # fmt: skip

    def stage(self, place: str, step: StepExecutionContext) -> None:
        """Write the files of a step."""
        if not isinstance(step.job, ReconstructableJob):
            raise NotRunnable(
                "a step can be sent to Databricks only from a job that another process can load",
                fix="run it through dagster dev, dagster asset materialize or lakehouse's definitions, not in process",
            )
        files = {
            step_main.CODE: self.package.data,
            step_main.STEP: pickle.dumps(step_context_to_step_run_ref(step, self.local_dagster_job_package_path)),
            step_main.HISTORY: gzip.compress(serialize_value(history(step)).encode()),
            step_main.JOB: json.dumps(self.job_of(step)).encode(),
            _MAIN: Path(step_main.__file__).read_bytes(),
        }
        self.write(place, files)

    def write(self, place: str, files: Mapping[str, bytes]) -> None:
        """Make a directory with files."""
        staging = self.staging
        with api_faults(f"make {staging.base}/{place}", STAGING_FIXES):
            staging.make(place)
        for name, data in files.items():
            with api_faults(f"write {staging.base}/{place}/{name}", STAGING_FIXES):
                staging.put(f"{place}/{name}", data)

    def request(self, place: str, main: str, step: StepExecutionContext) -> dict[str, Any]:
        """The run of a step whose files stand in `place`: `main` among them is executed, and is told the place."""
        name = f"{step.job_def.name} {step.step.key}"
        token = job.token(step.run_id, step.step.key, step.previous_attempt_count)
        main, directory = self.staging.as_file(f"{place}/{main}"), self.staging.on_cluster(place)
        return job.request(self._config, name, token, main, directory, self._libraries)

    def submit(self, request: Mapping[str, Any]) -> int:
        """Start a run; asked twice with the same step and attempt, Databricks starts one."""
        with api_faults("submit the run"):
            return int(self.client.jobs.submit(**request).bind()["run_id"])

    def sweep(self, log: Any) -> None:
        """Delete what failed steps left, when it is older than the configuration says and no step can still use it."""
        longest = 2 * self._config.run_timeout  # no step lives so long
        until = time.time() - max(self._config.keep_failed_hours * 3600, longest)
        try:
            old = [name for name, changed in self.staging.directories() if 0 < changed < until and _is_run(name)]
            spilled = self.staging.directories(TEMPORARY) if self._config.transport == "volumes" else ()
            ours = [name for name, changed in spilled if 0 < changed < until and name.startswith(SPOOL)]
            old += [f"{TEMPORARY}/{name}" for name in ours]
            for name in old:
                self.staging.delete(name)
        except Exception as error:
            if api_fault(error, "sweep", {}) is None:
                raise
            log.warning(f"files of earlier steps could not be deleted from {self.staging.base}: {error}")


_MAIN = "step_main.py"
_CLUSTER_FIXES = dict.fromkeys(("NotFound", "BadRequest"), "mend compute.existing_cluster: databricks clusters list")
STAGING_FIXES = {
    "NotFound": "create the volume (CREATE VOLUME …), or mend `volume` in the configuration",
    "PermissionDenied": "GRANT READ VOLUME, WRITE VOLUME on the volume; "
    "a workspace without DBFS root needs `transport: volumes`",
}


def _is_run(name: str) -> bool:
    try:
        return bool(uuid.UUID(name.split(".")[0]))
    except ValueError:
        return False


class Launch:
    """One step, from its files to its last event.

    Attributes:
        is_over: the step itself has said how it ended, so that nothing may be raised any more.
    """

    def __init__(self, launcher: DatabricksStepLauncher, config: DatabricksConfig, step: StepExecutionContext) -> None:
        self._launcher, self._config, self._step = launcher, config, step
        self.is_over = False
        key = step.step.key.replace("[", "__").replace("]", "__")
        self._place = f"{step.run_id}.{key}.{step.previous_attempt_count}"
        self._provenance = Provenance(step)
        self._files = 0
        self._heard = time.monotonic()
        self._granted = not config.permissions.cluster

    def events(self) -> Iterator[DagsterEvent]:
        """Stage, submit, follow, clean up."""
        log = self._step.log
        with raise_execution_interrupts():
            check_python(self._launcher.runtime())
            self._launcher.sweep(log)
            self._launcher.stage(self._place, self._step)
            _stop_if_orphaned()
        run_id = self._launcher.submit(self._launcher.request(self._place, _MAIN, self._step))
        with self._cancelled_unless_done(run_id):
            with api_faults("ask for the run"):
                yield self._launcher.get_databricks_run_dagster_event(self._step, run_id)
            yield from self._follow(run_id)
        if self._succeeded:
            self._clean(log)

    _succeeded = False

    @contextmanager
    def _cancelled_unless_done(self, run_id: int) -> Iterator[None]:
        """Whatever ends the block early cancels the run, an interrupt while permissions are set as well."""
        try:
            yield
        except BaseException as error:
            ended = isinstance(error, LakehouseError) and error.facts.get("ended")
            if not ended and not self.is_over:
                self._cancel(run_id, error)
            raise

    def _cancel(self, run_id: int, error: BaseException) -> None:
        try:
            self._launcher.client.jobs.cancel_run(run_id)
        except Exception as fault:
            if api_fault(fault, "cancel", {}) is None:
                raise
            self._step.log.error(
                f"the Databricks run {run_id} could not be cancelled ({fault}); it ends by its own timeout, and what "
                f"it commits counts once: databricks jobs cancel-run {run_id}"
            )
        else:
            word = "interrupted" if isinstance(error, DagsterExecutionInterruptedError) else "given up"
            self._step.log.info(f"the step was {word}: the Databricks run {run_id} is cancelled")

    def _follow(self, run_id: int) -> Iterator[DagsterEvent]:
        run: Run | None = None
        while not self._is_done(run):
            try:
                with raise_execution_interrupts():
                    time.sleep(self._config.poll_seconds)
                    _stop_if_orphaned()
                    run = self._state(run_id) or run
                    self._grant(run)
                if run and cycle(run) not in WAITING:
                    yield from self._arrived(final=has_ended(run))
            except (LakehouseError, DagsterExecutionInterruptedError) as error:
                if not self.is_over:
                    raise
                self._step.log.warning(
                    f"the step has ended, and its Databricks run {run_id} is not followed on: {error}"
                )
                return
        until = time.monotonic() + SILENT_SECONDS
        while not self.is_over and is_success(run) and time.monotonic() < until:
            time.sleep(min(1.0, self._config.poll_seconds))
            yield from self._arrived(final=True)
        if not self.is_over and run is not None:
            ending = of_run(run, self._told(run))
            ending.facts["ended"] = True
            raise ending

    def _is_done(self, run: Run | None) -> bool:
        """Whether there is nothing more to follow; once the step has ended, a silent workspace is not waited for."""
        silent = time.monotonic() - self._heard > self._config.lost_after
        over = self.is_over and (silent or (run is not None and cycle(run) == "TERMINATING"))
        return over or (run is not None and has_ended(run))

    def _state(self, run_id: int) -> Run | None:
        """The run; `None` where the workspace does not answer, until that has lasted too long."""
        try:
            with api_faults("ask for the run"):
                run = self._launcher.client.jobs.get_run(run_id)
        except LaunchLost:
            if time.monotonic() - self._heard > self._config.lost_after and not self.is_over:
                raise
            return None
        self._heard = time.monotonic()
        return run

    def _grant(self, run: Run | None) -> None:
        """Set the permissions of the job cluster, as soon as it has an id."""
        instance = run.tasks[0].cluster_instance if run and run.tasks else None
        if self._granted or instance is None or not instance.cluster_id:
            return
        entries = [iam.AccessControlRequest.from_dict(one) for one in job.access(self._config.permissions.cluster)]
        with api_faults("set the permissions of the cluster", _GRANT_FIXES):
            self._launcher.client.permissions.update("clusters", instance.cluster_id, access_control_list=entries)
        self._granted = True

    def _arrived(self, *, final: bool) -> Iterator[DagsterEvent]:
        """The events that came since, stored and yielded."""
        while (entries := self._next_file(final=final)) is not None:
            self._files += 1
            for entry in entries:
                mended = self._provenance.mended(entry)
                self._step.instance.handle_new_event(mended)
                self._provenance.stored(mended)
                event = mended.dagster_event
                if event is None:
                    continue
                ends = event.is_step_success or event.is_step_failure or event.is_step_up_for_retry
                self.is_over = self.is_over or ends
                self._succeeded = self._succeeded or event.is_step_success
                yield event

    def _next_file(self, *, final: bool) -> list[EventLogEntry] | None:
        """The events of the next file; `None` if it is not there yet, or not whole yet."""
        name = step_main.events_file(self._step.previous_attempt_count, self._files)
        for pause in (0.2, 1.0, 3.0, None) if final else (None,):
            try:
                with api_faults(f"read {self._place}/{name}"):
                    data = self._launcher.staging.get(f"{self._place}/{name}")
                return None if data is None else entries(data)
            except (OSError, EOFError, zlib.error, LaunchLost) as error:
                if pause is None:
                    if final:
                        raise LaunchLost(f"the events of the step cannot be read: {name}: {error}") from error
                    return None
                time.sleep(pause)
        return None

    def _told(self, run: Run | None) -> str:
        """What the task left as its error."""
        tasks = run.tasks if run and run.tasks else []
        for task in tasks:
            if task.run_id is None:
                continue
            try:
                found = self._launcher.client.jobs.get_run_output(task.run_id)
            except Exception as error:
                if api_fault(error, "read the output", {}) is None:
                    raise
                continue
            if found.error:
                return str(found.error)
        return ""

    def _clean(self, log: Any) -> None:
        try:
            self._launcher.staging.delete(self._place)
        except Exception as error:
            if api_fault(error, "clean up", {}) is None:
                raise
            log.warning(f"the files of the step could not be deleted from {self._place}: {error}")


_GRANT_FIXES = {"PermissionDenied": "let the principal manage the cluster, or remove permissions.cluster"}


def _stop_if_orphaned() -> None:
    """Stop where the process of the run, which started this one for a step, has died: nobody takes its events."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise DagsterExecutionInterruptedError("the process of the run has died")
