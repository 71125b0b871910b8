"""Files of volumes and of the workspace, and what Unity Catalog says of a volume, by the unmodified SDK."""

from __future__ import annotations

import io

import pytest

from lakehouse_assets.errors import SettingsError
from lakehouse_assets_tests.simulators.workspace.lab import STAGING, VOLUME, Lab


def test_a_file_goes_there_and_back(lab: Lab) -> None:
    """Upload, metadata, download, delete."""
    lab.client.files.upload(f"{STAGING}/a", io.BytesIO(b"text"))
    assert lab.workspace.path(f"{STAGING}/a").read_bytes() == b"text"
    assert lab.client.files.get_metadata(f"{STAGING}/a").content_length == 4
    assert lab.client.files.download(f"{STAGING}/a").contents.read() == b"text"
    lab.client.files.delete(f"{STAGING}/a")
    with pytest.raises(lab.errors.NotFound):
        lab.client.files.download(f"{STAGING}/a")


def test_a_stretch_of_a_file(lab: Lab) -> None:
    """The header Range is heeded."""
    lab.client.files.upload(f"{STAGING}/a", io.BytesIO(b"0123456789"))
    found = lab.client.api_client.do("GET", f"/api/2.0/fs/files{STAGING}/a", headers={"Range": "bytes=2-4"}, raw=True)
    assert found["contents"].read() == b"234"


def test_a_file_is_not_overwritten_unasked(lab: Lab) -> None:
    """ALREADY_EXISTS, unless `overwrite` is asked for."""
    lab.client.files.upload(f"{STAGING}/a", io.BytesIO(b"1"))
    with pytest.raises(lab.errors.AlreadyExists):
        lab.client.files.upload(f"{STAGING}/a", io.BytesIO(b"2"))
    lab.client.files.upload(f"{STAGING}/a", io.BytesIO(b"3"), overwrite=True)
    assert lab.workspace.path(f"{STAGING}/a").read_bytes() == b"3"


def test_a_file_needs_its_directory(lab: Lab) -> None:
    """A client that forgets to make it finds out here."""
    with pytest.raises(lab.errors.NotFound, match="parent directory"):
        lab.client.files.upload(f"{STAGING}/d/a", io.BytesIO(b""))


def test_directories(lab: Lab) -> None:
    """Made with those above them, listed, deleted only when empty."""
    lab.client.files.create_directory(f"{STAGING}/d/e")
    lab.client.files.upload(f"{STAGING}/d/f", io.BytesIO(b"x"))
    found = list(lab.client.files.list_directory_contents(f"{STAGING}/d"))
    assert [(one.name, one.is_directory, one.file_size) for one in found] == [("e", True, None), ("f", False, 1)]
    assert found[1].path == f"{STAGING}/d/f"
    with pytest.raises(lab.errors.BadRequest, match="not empty"):
        lab.client.files.delete_directory(f"{STAGING}/d")
    lab.client.files.delete_directory(f"{STAGING}/d/e")
    lab.client.files.get_directory_metadata(f"{STAGING}/d")
    with pytest.raises(lab.errors.NotFound):
        lab.client.files.get_directory_metadata(f"{STAGING}/d/e")


@pytest.mark.parametrize("path", ["/Volumes/main/ops", "/Shared/a", "/Volumes/main/ops/staging/../../../x"])
def test_a_path_that_is_none_of_a_volume(lab: Lab, path: str) -> None:
    """400: the Files API is for volumes, and no path leads out of one."""
    assert lab.ask("GET", f"/api/2.0/fs/files{path}")[0] == 400


def test_a_volume_that_does_not_exist_is_named(lab: Lab) -> None:
    """Nothing makes a volume by the way."""
    with pytest.raises(lab.errors.NotFound, match=r"Volume 'main.ops.other' does not exist"):
        lab.client.files.create_directory("/Volumes/main/ops/other/d")


def test_volumes_in_the_catalog(lab: Lab) -> None:
    """What doctor asks: a volume by its name, and who may do what with it."""
    from databricks.sdk.service.catalog import VolumeType

    lab.client.volumes.create("main", "ops", "second", VolumeType.MANAGED)
    assert [one.full_name for one in lab.client.volumes.list("main", "ops")] == ["main.ops.second", VOLUME]
    assert lab.client.volumes.read(VOLUME).volume_type == VolumeType.MANAGED
    with pytest.raises(lab.errors.NotFound):
        lab.client.volumes.read("main.ops.none")
    with pytest.raises(lab.errors.ResourceConflict):
        lab.client.volumes.create("main", "ops", "second", VolumeType.MANAGED)


def test_grants(lab: Lab) -> None:
    """The user may do everything until it is taken away."""
    from databricks.sdk.service.catalog import PermissionsChange, Privilege, SecurableType

    user = lab.workspace.options.user
    lab.client.grants.update(
        SecurableType.VOLUME, VOLUME, changes=[PermissionsChange(principal="jobs", add=[Privilege.READ_VOLUME])]
    )
    found = lab.client.grants.get(SecurableType.VOLUME, VOLUME).privilege_assignments
    assert {one.principal: one.privileges for one in found} == {
        user: [Privilege.ALL_PRIVILEGES],
        "jobs": [Privilege.READ_VOLUME],
    }
    effective = lab.client.grants.get_effective(SecurableType.VOLUME, VOLUME).privilege_assignments
    assert [one.privileges[0].privilege for one in effective] == [Privilege.ALL_PRIVILEGES, Privilege.READ_VOLUME]


def test_owners_of_catalogs_and_schemas(lab: Lab) -> None:
    """Somebody else, unless a test says who."""
    lab.workspace.owners["schema", "main.bronze"] = "somebody"
    assert lab.client.schemas.get("main.bronze").owner == "somebody"
    assert lab.client.catalogs.get("main").owner not in ("somebody", lab.workspace.options.user)


def test_workspace_files(lab: Lab) -> None:
    """Written into directories that exist, found where a task sees them."""
    from databricks.sdk.service.workspace import ImportFormat

    with pytest.raises(lab.errors.NotFound, match="parent folder"):
        lab.client.workspace.upload("/Users/u/f.py", b"1", format=ImportFormat.AUTO)
    lab.client.workspace.mkdirs("/Users/u")
    lab.client.workspace.upload("/Users/u/f.py", b"1", format=ImportFormat.AUTO)
    content = {"path": "/Workspace/Users/u/f.py", "content": "Mg=="}
    assert lab.ask("POST", "/api/2.0/workspace/import", content)[0] == 400
    assert lab.workspace.path("/Workspace/Users/u/f.py").read_bytes() == b"1"
    assert lab.client.workspace.get_status("/Users/u/f.py").object_type.value == "FILE"
    lab.client.workspace.delete("/Users/u", recursive=True)
    with pytest.raises(lab.errors.NotFound):
        lab.client.workspace.get_status("/Users/u/f.py")


def test_a_volume_has_a_three_part_name(lab: Lab) -> None:
    """Anything else is refused where tests arrange a workspace."""
    with pytest.raises(SettingsError, match="three-part"):
        lab.workspace.make_volume("main.staging")
