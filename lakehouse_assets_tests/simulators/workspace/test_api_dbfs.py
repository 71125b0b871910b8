"""DBFS over its API, by the unmodified SDK."""

from __future__ import annotations

import base64
import io

import pytest

from lakehouse_assets_tests.simulators.workspace.lab import Lab, laboratory

LARGE = bytes(range(256)) * 10_000
"""More than two blocks."""


def test_a_file_goes_there_and_back_in_blocks(lab: Lab) -> None:
    """`dbfs.upload` sends blocks of a MiB, `dbfs.download` reads stretches; Spark finds it where it belongs."""
    lab.client.dbfs.upload("/a/b", io.BytesIO(LARGE))
    assert lab.workspace.path("dbfs:/a/b").read_bytes() == LARGE
    with lab.client.dbfs.download("/a/b") as file:
        assert file.read() == LARGE
    assert sum(request.path.endswith("add-block") for request in lab.workspace.requests) == 3


def test_paths_with_and_without_scheme_are_one(lab: Lab) -> None:
    """`dbfs:///x` and `/x`."""
    lab.client.dbfs.put("dbfs:///a", contents=base64.b64encode(b"x").decode())
    assert lab.client.dbfs.get_status("/a").file_size == 1


def test_a_file_is_not_overwritten_unasked(lab: Lab) -> None:
    """RESOURCE_ALREADY_EXISTS, and the file stays."""
    lab.client.dbfs.put("/a", contents=base64.b64encode(b"x").decode())
    with pytest.raises(lab.errors.ResourceAlreadyExists):
        lab.client.dbfs.put("/a", contents="")
    lab.client.dbfs.put("/a", contents="", overwrite=True)
    assert lab.client.dbfs.get_status("/a").file_size == 0


@pytest.mark.parametrize("call", ["read", "get_status", "list"])
def test_what_is_missing_is_said_as_databricks_says_it(lab: Lab, call: str) -> None:
    """Clients compare the code RESOURCE_DOES_NOT_EXIST."""
    with pytest.raises(lab.errors.ResourceDoesNotExist, match="No file or directory exists on path /none"):
        list(getattr(lab.client.dbfs, call)("/none") or ())


def test_a_block_of_more_than_a_mib_is_refused(lab: Lab) -> None:
    """MAX_BLOCK_SIZE_EXCEEDED, as the real one has it."""
    handle = lab.client.dbfs.create("/a").handle
    status, _, body = lab.ask(
        "POST", "/api/2.0/dbfs/add-block", {"handle": handle, "data": base64.b64encode(LARGE).decode()}
    )
    assert (status, body["error_code"]) == (400, "MAX_BLOCK_SIZE_EXCEEDED")


def test_a_closed_handle_takes_nothing(lab: Lab) -> None:
    """A handle is gone once it is closed."""
    handle = lab.client.dbfs.create("/a").handle
    lab.client.dbfs.close(handle)
    with pytest.raises(lab.errors.ResourceDoesNotExist):
        lab.client.dbfs.add_block(handle, "")


def test_directories_are_listed_and_deleted(lab: Lab) -> None:
    """A directory that holds something is deleted only when that is asked for."""
    lab.client.dbfs.mkdirs("/d/e")
    lab.client.dbfs.put("/d/f", contents=base64.b64encode(b"x").decode())
    assert [(one.path, one.is_dir, one.file_size) for one in lab.client.dbfs.list("/d")] == [
        ("/d/e", True, 0),
        ("/d/f", False, 1),
    ]
    with pytest.raises(lab.errors.BadRequest, match="not empty"):
        lab.client.api_client.do("POST", "/api/2.0/dbfs/delete", body={"path": "/d"})
    lab.client.api_client.do("POST", "/api/2.0/dbfs/delete", body={"path": "/d", "recursive": True})
    assert not lab.workspace.path("dbfs:/d").exists()


def test_volumes_are_not_reached_over_dbfs(lab: Lab) -> None:
    """Setting a staging prefix of /Volumes does not help a client of DBFS."""
    with pytest.raises(lab.errors.BadRequest, match="use the Files API"):
        lab.client.api_client.do("POST", "/api/2.0/dbfs/create", body={"path": "/Volumes/main/ops/staging/a"})


def test_a_workspace_without_dbfs_root(tmp_path, sdk) -> None:
    """403 with the words that new workspaces use, for every call."""
    with laboratory(tmp_path / "ws", dbfs=False) as lab:
        for call in (lab.client.dbfs.create, lab.client.dbfs.get_status, lab.client.dbfs.mkdirs):
            with pytest.raises(
                lab.errors.PermissionDenied, match="Public DBFS root is disabled. Access is denied on path: /a"
            ):
                call("/a")
