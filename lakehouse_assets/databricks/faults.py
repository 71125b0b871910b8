"""What Databricks answers, as errors of this project: what was refused, and what may go well the next time.

What belongs here: HTTP errors and the ends of runs. What does not: the errors of the step itself, which come as
events.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lakehouse_assets.errors import LakehouseError, LaunchLost, LaunchRefused

if TYPE_CHECKING:
    from databricks.sdk.service.jobs import Run

AGAIN = "nothing to do: the step is tried again as its retry policy says"
TRANSIENT_CODES = frozenset(
    {
        "CLOUD_FAILURE", "CLUSTER_ERROR", "CLUSTER_REQUEST_LIMIT_EXCEEDED", "DRIVER_ERROR", "INTERNAL_ERROR",
        "MAX_CONCURRENT_RUNS_EXCEEDED", "MAX_JOB_QUEUE_SIZE_EXCEEDED", "MAX_SPARK_CONTEXTS_EXCEEDED", "SKIPPED",
        "WORKSPACE_RUN_LIMIT_EXCEEDED", "BUDGET_POLICY_LIMIT_EXCEEDED",
    }
)  # fmt: skip
"""Codes of terminated runs that can be others the next time."""
TRANSIENT_RESULTS = frozenset({"MAXIMUM_CONCURRENT_RUNS_REACHED", "EVICTED", "SKIPPED", "UPSTREAM_EVICTED"})
LOST = re.compile(
    r"driver is (unresponsive|up but is not)|\bcluster .{0,80}(was )?terminated|\bspot (instance|loss|node)|preempt|"
    r"lost connection|not reach (the )?driver|DRIVER_UNREACHABLE|unexpectedly stopped|\binternal error\b|\bevicted",
    re.IGNORECASE,
)
"""What the messages of failed runs say where no code does."""
LAUNCH_ENDS = frozenset({"TERMINATED", "SKIPPED", "INTERNAL_ERROR"})


@contextmanager
def api_faults(doing: str, fixes: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn errors of the workspace's API into ours.

    Args:
        doing: what was asked, for the message: "upload the step to /Volumes/…".
        fixes: name of an SDK error class -> the next step, in place of the general one.
    """
    try:
        yield
    except LakehouseError:
        raise
    except Exception as error:
        if "header value" in str(error):  # it holds the token: neither its text nor its trace may be told
            raise LaunchRefused(
                f"the credentials to {doing} hold a character that none may hold", fix=_FIXES["Unauthenticated"]
            ) from None
        if (fault := api_fault(error, doing, fixes or {})) is None:
            raise
        raise fault from error


def api_fault(error: Exception, doing: str, fixes: Mapping[str, str]) -> LakehouseError | None:
    """The error of ours that one of the SDK, or of the network below it, amounts to; `None` if it is neither."""
    from databricks.sdk.errors import DatabricksError
    from requests.exceptions import RequestException

    said = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, DatabricksError):
        names = [cls.__name__ for cls in type(error).__mro__]
        code = error.error_code or type(error).__name__
        if set(names) & _BUSY:
            return LaunchLost(f"Databricks could not {doing}: {code}: {said}", fix=AGAIN)
        fix = next((fixes[name] for name in names if name in fixes), None)
        fix = fix or next((_FIXES[name] for name in names if name in _FIXES), "lakehouse doctor --target databricks")
        return LaunchRefused(f"Databricks refused to {doing}: {code}: {said}", fix=fix)
    if isinstance(error, RequestException | TimeoutError | ConnectionError):
        return LaunchLost(f"the workspace did not answer when asked to {doing}: {said}", fix=AGAIN)
    if isinstance(error, ValueError) and "auth" in said.lower():
        return LaunchRefused(f"there are no credentials to {doing}: {said}", fix=_FIXES["Unauthenticated"])
    return None


_BUSY = frozenset({"TooManyRequests", "TemporarilyUnavailable", "InternalError", "DeadlineExceeded", "Aborted"})
_FIXES = {
    "Unauthenticated": "set DATABRICKS_HOST and DATABRICKS_TOKEN, or the principal in the configuration, "
    "and see lakehouse doctor --target databricks",
    "PermissionDenied": "grant the principal what it lacks: lakehouse doctor --target databricks names it",
}


def of_run(run: Run, told: str) -> LakehouseError:
    """Why a run ended without a word of the step.

    Args:
        run: a run that has ended.
        told: what its task left as its error, if anything.
    """
    state = run.state
    result = state.result_state.value if state and state.result_state else ""
    cycle = state.life_cycle_state.value if state and state.life_cycle_state else ""
    detail = run.status.termination_details if run.status else None
    code = detail.code.value if detail and detail.code else ""
    said = told or (detail.message if detail and detail.message else "") or (state.state_message if state else "") or ""
    what = f"the Databricks run {run.run_id} ended as {result or cycle or 'unknown'}" + (f" ({code})" if code else "")
    url = run.run_page_url
    if result == "TIMEDOUT":
        return LaunchRefused(
            f"{what}: {said}", fix="raise run_timeout in the configuration, or give it more nodes", run_page_url=url
        )
    if result in ("CANCELED", "UPSTREAM_CANCELED"):
        return LaunchRefused(f"{what}: somebody cancelled it in the workspace", fix="run it again", run_page_url=url)
    if told and (told.startswith("Refused") or not _is_lost(told)):  # the entry of the step said why
        return LaunchRefused(f"{what}: {said}", fix=_next(said), run_page_url=url)
    lost = cycle == "SKIPPED" or result in TRANSIENT_RESULTS or code in TRANSIENT_CODES or _is_lost(said)
    if lost or result == "SUCCESS":
        silent = "it succeeded, but the events of the step did not arrive" if result == "SUCCESS" else said
        return LaunchLost(f"{what}: {silent}", fix=AGAIN, run_page_url=url)
    return LaunchRefused(f"{what}: {said or 'see the run'}", fix=_next(said), run_page_url=url)


def _is_lost(text: str) -> bool:
    return LOST.search(text) is not None


def _next(said: str) -> str | None:
    """The next step, unless the message has one."""
    return None if "next:" in said else "open the run in the workspace: its output has the whole error"
