"""Which Spark, Python and libraries a cluster of the simulated workspace has, by its `spark_version`.

What belongs here: where a runtime's packages and jars are on this machine, and what it brings by itself. What does not:
which runtimes the project supports in production (`databricks/runtimes.py`), what a task adds to them
(`environments.py`).
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
SERVERLESS = "serverless"
BASE = ("pyspark", "delta-spark", "pandas", "pyarrow", "numpy", "databricks-sdk", "requests", "setuptools")
"""What a runtime brings by itself here; a real one brings some two hundred packages."""
BASE_OF_CONNECT = ("pyspark[connect]", *BASE)
PYTHON_OF_SERVERLESS = {"1": "3.10", "2": "3.11", "3": "3.12", "4": "3.12"}
"""Environment version of serverless compute -> its Python."""


@dataclass(frozen=True)
class Runtime:
    """One set of Python, Spark and Delta.

    Attributes:
        name: the `spark_version` that asks for it.
        python: the minor version that a task on it reports, as "3.11".
        spark: the version of pyspark.
        site_packages: the installed packages that tasks are given copies of.
        jars: Delta's jars.
        base: the packages that every task has.
        setup: the command that installs it.
    """

    name: str
    python: str
    spark: str
    delta: str
    site_packages: Path
    jars: Path
    base: tuple[str, ...] = BASE
    setup: str = "make setup-jvm"

    @property
    def interpreter(self) -> Path:
        """The Python that runs its tasks: the one that its packages were installed for."""
        python = self.site_packages.parents[2] / "bin" / "python"
        if self.site_packages == own_packages() or not python.exists():
            return Path(getattr(sys, "_base_executable", sys.executable)).resolve()
        return python.resolve()

    @property
    def tag(self) -> str:
        """What compiled files are named after."""
        return f"cpython-{self.site_packages.parent.name.removeprefix('python').replace('.', '')}"

    @property
    def connect(self) -> bool:
        """Whether it has a Spark Connect server."""
        places = (self.jars, self.site_packages / "pyspark" / "jars")
        return any(list(place.glob("spark-connect_*.jar")) for place in places)

    def missing(self) -> str | None:
        """What of it is not on this machine, in words; `None`: it is all there."""
        if not (self.site_packages / "pyspark").is_dir():
            return f"pyspark {self.spark} is not in {self.site_packages}"
        if not list(self.jars.glob("delta-spark_*.jar")):
            return f"Delta's jars are not in {self.jars}"
        return None


def own_packages() -> Path:
    """Where the packages of this interpreter are."""
    return Path(sysconfig.get_path("purelib"))


def runtimes() -> Mapping[str, Runtime]:
    """The runtimes that the simulator knows, whether they are installed or not.

    "4.2" is a stand-in: no Databricks Runtime pairs that Spark with that Python; it is what the project itself uses.
    """
    local = REPOSITORY / "infra" / "local"
    oldest, own = local / "runtime-15.4", f"{sys.version_info.major}.{sys.version_info.minor}"
    jars, here = local / "spark-jars" / "jars", own_packages()
    old = Runtime(
        "15.4.x-scala2.12",
        python="3.11",
        spark="3.5.0",
        delta="3.2.0",
        site_packages=oldest / ".venv" / "lib" / "python3.11" / "site-packages",
        jars=oldest / "jars",
        setup="make setup-runtime",
    )
    newest = {
        name: Runtime(
            name, python=own, spark="4.2.0", delta="4.4.0", site_packages=here, jars=jars, base=BASE_OF_CONNECT
        )
        for name in ("4.2", SERVERLESS)
    }
    return {old.name: old, **newest}
