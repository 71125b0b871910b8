"""Which Databricks Runtimes are supported, and what is said about the others."""

from __future__ import annotations

import re
import sys

import pytest

from lakehouse_assets.databricks.runtimes import (
    OLDEST,
    RUNTIMES,
    check_python,
    supported,
    supported_environment,
    table,
)
from lakehouse_assets.errors import SettingsError
from lakehouse_assets_tests.conftest import ROOT


@pytest.mark.parametrize(
    ("spark_version", "dbr"),
    [
        ("15.4.x-scala2.12", "15.4 LTS"),
        ("15.4.x-photon-scala2.12", "15.4 LTS"),
        ("16.4.x-cpu-ml-scala2.12", "16.4 LTS"),
        ("17.3.x-scala2.13", "17.3 LTS"),
        ("18.x-scala2.13", "18 LTS"),
    ],
)
def test_a_supported_runtime_is_found(spark_version: str, dbr: str) -> None:
    """A cluster's `spark_version` names its runtime, whatever stands behind the number."""
    assert supported(spark_version).dbr == dbr


@pytest.mark.parametrize(
    "spark_version", ["14.3.x-scala2.12", "15.41.x-scala2.12", "18.1.x-scala2.13", "19.x-scala2.13", "", "auto"]
)
def test_another_runtime_is_refused(spark_version: str) -> None:
    """A runtime that is not in the table is refused; the message names those that are."""
    with pytest.raises(SettingsError) as caught:
        supported(spark_version)
    assert [choice.split(" ")[0] for choice in caught.value.choices] == [f"{r.key}scala{r.scala}" for r in RUNTIMES]
    assert caught.value.value == spark_version


def test_a_serverless_environment_is_found_or_refused() -> None:
    """Each runtime has the environment version with its Python; 1 has Python 3.10 and is refused."""
    assert [supported_environment(r.environment) for r in RUNTIMES] == list(RUNTIMES)
    with pytest.raises(SettingsError, match=r"(?s)'1'.*2 \(Python 3\.11\), 3 \(Python 3\.12\)"):
        supported_environment("1")


def test_another_python_is_refused() -> None:
    """A pickle made by one minor version is not read by another: the message names the runtimes that fit."""
    for runtime in RUNTIMES:
        check_python(runtime, runtime.python)
    with pytest.raises(
        SettingsError, match=r"(?s)17\.3 LTS has Python 3\.12 and this is Python 3\.11.*15\.4\.x-scala2\.12"
    ):
        check_python(supported("17.3.x-scala2.13"), (3, 11))
    with pytest.raises(SettingsError, match=r"next: run this project with Python 3\.11$"):
        check_python(OLDEST, (3, 10))


def test_the_python_of_this_process_is_the_default() -> None:
    """Without being told, it is this process that launches."""
    for runtime in RUNTIMES:
        if runtime.python == sys.version_info[:2]:
            check_python(runtime)
        else:
            with pytest.raises(SettingsError):
                check_python(runtime)


def test_every_python_of_the_project_has_a_runtime() -> None:
    """`requires-python` admits no Python without a runtime, and no runtime has another."""
    asked = re.search(
        r'^requires-python = ">=3\.(\d+),<3\.(\d+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    assert asked
    assert {r.python for r in RUNTIMES} == {(3, minor) for minor in range(int(asked[1]), int(asked[2]))}


def test_the_page_shows_the_table() -> None:
    """`docs/databricks_runtimes.md` is what the code goes by."""
    assert table() in (ROOT / "docs" / "databricks_runtimes.md").read_text("utf-8")


LOCKS = {
    "lock": ROOT / "requirements.lock",
    "newest": ROOT / "infra" / "local" / "spark-jars" / "requirements.lock",
    "oldest": ROOT / "infra" / "local" / "runtime-15.4" / "requirements.lock",
}


def locked(name: str) -> dict[str, str]:
    """Package -> version of a lock file."""
    return dict(line.split("==") for line in LOCKS[name].read_text().splitlines() if "==" in line and line[0] != " ")


def test_the_oldest_runtime_is_what_is_tested() -> None:
    """Its environment has its Spark and its Delta, and Delta's jars have the same version."""
    oldest = locked("oldest")
    assert oldest["pyspark"] == ".".join(map(str, OLDEST.spark))
    assert oldest["delta-spark"] == ".".join(map(str, OLDEST.delta or ()))
    assert f"<delta.version>{oldest['delta-spark']}<" in LOCKS["oldest"].with_name("pom.xml").read_text()


def test_the_environments_differ_in_spark_alone() -> None:
    """The project's own packages have one version, NumPy and pandas too: what is tested there is what is shipped."""
    oldest, newest = locked("oldest"), locked("newest")
    for name, version in {**locked("lock"), "numpy": newest["numpy"], "pandas": newest["pandas"]}.items():
        assert oldest.get(name, version) == version, name
    assert {name for name in ("pyspark", "delta-spark") if oldest[name] == newest[name]} == set()
