"""What is sent to a cluster: opened, compared, and run through its own checks."""

from __future__ import annotations

import hashlib
import io
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import lakehouse_assets
from lakehouse_assets.databricks import package, step_main
from lakehouse_assets.entities.catalog import load_catalog
from lakehouse_assets.settings import PACKAGED_CATALOG

SECRET = """
delta_live_store:
  - entity_id: things
    source: things.csv
    source_format: csv
    destination: bronze.things
    read_options: {header: "true"}
    comment: ${secret:TOKEN} stays as it is written
"""


@pytest.fixture
def opened() -> zipfile.ZipFile:
    """The archive of the packaged catalog."""
    return zipfile.ZipFile(io.BytesIO(package.build(load_catalog(PACKAGED_CATALOG, {})).data))


def test_the_archive_holds_the_package_and_the_catalog(opened: zipfile.ZipFile) -> None:
    """Every module of the package, and every file of the catalog, byte for byte."""
    root = Path(lakehouse_assets.__file__).parent
    modules = {f"lakehouse_assets/{path.relative_to(root).as_posix()}" for path in root.rglob("*.py")}
    assert modules <= set(opened.namelist())
    for path in PACKAGED_CATALOG.rglob("*.*"):
        if path.suffix in (".yaml", ".sql"):
            inside = f"{step_main.CATALOG}/{path.relative_to(PACKAGED_CATALOG).as_posix()}"
            assert opened.read(inside) == path.read_bytes()


def test_the_archive_holds_nothing_else(opened: zipfile.ZipFile) -> None:
    """No environment, repository, tests, data or compiled files travel."""
    tops = {name.split("/")[0] for name in opened.namelist()}
    assert tops == {step_main.PACKAGE, step_main.CATALOG}
    assert not [name for name in opened.namelist() if "__pycache__" in name or name.endswith((".pyc", ".db", ".jar"))]


def test_the_same_files_give_the_same_bytes() -> None:
    """The hash is of the content, not of the hour."""
    catalog = load_catalog(PACKAGED_CATALOG, {})
    assert package.build(catalog) == package.build(catalog)


def test_references_to_secrets_travel_as_references(tmp_path: Path) -> None:
    """Design §7.9: the snapshot holds the catalog as written."""
    (tmp_path / "things.yaml").write_text(SECRET)
    built = package.build(load_catalog(tmp_path, {"TOKEN": "hunter2"}))
    text = zipfile.ZipFile(io.BytesIO(built.data)).read(f"{step_main.CATALOG}/things.yaml").decode()
    assert "${secret:TOKEN}" in text
    assert b"hunter2" not in built.data


def test_a_wheel_leaves_the_package_out() -> None:
    """Where the package is installed from its wheel, only the catalog travels."""
    built = package.build(load_catalog(PACKAGED_CATALOG, {}), with_code=False)
    assert all(name.startswith(step_main.CATALOG) for name in zipfile.ZipFile(io.BytesIO(built.data)).namelist())


def test_an_archive_that_was_changed_is_refused() -> None:
    """The step does not begin with code that is not what was sent."""
    built = package.build(load_catalog(PACKAGED_CATALOG, {}))
    job = {"code_sha256": built.sha256}
    with pytest.raises(step_main.Refused, match="is not what was sent"):
        step_main.unpacked(job, built.data + b"x")
    where = step_main.unpacked(job, built.data)
    assert step_main.tree_hash(where / step_main.PACKAGE) == built.package_sha256


def test_another_package_is_refused() -> None:
    """A wheel that was built from other sources is told from the package that launched the step."""
    with pytest.raises(step_main.Refused, match="is not the one that launched the step"):
        step_main.check_package({"package_sha256": hashlib.sha256(b"other").hexdigest()})


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (
            {"python": "3.12", "dagster": version("dagster")},
            r"packed by Python 3.12, and this cluster runs Python 3.11",
        ),
        ({"python": "3.11", "dagster": "1.0.0"}, r"packed by dagster 1.0.0, and this cluster has"),
    ],
)
def test_what_could_not_be_unpickled_is_refused(job: dict[str, str], said: str) -> None:
    """Another Python or Dagster is told before anything is read."""
    with pytest.raises(step_main.Refused, match=said):
        step_main.check_versions(job)


def test_the_catalogs_hash_follows_its_files(tmp_path: Path) -> None:
    """An edited catalog has another hash; environment values do not count."""
    (tmp_path / "things.yaml").write_text(SECRET)
    before = package.catalog_hash(load_catalog(tmp_path, {"A": "1"}))
    assert before == package.catalog_hash(load_catalog(tmp_path, {"A": "2"}))
    (tmp_path / "things.yaml").write_text(SECRET + "\n# seen\n")
    assert before != package.catalog_hash(load_catalog(tmp_path, {}))


def test_libraries_are_pinned_to_what_is_installed() -> None:
    """What the definitions import, at the versions of this process; no web server, no Spark over the cluster's."""
    pins = dict(pin.split("==") for pin in package.libraries())
    assert pins["dagster"] == version("dagster")
    assert pins["deltalake"] == version("deltalake")
    assert {"pyspark", "dagster-webserver", "dagster-databricks", "dagster-pyspark"}.isdisjoint(pins)


def test_extras_bring_their_libraries() -> None:
    """A lake on S3 needs what reaches S3."""
    names = {pin.split("==")[0] for pin in package.libraries(["aws"])}
    assert names - {pin.split("==")[0] for pin in package.libraries()} == {"boto3", "fsspec"}
