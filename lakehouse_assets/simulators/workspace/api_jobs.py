"""Jobs of the simulated workspace, over the REST API (2.1 and 2.2).

What belongs here: `/api/2.[12]/jobs/*`. What does not: what becomes of a run (`runs.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lakehouse_assets.simulators.workspace.api import Call, Routes

if TYPE_CHECKING:
    from lakehouse_assets.simulators.workspace.server import Workspace


def submit(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Submit a one-time run."""
    return {"run_id": workspace.jobs.submit(call.body, call.user).run_id}


def get_run(workspace: Workspace, call: Call) -> dict[str, Any]:
    """What is known of a run."""
    return workspace.jobs.get(call.number("run_id")).describe()


def get_output(workspace: Workspace, call: Call) -> dict[str, Any]:
    """What a task printed, and what it failed with."""
    return workspace.jobs.output(call.number("run_id"))


def cancel(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Ask a run to end; it does so a little later."""
    workspace.jobs.get(call.number("run_id")).cancelled.set()
    return {}


def list_runs(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Every run, the latest first."""
    runs = reversed(workspace.jobs.all())
    if job := call.query.get("job_id"):
        runs = (run for run in runs if str(run.job_id) == job)
    if call.flag("active_only"):
        runs = (run for run in runs if not run.ended)
    if call.flag("completed_only"):
        runs = (run for run in runs if run.ended)
    return {"runs": [run.describe() for run in runs], "has_more": False}


def create(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Keep a job."""
    return {"job_id": workspace.jobs.create_job(call.body, call.user)}


def get(workspace: Workspace, call: Call) -> dict[str, Any]:
    """What is known of a job."""
    return workspace.jobs.job(call.number("job_id"))


def list_jobs(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Every job, or those of a name."""
    name = call.query.get("name")
    found = [job for job in workspace.jobs.jobs() if name in (None, job["settings"].get("name"))]
    return {"jobs": found, "has_more": False}


def delete(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Forget a job."""
    workspace.jobs.delete_job(call.number("job_id"))
    return {}


def run_now(workspace: Workspace, call: Call) -> dict[str, Any]:
    """Run a job."""
    call.number("job_id")
    run = workspace.jobs.run_now(call.body, call.user)
    return {"run_id": run.run_id, "number_in_job": run.run_id}


_JOBS = "/api/2.[12]/jobs"
ROUTES: Routes = (
    ("POST", f"{_JOBS}/runs/submit", submit),
    ("GET", f"{_JOBS}/runs/get", get_run),
    ("GET", f"{_JOBS}/runs/get-output", get_output),
    ("POST", f"{_JOBS}/runs/cancel", cancel),
    ("GET", f"{_JOBS}/runs/list", list_runs),
    ("POST", f"{_JOBS}/create", create),
    ("GET", f"{_JOBS}/get", get),
    ("GET", f"{_JOBS}/list", list_jobs),
    ("POST", f"{_JOBS}/delete", delete),
    ("POST", f"{_JOBS}/run-now", run_now),
)
