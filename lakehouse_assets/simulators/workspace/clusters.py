"""Clusters of the simulated workspace: each a JVM of its own, started when a task needs it.

What belongs here: what a cluster is asked to be and whether this simulator can be it, its libraries, its Spark. What
does not: tasks (`tasks.py`), which runtimes there are (`runtimes.py`), what a library is (`libraries.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse_assets.simulators.workspace.api import bad
from lakehouse_assets.simulators.workspace.libraries import name_of
from lakehouse_assets.simulators.workspace.processes import SYSTEM_PATH, TOPS
from lakehouse_assets.simulators.workspace.runtimes import SERVERLESS, Runtime

if TYPE_CHECKING:
    from lakehouse_assets.simulators.workspace.server import Workspace

STANDARD = ("USER_ISOLATION", "DATA_SECURITY_MODE_STANDARD")
"""The names of standard access mode: Spark Connect, no `sc`, no /dbfs."""
MODES = (
    *STANDARD, "SINGLE_USER", "DATA_SECURITY_MODE_DEDICATED", "DATA_SECURITY_MODE_AUTO", "NONE", "LEGACY_SINGLE_USER",
    "LEGACY_SINGLE_USER_STANDARD",
)  # fmt: skip
USER = "task"
"""Whose sessions those of Spark Connect are, as `jvm.py` has it."""
START_SECONDS = 120.0
_SECRET = re.compile(r"\{\{secrets/([^/}]+)/([^/}]+)\}\}")


class StartFailed(Exception):
    """The cluster's Spark did not start: what the run says then."""


@dataclass
class Cluster:
    """Something that tasks run on.

    Attributes:
        spec: what was asked for.
        source: who made it: JOB, UI or API.
        libraries: what was installed on it so far.
        state: TERMINATED, PENDING or RUNNING.
        retired: whether it never starts again, as a job cluster whose run has ended.
    """

    workspace: Workspace
    cluster_id: str
    runtime: Runtime
    spec: Mapping[str, Any]
    source: str = "UI"
    state: str = "TERMINATED"
    reason: str = ""
    libraries: list[Mapping[str, Any]] = field(default_factory=list)
    retired: bool = False
    _process: subprocess.Popen[bytes] | None = None
    _where: Mapping[str, Any] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def serverless(self) -> bool:
        """Whether it is the workspace's serverless compute."""
        return self.cluster_id == SERVERLESS

    @property
    def connect(self) -> bool:
        """Whether its tasks speak Spark Connect."""
        return self.serverless or self.spec.get("data_security_mode") in STANDARD

    @property
    def tops(self) -> Sequence[str]:
        """Which of the workspace's directories its tasks see."""
        return TOPS if self.workspace.options.dbfs and not self.connect else TOPS[1:]

    @property
    def directory(self) -> Path:
        """Where its Spark works and logs."""
        return self.workspace.directory / "clusters" / self.cluster_id

    def describe(self) -> dict[str, Any]:
        """As `clusters/get` says it."""
        reason = {"code": self.reason, "type": "CLOUD_FAILURE"} if self.reason else None
        return {
            "data_security_mode": "SINGLE_USER",
            **self.spec,
            "cluster_id": self.cluster_id,
            "state": self.state,
            "cluster_source": self.source,
            "creator_user_name": self.workspace.options.user,
            **({"termination_reason": reason} if reason else {}),
        }

    def install(self, libraries: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Add libraries, and give all that it has: what comes later replaces another version of it."""
        with self._lock:
            named = {name_of(library): library for library in (*self.libraries, *libraries)}
            self.libraries = list(named.values())
            return self.libraries

    def environment(self, session: str = "") -> dict[str, str]:
        """The variables that lead a task to this Spark, which is started if it does not run.

        Args:
            session: an id for the task's session, as Spark Connect wants it.

        Raises:
            StartFailed: it does not start.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
        if "remote" in self._where:
            return {"SPARK_REMOTE": f"{self._where['remote']}/;user_id={USER};session_id={session}"}
        return {"PYSPARK_GATEWAY_PORT": str(self._where["port"]), "PYSPARK_GATEWAY_SECRET": self._where["secret"]}

    def _start(self) -> None:
        self.state, self.reason = "PENDING", ""
        python = self.workspace.environments.make(self.runtime, self.runtime.python, (), ())
        scratch = self.directory / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        ready, spec = self.directory / "ready.json", self.directory / "spec.json"
        ready.unlink(missing_ok=True)
        processes = self.workspace.processes
        said = {"conf": self._conf(), "connect": self.connect, "ready": str(ready), "alive": processes.alive}
        write_private(spec, said)
        variables = {**base_environment(python, self.directory), **self.variables()}
        command = [str(python), str(processes.scripts / "jvm.py"), str(spec)]
        process = self._process = processes.start(command, variables, self.directory, talk=True)
        if self.retired:
            self.stop()
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise StartFailed(f"Spark did not start:\n{tail(self.directory / 'stderr', 1500)}")
            time.sleep(0.02)
        self._where = json.loads(ready.read_text())
        self.state = "RUNNING"

    def variables(self) -> dict[str, str]:
        """The cluster's `spark_env_vars`, secrets resolved."""
        return self.workspace.resolved(self.spec.get("spark_env_vars") or {})

    def _conf(self) -> dict[str, str]:
        log = (self.spec.get("cluster_log_conf") or {}).values()
        destination = next((str(place.get("destination")) for place in log), "")
        usage = {
            "clusterId": self.cluster_id,
            "clusterName": str(self.spec.get("cluster_name") or self.cluster_id),
            "sparkVersion": self.runtime.name,
            "clusterLogDeliveryEnabled": str(bool(destination)).lower(),
            "clusterLogDestination": destination,
        }
        given = self.workspace.resolved(self.spec.get("spark_conf") or {})
        jars = self.workspace.environments.jars(self.runtime)
        conf = configuration(self.workspace.directory, self.directory / "tmp", jars)
        if self.connect:
            conf["spark.plugins"] = "org.apache.spark.sql.connect.SparkConnectPlugin"
            conf["spark.connect.grpc.binding.port"] = "0"
            conf["spark.connect.grpc.binding.address"] = "127.0.0.1"
        usage = {f"spark.databricks.clusterUsageTags.{name}": value for name, value in usage.items()}
        return {**conf, **usage, **given}

    def forget(self, group: str) -> None:
        """Stop what the Spark still does for a task that has ended: its job group, or its session."""
        process = self._process
        if process and process.stdin:
            with contextlib.suppress(OSError):
                process.stdin.write(f"{group}\n".encode())
                process.stdin.flush()

    def retire(self) -> None:
        """End its Spark for good, even if it is just being started."""
        self.retired = True
        self.stop(self.reason)

    def stop(self, reason: str = "") -> None:
        """End its Spark, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            self.workspace.processes.end(process, kill=True)
            shutil.rmtree(self.directory / "tmp", ignore_errors=True)  # a JVM that is killed leaves much
        self.state, self.reason = "TERMINATED", reason


def configuration(root: Path, scratch: Path, jars: Path) -> dict[str, str]:
    """The settings of a cluster's Spark: `dbfs:/x`, and every path without a scheme, is in the workspace at `root`."""
    link = "spark.hadoop.fs.viewfs.mounttable.default.link"
    return {
        "spark.master": "local[2]",
        "spark.app.name": "Databricks Shell",
        "spark.driver.memory": "1g",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraClassPath": f"{jars}/*",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Duser.timezone=UTC",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.delta.logStore.dbfs.impl": "io.delta.storage.LocalLogStore",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": "4",
        "spark.sql.warehouse.dir": "dbfs:/user/hive/warehouse",
        "spark.local.dir": str(scratch),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.hadoop.fs.defaultFS": "dbfs:///",
        "spark.hadoop.fs.dbfs.impl": "org.apache.hadoop.fs.viewfs.ViewFileSystemOverloadScheme",
        "spark.hadoop.fs.viewfs.overload.scheme.target.dbfs.impl": "org.apache.hadoop.fs.LocalFileSystem",
        f"{link}Fallback": f"file://{root}/dbfs",
        f"{link}./Volumes": f"file://{root}/Volumes",
        f"{link}./Workspace": f"file://{root}/Workspace",
    }


def base_environment(python: Path, directory: Path) -> dict[str, str]:
    """The variables that every process of a cluster has; nothing of the developer's shell but where Java is."""
    java = {name: os.environ[name] for name in ("JAVA_HOME",) if name in os.environ}
    return {
        "PATH": f"{python.parent}:{SYSTEM_PATH}",
        "HOME": str(directory),
        "TMPDIR": str(directory / "tmp"),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONUNBUFFERED": "1",
        "PYSPARK_PYTHON": str(python),
        "PYSPARK_DRIVER_PYTHON": str(python),
        "SPARK_LOCAL_IP": "127.0.0.1",
        **java,
    }


class Clusters:
    """All clusters of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._clusters: dict[str, Cluster] = {}

    def create(self, spec: Mapping[str, Any], source: str) -> Cluster:
        """A cluster as it is asked for; its Spark starts with its first task.

        Raises:
            ApiError: a field is missing or wrong, or the simulator cannot be such a cluster.
        """
        self._check(spec)
        cluster_id = f"{time.strftime('%m%d-%H%M%S', time.gmtime())}-sim{self._workspace.next_id()}"
        runtime = self.runtime(str(spec["spark_version"]))
        cluster = Cluster(self._workspace, cluster_id, runtime, dict(spec), source)
        if cluster.connect and not runtime.connect:
            raise bad(f"standard access mode needs Spark Connect, which the simulator's {runtime.name} lacks")
        self._clusters[cluster_id] = cluster
        return cluster

    def _check(self, spec: Mapping[str, Any]) -> None:
        for fields in (("spark_version",), ("node_type_id", "instance_pool_id"), ("num_workers", "autoscale")):
            if not any(spec.get(name) is not None for name in fields):
                raise bad(f"Missing required field: {' or '.join(fields)}")
        if (mode := spec.get("data_security_mode")) and mode not in MODES:
            raise bad(f"data_security_mode {mode!r} is not one of {', '.join(MODES)}")
        for name in ("spark_conf", "spark_env_vars"):
            for key, value in (spec.get(name) or {}).items():
                if not isinstance(value, str):
                    raise bad(f"{name}: the value of {key} must be a string, not {value!r}")
        if (policy := spec.get("policy_id")) and policy not in self._workspace.policies:
            raise bad(f"Cluster policy {policy} does not exist")

    def runtime(self, name: str) -> Runtime:
        """The runtime that a `spark_version` names.

        Raises:
            ApiError: there is none of that name, or it is not installed.
        """
        known = self._workspace.options.runtimes
        if name == SERVERLESS or name not in known:
            names = ", ".join(sorted(one for one in known if one != SERVERLESS))
            raise bad(f"Invalid spark version {name}. The simulator has: {names}")
        return self._installed(known[name])

    def _installed(self, runtime: Runtime) -> Runtime:
        if lacking := runtime.missing():
            raise bad(f"The simulator's runtime {runtime.name} is not installed: {lacking}. Run: {runtime.setup}")
        return runtime

    def serverless(self) -> Cluster:
        """The workspace's serverless compute."""
        if SERVERLESS not in self._clusters:
            if SERVERLESS not in self._workspace.options.runtimes:
                raise bad("Serverless compute is not enabled for this workspace.")
            runtime = self._installed(self._workspace.options.runtimes[SERVERLESS])
            self._clusters.setdefault(SERVERLESS, Cluster(self._workspace, SERVERLESS, runtime, {}, "SERVERLESS"))
        return self._clusters[SERVERLESS]

    def get(self, cluster_id: str) -> Cluster:
        """A cluster by its id."""
        if cluster_id not in self._clusters or cluster_id == SERVERLESS:
            raise bad(f"Cluster {cluster_id} does not exist")
        return self._clusters[cluster_id]

    def all(self) -> list[Cluster]:
        """Every cluster but the serverless one."""
        return [cluster for name, cluster in list(self._clusters.items()) if name != SERVERLESS]

    def close(self) -> None:
        """End every Spark."""
        for cluster in list(self._clusters.values()):
            cluster.stop()


def write_private(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(json.dumps(content))


def tail(path: Path, size: int = 4000) -> str:
    """The end of a log."""
    return path.read_bytes()[-size:].decode("utf-8", "replace") if path.exists() else ""


def resolve(text: str, secret: Any) -> str:
    """A text with its references to secrets replaced; `secret(scope, key)` gives bytes."""
    return _SECRET.sub(lambda match: secret(match[1], match[2]).decode(), text)
