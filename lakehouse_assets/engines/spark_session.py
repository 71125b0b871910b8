"""The Spark session of a process: started here with Delta's jars, or taken from the cluster that runs this.

What belongs here: what a session needs, and what its errors amount to. What does not: reading and writing tables.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lakehouse_assets.errors import (
    ConcurrentWriter,
    FeatureRefused,
    FeedExpired,
    LakeError,
    LakehouseError,
    NotRunnable,
    SchemaDrift,
    SettingsError,
    SqlError,
    StoreFailed,
    TypeRefused,
)
from lakehouse_assets.lake import log

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

REPOSITORY_JARS = Path(__file__).parents[2] / "infra" / "local" / "spark-jars" / "jars"
"""Where `make setup-jvm` puts the jars."""
_LOG4J = Path(__file__).with_name("spark-log4j2.properties")
_JAVA = f"-Dlog4j2.configurationFile={_LOG4J} -Duser.timezone=UTC"
_OPTIONS = "spark.driver.extraJavaOptions"
_lock = threading.RLock()

OF_A_SESSION: Mapping[str, str] = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.caseSensitive": "false",
    "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
    "spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED",
    "spark.sql.parquet.int96RebaseModeInRead": "CORRECTED",
    "spark.sql.parquet.int96RebaseModeInWrite": "CORRECTED",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.legacy.timeParserPolicy": "CORRECTED",
    "spark.sql.sources.partitionOverwriteMode": "static",
    "spark.databricks.delta.schema.autoMerge.enabled": "false",
    "spark.databricks.delta.formatCheck.enabled": "false",
}
"""What every session is told, wherever it runs: the dialect's answers rest on it."""


@dataclass(frozen=True)
class Local:
    """How a session of this machine is started.

    Attributes:
        memory: of the JVM, in Spark's spelling ("2g").
        threads: 0: one a core.
        jars: the directory with Delta's jars.
        more: further settings of Spark, over those of this module.
    """

    memory: str = "2g"
    threads: int = 0
    jars: Path = REPOSITORY_JARS
    temp_directory: str | None = None
    more: Mapping[str, str] = field(default_factory=dict)


def open_session(local: Local) -> SparkSession:
    """The session of this process: the cluster's where there is one, else one that is started here.

    Raises:
        NotRunnable: pyspark, Java or the jars are missing; the message says how to get them.
    """
    with _lock:
        require(local.jars)
        from pyspark.sql import SparkSession

        builder = SparkSession.builder
        with _faults_of_start(), _quiet_start():
            session = (builder if is_given() else _configured(builder, local)).getOrCreate()
        tell(session, OF_A_SESSION)
        return session


def tell(session: SparkSession, settings: Mapping[str, str]) -> None:
    """Set what a session is to work with; serverless compute takes few settings, and has the others as it is.

    Raises:
        NotRunnable: the session keeps a setting for itself, with another value.
    """
    for name, value in settings.items():
        try:
            session.conf.set(name, value)
        except Exception as error:
            if not _WITHHELD.search(str(error)):
                raise
            if (kept := _kept(session, name)) not in (value, None):
                raise NotRunnable(
                    f"the Spark session keeps {name} at {kept!r}, and the answers need {value!r}",
                    fix="run it on a job cluster or an existing cluster, where the setting can be made",
                ) from error


_WITHHELD = re.compile(r"CONFIG_NOT_AVAILABLE|CANNOT_MODIFY(_STATIC)?_CONFIG|not available\b.*config", re.IGNORECASE)


def _kept(session: SparkSession, name: str) -> str | None:
    """What a session has a setting at; `None` if it does not say."""
    try:
        return session.conf.get(name)
    except Exception as error:
        if not _WITHHELD.search(str(error)):
            raise
        return None


def is_given() -> bool:
    """Whether a session, or the way to one, was given to this process: a cluster, Spark Connect, an open session."""
    if {"DATABRICKS_RUNTIME_VERSION", "SPARK_REMOTE", "SPARK_CONNECT_MODE_ENABLED"} & os.environ.keys():
        return True
    sql = sys.modules.get("pyspark.sql")
    return sql is not None and sql.SparkSession.getActiveSession() is not None


def missing(jars: Path = REPOSITORY_JARS) -> list[str]:
    """What a session lacks on this machine, in words; nothing where it runs on a cluster."""
    if importlib.util.find_spec("pyspark") is None:
        return ["the package pyspark is not installed"]
    if is_given():
        return []
    faults = [] if java() else ["there is no Java: neither JAVA_HOME nor PATH has one (17 or newer is needed)"]
    if not list(jars.glob("delta-spark_*.jar")):
        faults.append(f"Delta's jars are not in {jars}")
    return faults


def require(jars: Path) -> None:
    """Raise `NotRunnable` if a session lacks something on this machine."""
    if faults := missing(jars):
        own = jars == REPOSITORY_JARS
        fix = "make setup-jvm" if own else "make setup-jvm, and unset LAKEHOUSE_SPARK_JARS or point it at the jars"
        raise NotRunnable(f"the Spark engine cannot start: {'; '.join(faults)}", fix=fix)


def java() -> str | None:
    """The path of Java; `None` if there is none."""
    home = os.environ.get("JAVA_HOME")
    if home and (found := Path(home) / "bin" / "java").exists():
        return str(found)
    return shutil.which("java")


def configuration(local: Local) -> dict[str, str]:
    """The settings of a session that is started here."""
    temp, more = local.temp_directory or tempfile.gettempdir(), dict(local.more)
    return {
        **OF_A_SESSION,
        "spark.jars": ",".join(sorted(map(str, local.jars.glob("*.jar")))),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": local.memory,
        _OPTIONS: f"{_JAVA} {more.pop(_OPTIONS, '')}",
        "spark.local.dir": temp,
        "spark.sql.warehouse.dir": f"{temp}/lakehouse-warehouse",
        "spark.sql.shuffle.partitions": str(local.threads or os.cpu_count() or 2),
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": "4",
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.ui.enabled": "false",
        "spark.ui.retainedJobs": "10",
        "spark.ui.retainedStages": "10",
        "spark.sql.ui.retainedExecutions": "10",
        "spark.ui.showConsoleProgress": "false",
        **more,
    }


def _configured(builder: SparkSession.Builder, local: Local) -> SparkSession.Builder:
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")  # read by the launcher; a host's name may lead elsewhere
    builder = builder.master(f"local[{local.threads or '*'}]").appName("lakehouse")
    for name, value in configuration(local).items():
        builder = builder.config(name, value)
    return builder


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Let the JVM that is started here write to stderr: stdout is for data, and the JVM would say things on it."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def _faults_of_start() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise NotRunnable(f"the Spark session did not start: {_line(error)}", fix="lakehouse doctor") from error


@contextmanager
def told(spark: SparkSession, settings: Mapping[str, str]) -> Iterator[None]:
    """Tell a session what only it can pass on to a command, for one command of one thread."""
    with _telling:
        with spark_faults("a setting of the session"):
            for name, value in settings.items():
                spark.conf.set(name, value)
        try:
            yield
        finally:
            for name in settings:
                spark.conf.unset(name)


_telling = threading.RLock()


@contextmanager
def spark_faults(what: str, uri: str = "") -> Iterator[None]:
    """Turn errors of Spark into ours; this is the one seam where they are known.

    Args:
        what: the query or the path that Spark works on, for the message.
        uri: the table that is written or read, if it is one.
    """
    try:
        yield
    except LakehouseError:
        raise
    except Exception as error:
        if (fault := spark_fault(error, what, uri)) is None:
            raise
        raise fault from error


def spark_fault(error: Exception, what: str, uri: str = "") -> LakehouseError | None:
    """The error of ours that one of Spark amounts to; `None` if it is none of Spark's."""
    if not type(error).__module__.startswith(("pyspark", "py4j", "grpc")):
        return None
    text, line = str(error), _line(error)
    for found, make in _FAULTS:
        if found.search(text):
            return make(uri or what, line)
    if type(error).__name__ in _OF_QUERIES or _QUERY.search(text):
        return SqlError(f"the query failed: {line}", value=what[:500], fix="mend the expression")
    return LakeError(f"Spark failed on {uri or what[:200]}: {line}", fix="run it with lakehouse --debug to see where")


def _line(error: Exception) -> str:
    """What an error says, without the trace of Java."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("\tat ")]
    said = [line for line in lines if not _NOISE.match(line)] or lines
    return " ".join(said[:3])[:400] or type(error).__name__


_NOISE = re.compile(
    r"^(An error occurred while calling|: org\.apache\.spark\.SparkException: Job aborted|JVM stacktrace)"
)
_OF_QUERIES = frozenset(
    {
        "AnalysisException", "ParseException", "NumberFormatException", "ArithmeticException", "DateTimeException",
        "IllegalArgumentException", "UnsupportedOperationException",
        "SparkUpgradeException", "ArrayIndexOutOfBoundsException",
    }
)  # fmt: skip
_QUERY = re.compile(r"CAST_INVALID_INPUT|CAST_OVERFLOW|DIVIDE_BY_ZERO|ARITHMETIC_OVERFLOW|NUMERIC_VALUE_OUT_OF_RANGE|"
                    r"INVALID_ARRAY_INDEX|SCALAR_SUBQUERY_TOO_MANY_ROWS|CANNOT_PARSE_TIMESTAMP|UNRESOLVED_|"
                    r"USER_RAISED_EXCEPTION|CANNOT_PARSE_|INVALID_PARAMETER_VALUE|DATETIME_OVERFLOW|"
                    r"INVALID_UTF8_STRING")  # fmt: skip
_FAULTS = (
    (
        re.compile(r"CONFIG_NOT_AVAILABLE"),
        lambda _, line: NotRunnable(
            f"this compute does not take a setting that the write needs to be exact: {line}",
            fix="run the table on a job cluster or an existing cluster",
        ),
    ),
    (
        re.compile(r"DELTA_CONCURRENT_|Concurrent(Append|Delete|Modification|Transaction|Write)|MetadataChangedException|"
                   r"ProtocolChangedException|DELTA_METADATA_CHANGED|DELTA_PROTOCOL_CHANGED"),
        lambda uri, line: ConcurrentWriter(
            f"another process committed to {uri} first; nothing of this write was kept ({line})",
            fix="run again: the same batch is taken up from its plan",
        ),
    ),
    (
        re.compile(r"lakehouse: empty partition text"),
        lambda uri, _: TypeRefused(
            f"a partition column of {uri} holds an empty string, which Delta reads back as NULL",
            fix="give it another text, or NULL: nullif(column, '')",
        ),
    ),
    (
        re.compile(r"NOT_NULL_(CONSTRAINT|COLUMN)|NOT_NULL_ASSERT|DELTA_NOT_NULL"),
        lambda uri, line: SchemaDrift(
            f"the rows for {uri} hold NULL in a column that is NOT NULL there ({line})",
            fix="filter these rows out, or make the column nullable",
        ),
    ),
    (
        re.compile(r"DELTA_UNSUPPORTED_FEATURES|DELTA_FEATURES_|DELTA_INVALID_PROTOCOL|DELTA_CANNOT_MODIFY_APPEND_ONLY|"
                   r"DELTA_UNKNOWN_CONFIGURATION|Cannot do Hilbert clustering"),
        lambda uri, line: FeatureRefused(
            f"the table at {uri} asks for what this Spark lacks: {line}", fix="use a newer Delta, or rewrite the table"
        ),
    ),
    (
        re.compile(r"FileNotFoundException|FAILED_READ_FILE\.FILE_NOT_EXIST|PATH_NOT_FOUND|DELTA_CHANGE_DATA_FILE_NOT_FOUND|"
                   r"DELTA_FILE_NOT_FOUND|VersionNotFound|DELTA_VERSION_NOT_CONTIGUOUS"),
        lambda uri, line: FeedExpired(f"a file of {uri} was vacuumed before it was read: {line}", fix=log.REBUILD),
    ),
    (
        re.compile(r"No space left|OutOfMemoryError|Java heap space"),
        lambda uri, line: StoreFailed(
            f"Spark ran out of memory or disk on {uri}: {line}",
            fix="raise LAKEHOUSE_MEMORY_LIMIT or free space in LAKEHOUSE_TEMP_DIRECTORY, and run again",
        ),
    ),
    (
        re.compile(r"Connection (refused|reset)|SocketTimeout|Py4JNetworkError|Answer from Java|UNAVAILABLE"),
        lambda _, line: StoreFailed(f"Spark or its store did not answer: {line}", fix="run again"),
    ),
)  # fmt: skip


def jvm_memory(limit: str) -> str:
    """A memory limit in the JVM's spelling: "2GB" is "2048m".

    Raises:
        SettingsError: it is none.
    """
    units = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    if not (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)I?B?", limit, re.IGNORECASE)):
        raise SettingsError("LAKEHOUSE_MEMORY_LIMIT is not legal", value=limit, fix="give it as 2GB or 500MB")
    return f"{max(512, int(float(match[1]) * units[match[2].upper()]) >> 20)}m"
