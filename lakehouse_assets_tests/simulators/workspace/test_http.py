"""The workspace as an HTTP server: tokens, errors, faults, what is remembered."""

from __future__ import annotations

import time

import pytest

from lakehouse_assets.errors import SettingsError
from lakehouse_assets.simulators.workspace.faults import Fault
from lakehouse_assets.simulators.workspace.server import Options, serve
from lakehouse_assets_tests.conftest import Elsewhere, need
from lakehouse_assets_tests.simulators.workspace.lab import STAGING, TOKEN, Lab, laboratory, refusal

ME = "/api/2.0/preview/scim/v2/Me"


@pytest.mark.parametrize(
    ("token", "status", "code"), [(None, 401, "UNAUTHENTICATED"), ("other", 403, "PERMISSION_DENIED")]
)
def test_a_wrong_token_is_refused(lab: Lab, token: str | None, status: int, code: str) -> None:
    """Without a token 401, with another one 403, in the shape of Databricks' errors."""
    found, _, body = lab.ask("GET", ME, token=token)
    assert (found, body["error_code"]) == (status, code)
    assert body["message"]


def test_the_sdk_names_a_wrong_token(lab: Lab) -> None:
    """The unmodified SDK maps the error to its class."""
    from databricks.sdk import WorkspaceClient

    with pytest.raises(lab.errors.PermissionDenied, match="Invalid access token"):
        WorkspaceClient(host=lab.workspace.host, token="other").current_user.me()


def test_the_sdk_learns_who_it_is(lab: Lab) -> None:
    """`current_user.me` names the user of the options."""
    assert lab.client.current_user.me().user_name == "tester@example.com"


def test_an_unknown_endpoint_is_named(lab: Lab) -> None:
    """404, with method and path: nobody looks for a fault of his own."""
    status, _, body = lab.ask("POST", "/api/2.0/sql/warehouses")
    assert (status, body["error_code"]) == (404, "ENDPOINT_NOT_FOUND")
    assert "POST /api/2.0/sql/warehouses" in body["message"]


@pytest.mark.parametrize("body", [b"{", b"[1]"])
def test_a_body_that_is_no_object_is_refused(lab: Lab, body: bytes) -> None:
    """400, and nothing breaks."""
    status, _, answer = lab.ask("POST", "/api/2.0/dbfs/mkdirs", body)
    assert (status, answer["error_code"]) == (400, "MALFORMED_REQUEST")


def test_a_missing_field_is_named(lab: Lab) -> None:
    """400, with the field."""
    status, _, answer = lab.ask("POST", "/api/2.0/dbfs/mkdirs", {})
    assert (status, answer["message"]) == (400, "Missing required field: path")


def test_the_host_metadata_needs_no_token(lab: Lab) -> None:
    """Newer SDKs ask for it before anything else."""
    assert lab.ask("GET", "/.well-known/databricks-config", token=None)[0] == 200


def test_requests_are_remembered(lab: Lab) -> None:
    """Method, path, query, body and status, in order."""
    lab.ask("POST", "/api/2.0/dbfs/mkdirs", {"path": "/a"})
    lab.ask("GET", "/api/2.0/dbfs/get-status?path=/b")
    first, second = lab.workspace.requests[-2:]
    assert (first.method, first.path, first.status, first.body) == ("POST", "/api/2.0/dbfs/mkdirs", 200, {"path": "/a"})
    assert (second.method, second.status, second.query) == ("GET", 404, {"path": "/b"})


@pytest.mark.parametrize(("status", "code"), [(429, "REQUEST_LIMIT_EXCEEDED"), (503, "TEMPORARILY_UNAVAILABLE")])
def test_a_fault_answers_so_many_requests(lab: Lab, status: int, code: str) -> None:
    """It strikes the requests that it is about, as often as it is told, and then no more."""
    lab.workspace.fail(Fault(method="GET", path="Me$", status=status, times=2, retry_after=7))
    found = [lab.ask("GET", path) for path in (ME, "/api/2.0/secrets/scopes/list", ME, ME)]
    assert [answer[0] for answer in found] == [status, 200, status, 200]
    assert found[0][2]["error_code"] == code
    assert found[0][1]["Retry-After"] == "7"


def test_the_sdk_gets_over_a_fault(lab: Lab) -> None:
    """A 429 with Retry-After is what the SDK waits for by itself."""
    lab.workspace.fail(Fault(path="Me$", status=429, retry_after=0))
    assert lab.client.current_user.me().active
    assert [request.status for request in lab.workspace.requests] == [429, 200]


def test_a_fault_drops_the_connection(lab: Lab) -> None:
    """No answer at all, and nothing is done."""
    lab.workspace.fail(Fault(path="mkdirs", drop=True))
    with pytest.raises(ConnectionError):
        lab.ask("POST", "/api/2.0/dbfs/mkdirs", {"path": "/a"})
    assert not lab.workspace.path("dbfs:/a").exists()
    assert lab.workspace.requests[-1].status == 0


def test_a_fault_delays(lab: Lab) -> None:
    """The request is answered as ever, later."""
    lab.workspace.fail(Fault(path="Me$", delay=0.2))
    begun = time.monotonic()
    assert lab.ask("GET", ME)[0] == 200
    assert time.monotonic() - begun >= 0.2


def test_a_fault_truncates_files(lab: Lab) -> None:
    """Half of what is uploaded, and of what is downloaded, is lost, and the answer is as ever."""
    path = f"/api/2.0/fs/files{STAGING}/a?overwrite=true"
    lab.workspace.fail(Fault(method="PUT", truncate=True))
    assert lab.ask("PUT", path, b"12345678")[0] == 204
    assert lab.workspace.path(f"{STAGING}/a").read_bytes() == b"1234"
    lab.workspace.fail(Fault(method="GET", truncate=True))
    assert lab.ask("GET", path)[2] == b"12"


@pytest.mark.parametrize(
    ("wrong", "named"), [({"status": 200}, "200"), ({"path": "("}, r"\("), ({"statsu": 5}, "statsu")]
)
def test_a_wrong_fault_is_refused(wrong: dict, named: str) -> None:
    """By the name of what is wrong about it."""
    with pytest.raises(SettingsError, match=named):
        Fault.of(wrong)


def test_another_process_injects_faults(lab: Lab) -> None:
    """Over HTTP, with the token; faults never strike that endpoint itself."""
    lab.workspace.fail(Fault(status=500, times=1))
    assert lab.ask("POST", "/simulator/faults", {"path": "Me$", "status": 503})[0] == 200
    assert [lab.ask("GET", ME)[0] for _ in range(3)] == [500, 503, 200]
    assert lab.ask("POST", "/simulator/faults", {"status": 1})[0] == 400


def test_the_directory_of_a_path(lab: Lab) -> None:
    """The spellings of a path lead to one place each, and none leads out of the workspace."""
    root = lab.workspace.directory
    for name in ("dbfs:/a/b", "/dbfs/a/b", "dbfs:///a//b", "/dbfs//a/b", "/a/b"):
        assert lab.workspace.path(name) == root / "dbfs/a/b"
    for name in ("/Volumes/c/s/v/x", "dbfs:/Volumes/c/s/v/x"):
        assert lab.workspace.path(name) == root / "Volumes/c/s/v/x"
    assert lab.workspace.path("/Workspace/Users/u/f.py") == root / "Workspace/Users/u/f.py"
    assert lab.workspace.path("dbfs:/../../etc") == root / "dbfs/etc"


def test_a_port_that_is_taken_is_named(lab: Lab, tmp_path) -> None:
    """The error names the port and what to do."""
    port = int(lab.workspace.host.rpartition(":")[2])
    with pytest.raises(SettingsError, match=f"{port}"), serve(Options(tmp_path / "other", port=port)):
        pass


def test_no_user_namespaces_is_an_error_at_once(tmp_path) -> None:
    """A workspace that could execute nothing does not start; it says what to allow."""
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" "$@"'
    nowhere = Elsewhere(lambda command: ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, *command])
    need(nowhere.run("true").returncode == 0, "a user namespace", "allow `unshare --user`")
    assert "kernel.unprivileged_userns_clone" in nowhere.call(refusal, tmp_path / "ws")


def test_it_needs_no_rights(tmp_path, as_nobody: Elsewhere) -> None:
    """Whoever may make a user namespace can serve a workspace."""
    assert as_nobody.call(refusal, tmp_path / "ws") == ""


def test_a_directory_with_a_colon_is_refused(tmp_path) -> None:
    """Colons part directories where tasks are started."""
    with pytest.raises(SettingsError, match="colon"), serve(Options(tmp_path / "a:b")):
        pass


def test_two_workspaces_stand_side_by_side(lab: Lab, tmp_path) -> None:
    """Each has its own token and files."""
    with laboratory(tmp_path / "second", token="") as second:
        assert second.workspace.token != TOKEN
        assert second.ask("GET", ME, token=TOKEN)[0] == 403
        assert lab.ask("GET", ME)[0] == 200
