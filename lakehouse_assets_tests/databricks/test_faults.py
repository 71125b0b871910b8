"""How a run ended, and what the API refused, as errors that say whether trying again can help."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from lakehouse_assets.databricks.faults import api_faults, of_run
from lakehouse_assets.errors import LakehouseError, LaunchLost, LaunchRefused


def ended(result: str | None, cycle: str = "TERMINATED", message: str = "", **details: str) -> Any:
    """A run as the API gives it."""
    from databricks.sdk.service.jobs import Run

    state = {"life_cycle_state": cycle, "result_state": result, "state_message": message}
    status = {"state": "TERMINATED", "termination_details": details}
    return Run.from_dict({"run_id": 7, "run_page_url": "https://w/run/7", "state": state, "status": status})


def of(result: str | None, cycle: str = "TERMINATED", message: str = "", told: str = "", **details: str) -> Any:
    """The error of a run that ended so."""
    return of_run(ended(result, cycle, message, **details), told)


@pytest.mark.usefixtures("sdk")
class TestRuns:
    """Ends of runs without a word of the step."""

    @pytest.mark.parametrize(
        "error",
        [
            lambda: of("FAILED", "INTERNAL_ERROR", "Cluster 'x' was terminated. Reason: DRIVER_UNREACHABLE"),
            lambda: of("FAILED", code="CLUSTER_ERROR", type="CLOUD_FAILURE"),
            lambda: of("FAILED", message="Spot instance was reclaimed"),
            lambda: of(None, "SKIPPED", "An active run already exists"),
            lambda: of("MAXIMUM_CONCURRENT_RUNS_REACHED", "SKIPPED"),
            lambda: of("FAILED", code="WORKSPACE_RUN_LIMIT_EXCEEDED"),
            lambda: of("EVICTED", message="The run was evicted from the queue"),
            lambda: of("SUCCESS"),
        ],
        ids=["driver", "cloud", "spot", "skipped", "concurrent", "limit", "evicted", "silent"],
    )
    def test_what_may_go_well_the_next_time(self, sdk: None, error: Any) -> None:
        """A dead cluster, a full queue, events that did not arrive: transient."""
        found = error()
        assert isinstance(found, LaunchLost)
        assert "run 7" in str(found)

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (lambda: of("TIMEDOUT"), "run_timeout"),
            (lambda: of("CANCELED"), "somebody cancelled it"),
            (lambda: of("FAILED", code="LIBRARY_INSTALLATION_ERROR", message="no such version"), "no such version"),
            (lambda: of("FAILED", code="INVALID_CLUSTER_REQUEST", message="no node type"), "no node type"),
            (lambda: of("FAILED", told="Refused: the secret a/b cannot be read\n  next: put it"), "next: put it"),
            (lambda: of("FAILED", told="NameError: name 'sc' is not defined"), "open the run in the workspace"),
        ],
        ids=["timeout", "cancelled", "library", "request", "told", "unknown"],
    )
    def test_what_would_end_the_same_way(self, sdk: None, error: Any, said: str) -> None:
        """A timeout, a refusal, a cancel in the workspace: terminal, with the next step."""
        found = error()
        assert isinstance(found, LaunchRefused)
        assert said in str(found)

    def test_the_address_of_the_run_is_kept(self, sdk: None) -> None:
        """The error leads to the run."""
        assert of("FAILED").facts["run_page_url"] == "https://w/run/7"


def raised(error: Exception, **fixes: str) -> LakehouseError:
    """The error that one of the API becomes."""
    with pytest.raises(LakehouseError) as caught, api_faults("submit the run", fixes):
        raise error
    return caught.value


@pytest.mark.usefixtures("sdk")
class TestApi:
    """Errors of the API."""

    @pytest.mark.parametrize("name", ["TooManyRequests", "TemporarilyUnavailable", "InternalError", "DeadlineExceeded"])
    def test_a_busy_workspace_is_transient(self, sdk: None, name: str) -> None:
        """429, 503, 500 and 504 may go well the next time."""
        from databricks.sdk import errors

        assert isinstance(raised(getattr(errors, name)("slow down")), LaunchLost)

    def test_a_network_that_fails_is_transient(self, sdk: None) -> None:
        """So may a connection that was cut."""
        found = raised(requests.exceptions.ConnectionError("reset"))
        assert isinstance(found, LaunchLost)
        assert "submit the run" in str(found)

    @pytest.mark.parametrize(
        ("name", "next_step"),
        [
            ("Unauthenticated", "DATABRICKS_TOKEN"),
            ("PermissionDenied", "lakehouse doctor"),
            ("NotFound", "CREATE VOLUME"),
        ],
    )
    def test_a_refusal_is_terminal_with_its_remedy(self, sdk: None, name: str, next_step: str) -> None:
        """401, 403 and 404 say what to do; the caller may know better than the general answer."""
        from databricks.sdk import errors

        found = raised(getattr(errors, name)("no"), NotFound="CREATE VOLUME …")
        assert isinstance(found, LaunchRefused)
        assert next_step in str(found)

    def test_a_token_in_an_error_is_not_repeated(self, sdk: None) -> None:
        """The HTTP library quotes a header that it cannot send: neither text nor trace of that is kept."""
        found = raised(ValueError("Invalid header value b'Bearer dapi-secret\\n'"))
        assert isinstance(found, LaunchRefused)
        assert "dapi-secret" not in str(found)
        assert found.__cause__ is None
        assert found.__suppress_context__

    def test_other_errors_pass(self, sdk: None) -> None:
        """A fault of this project is not dressed up as one of the workspace."""
        with pytest.raises(KeyError), api_faults("submit the run"):
            raise KeyError("x")
