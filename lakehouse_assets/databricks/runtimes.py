"""The Databricks Runtimes that this project runs on: which Python, Spark and Delta stand together on each.

Steps travel as pickles, which only the same Python minor version reads. What belongs here: the table and its checks.
What does not: asking a workspace what it has, and what a Spark lacks (`lakehouse_assets/sql/spark_versions.py`).
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from lakehouse_assets.errors import SettingsError


@dataclass(frozen=True)
class Runtime:
    """A Databricks Runtime, and the serverless environment that has its Spark client.

    Attributes:
        dbr: its name.
        key: how `spark_version` of a cluster begins; behind it come Scala, Photon, ML.
        python: major and minor version.
        spark: the version of Spark.
        delta: the version of Delta that its release notes name; `None`: they name none that is known here.
        support_ends: the last day of its support.
        environment: the serverless environment version with that Python and that Spark client.
    """

    dbr: str
    key: str
    python: tuple[int, int]
    spark: tuple[int, int, int]
    delta: tuple[int, int, int] | None
    support_ends: dt.date
    environment: str

    @property
    def scala(self) -> str:
        """The version of Scala that `spark_version` ends with."""
        return "2.12" if self.spark < (4, 0, 0) else "2.13"

    @property
    def python_name(self) -> str:
        """Its Python as people write it."""
        return _dotted(self.python)


RUNTIMES = (
    Runtime("15.4 LTS", "15.4.x-", (3, 11), (3, 5, 0), (3, 2, 0), dt.date(2027, 8, 19), "2"),
    Runtime("16.4 LTS", "16.4.x-", (3, 12), (3, 5, 2), (3, 3, 1), dt.date(2028, 5, 9), "3"),
    Runtime("17.3 LTS", "17.3.x-", (3, 12), (4, 0, 0), (4, 0, 0), dt.date(2028, 10, 22), "4"),
    Runtime("18 LTS", "18.x-", (3, 12), (4, 1, 0), None, dt.date(2029, 6, 10), "5"),
)
"""The supported ones, oldest first; `docs/databricks_runtimes.md` shows this table and its sources."""

OLDEST = RUNTIMES[0]
"""What the tests of the oldest runtime run: `make test-runtime`."""


def supported(spark_version: str) -> Runtime:
    """The runtime of a cluster.

    Args:
        spark_version: as the Clusters API spells it: "15.4.x-scala2.12", "16.4.x-photon-scala2.12".

    Raises:
        SettingsError: this project does not run on it; the message names those that it runs on.
    """
    for runtime in RUNTIMES:
        if spark_version.startswith(runtime.key):
            return runtime
    raise SettingsError(
        "this Databricks Runtime is not supported",
        value=spark_version,
        choices=[f"{r.key}scala{r.scala} ({r.dbr}, Python {r.python_name})" for r in RUNTIMES],
        fix="set spark_version to one of these",
    )


def supported_environment(version: str) -> Runtime:
    """The runtime whose Python and Spark client a serverless environment version has.

    Raises:
        SettingsError: this project does not run in it.
    """
    for runtime in RUNTIMES:
        if runtime.environment == version:
            return runtime
    raise SettingsError(
        "this serverless environment version is not supported",
        value=version,
        choices=[f"{r.environment} (Python {r.python_name})" for r in RUNTIMES],
        fix="set environment_version to one of these",
    )


def check_python(runtime: Runtime, here: tuple[int, int] | None = None) -> None:
    """Refuse a runtime whose Python is not the one that launches.

    Args:
        runtime: where a step is to run.
        here: major and minor version of the Python that launches; by default of this process.

    Raises:
        SettingsError: the pickle of a step made here could not be read there.
    """
    here = here or sys.version_info[:2]
    if runtime.python == here:
        return
    fitting = [f"{r.key}scala{r.scala} or environment {r.environment}" for r in RUNTIMES if r.python == here]
    other = f"run this project with Python {runtime.python_name}"
    raise SettingsError(
        f"Databricks Runtime {runtime.dbr} has Python {runtime.python_name} and this is Python {_dotted(here)}: "
        "a step that is made here cannot be read there",
        value=runtime.dbr,
        choices=fitting,
        fix=f"{other}, or choose a runtime with Python {_dotted(here)}" if fitting else other,
    )


def table() -> str:
    """The supported sets as a table of Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "| Databricks Runtime | `spark_version` | Python | Spark | Delta | serverless environment | supported until |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for r in RUNTIMES:
        delta = _dotted(r.delta) if r.delta else "not named"
        yield (
            f"| {r.dbr} | `{r.key}scala{r.scala}` | {r.python_name} | {_dotted(r.spark)} | {delta} "
            f"| {r.environment} | {r.support_ends} |"
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
