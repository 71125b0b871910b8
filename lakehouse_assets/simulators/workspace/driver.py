"""Runs one task as a Databricks driver does: `spark`, `sc` and `dbutils` are there, then the user's file is executed.

A copy of this file is run by the Python of the task's environment, inside its file tree; so it imports nothing of this
project. What belongs here: what a program finds when it starts on a cluster. What does not: starting Spark (`jvm.py`).
"""

from __future__ import annotations

import builtins
import json
import os
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any, NamedTuple

Task = dict[str, Any]


class Version(NamedTuple):
    """What `sys.version_info` says."""

    major: int
    minor: int
    micro: int
    releaselevel: str
    serial: int


class Late:
    """Stands for something that is made when it is first used: the SDK takes long to import."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.__dict__["_make"] = make

    def __getattr__(self, name: str) -> Any:
        if "_made" not in self.__dict__:
            self.__dict__["_made"] = self.__dict__["_make"]()
        return getattr(self.__dict__["_made"], name)


def end_with(simulator: int) -> None:
    """End this process and its group when the simulator is gone, however it went."""

    def watch() -> None:
        os.read(simulator, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="simulator").start()


def session_of_cluster() -> Any:
    """A session of its own in the cluster's JVM, which `PYSPARK_GATEWAY_PORT` leads to."""
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway
    from pyspark.sql import SparkSession

    gateway = launch_gateway()
    classic = getattr(SparkSession, "_get_j_spark_session_class", lambda jvm: jvm.SparkSession)
    session = classic(gateway.jvm).getDefaultSession().get().newSession()
    java = gateway.jvm.JavaSparkContext(session.sparkContext())
    conf = SparkConf(_jvm=gateway.jvm, _jconf=session.sparkContext().conf())
    context = SparkContext(gateway=gateway, jsc=java, conf=conf)
    context.setJobGroup(os.environ["DB_RUN_ID"], "task", True)
    return SparkSession(context, session)


def session_of_server() -> Any:
    """The session of the Spark Connect server that `SPARK_REMOTE` names; another one would have another id."""
    from pyspark.sql import SparkSession

    session = SparkSession.builder.getOrCreate()
    os.environ["SPARK_REMOTE"] = os.environ["SPARK_REMOTE"].partition("/;")[0]
    return session


def dbutils_of(task: Task) -> Any:
    """The SDK's own `dbutils`, over the workspace's API."""
    from databricks.sdk.core import Config
    from databricks.sdk.dbutils import RemoteDbUtils

    return RemoteDbUtils(Config(host=task["host"], token=task["token"], auth_type="pat"))


def install_runtime(task: Task, names: dict[str, Any]) -> None:
    """What the SDK looks for inside a runtime: how to be somebody there, and the user's names."""
    package, provider = types.ModuleType("dbruntime"), types.ModuleType("dbruntime.sdk_credential_provider")
    package.__path__ = []
    headers = {"Authorization": f"Bearer {task['token']}"}
    provider.init_runtime_native_auth = lambda: (task["host"], lambda: dict(headers))  # type: ignore[attr-defined]

    class UserNamespaceInitializer:
        """Leads to the names that a program finds when it starts."""

        @classmethod
        def getOrCreate(cls) -> UserNamespaceInitializer:  # noqa: N802 - the runtime's name
            """The one of this process."""
            return cls()

        def get_namespace_globals(self) -> dict[str, Any]:
            """The names."""
            return names

    package.UserNamespaceInitializer = UserNamespaceInitializer  # type: ignore[attr-defined]
    sys.modules.update({"dbruntime": package, "dbruntime.sdk_credential_provider": provider})


def names_of(task: Task) -> dict[str, Any]:
    """What a program finds when it starts."""
    names: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}  # no __file__, as on a cluster
    names["dbutils"] = Late(lambda: dbutils_of(task))
    names["display"] = names["displayHTML"] = print
    if task["connect"]:
        names["spark"] = session_of_server()
    else:
        names["spark"] = session_of_cluster()
        names["sc"] = names["spark"].sparkContext
    return names


def report_python(minor: list[int] | None) -> None:
    """Let this Python say that it is another one."""
    if minor and tuple(minor) != sys.version_info[:2]:
        here = ".".join(map(str, sys.version_info[:3]))
        sys.version = sys.version.replace(here, f"{minor[0]}.{minor[1]}.0", 1)
        sys.version_info = Version(minor[0], minor[1], 0, "final", 0)  # type: ignore[assignment]


def run_file(task: Task, names: dict[str, Any]) -> None:
    """Execute a file with these names."""
    sys.argv = [task["name"], *task["arguments"]]
    sys.path[:1] = task["path"]
    module = types.ModuleType("__main__")
    module.__dict__.update(names)
    sys.modules["__main__"] = module
    with open(task["file"], encoding="utf-8") as file:
        code = compile(file.read(), task["name"], "exec")
    exec(code, module.__dict__)


def run_wheel(task: Task, _: dict[str, Any]) -> None:
    """Call an entry point of an installed package, or the function of that name in it; it finds no names."""
    sys.argv = [task["entry_point"], *task["arguments"]]
    sys.path[:1] = []
    points = metadata.distribution(task["package"]).entry_points
    found = next((point for point in points if point.name == task["entry_point"]), None)
    package = task["package"].replace("-", "_")
    call = found.load() if found else getattr(import_module(package), task["entry_point"])
    result = call()
    if isinstance(result, int) and result:
        sys.exit(result)


def main(path: str) -> int:
    """Run the task that a file describes; what it failed with is written beside it."""
    with open(path, encoding="utf-8") as file:
        task = json.load(file)
    os.unlink(path)  # it holds the task's token
    end_with(task["alive"])
    try:
        names = names_of(task)
        install_runtime(task, names)
        report_python(task["python"])
        (run_wheel if "package" in task else run_file)(task, names)
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            return 0
        trace = traceback.format_exc()
        sys.stderr.write(trace)
        with open(task["failure"], "w", encoding="utf-8") as file:
            json.dump({"error": f"{type(error).__name__}: {error}", "error_trace": trace}, file)
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of the task do not keep it
